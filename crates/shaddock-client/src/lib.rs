//! A client for servers that speak the protocol of Pomelo: shaddock, Pomelo and Pinus, and in the other dialect Pitaya and nano.
//!
//! ```no_run
//! use serde_json::{Value, json};
//! use shaddock_client::{Client, RequestError};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::connect("ws://127.0.0.1:3050").await?;
//!
//!     client.on("onChat", |push| async move {
//!         println!("{}", String::from_utf8_lossy(push.body()));
//!     });
//!
//!     let enter = json!({"username": "ann", "rid": "lobby"});
//!     match client.request::<_, Value>("connector.entryHandler.enter", &enter).await {
//!         Ok(answer) => println!("here are: {}", answer["users"]),
//!         Err(RequestError::Server(error)) => println!("the server says {}", error.code()),
//!         Err(error) => return Err(error.into()),
//!     }
//!
//!     let hello = json!({"rid": "lobby", "content": "hello", "from": "ann", "target": "*"});
//!     client.notify("chat.chatHandler.send", &hello).await?;
//!
//!     println!("{}", client.closed().await);
//!     Ok(())
//! }
//! ```
//!
//! # What it does
//!
//! - TCP and WebSocket, both also with TLS: the scheme of the address decides.
//! - The handshake with route dictionary and protobuf schemas of the server, which may be [cached](HandshakeCache). You see JSON, whatever
//!   is on the wire.
//! - Heartbeats as the shipped clients send them, and a verdict when the server falls silent.
//! - [Signed](SigningKey) messages, compressed ones, and the errors of both dialects ([`ServerError`]).
//! - One reason why a connection ended ([`CloseKind`]), the same for everybody who waits.
//!
//! - If asked to ([`ClientBuilder::resume`]), it comes back to the same session after its connection was lost, with nothing lost, twice or
//!   out of order. The server must offer that, as shaddock does.
//!
//! Otherwise it does not connect again by itself: what has to be said after a reconnect is the application's.
//! [`CloseKind::may_reconnect`] says whether to try.
//!
//! # What a server can do to it
//!
//! Everything that comes is checked and bounded. A server that sends nonsense gets its connection closed with
//! [`CloseKind::Protocol`]; one that sends without end fills queues of known length ([`Subscription`]) and no memory beyond them.
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `client`, `builder` | **start here**: [`Client`], [`ClientBuilder`] |
//! | `driver` | the task that owns a connection |
//! | `resume`, `come_back`, `events` | a session that outlives its socket: counts and what is kept, the way back, what is told of it |
//! | `pending`, `pushes` | requests that wait, subscriptions |
//! | `wire`, `handshake`, `cache`, `sign`, `server_error` | what is on the wire |
//! | `heartbeat` | when to send one, when to give up |
//! | `transport`, `tls`, `address` | sockets |

mod address;
mod builder;
mod cache;
mod client;
mod come_back;
mod driver;
mod error;
mod events;
mod handshake;
mod heartbeat;
mod pending;
mod pushes;
mod resume;
mod server_error;
mod sign;
mod tls;
mod transport;
mod wire;

pub use builder::ClientBuilder;
pub use cache::HandshakeCache;
pub use client::{Client, Stats};
pub use error::{
    AddressError, AnswerError, CloseKind, CloseStatus, ConnectError, DecodeError, EncodeError,
    NotifyError, RequestError, Violation,
};
pub use events::{Events, SessionEvent};
pub use pushes::{Handler, Push, Subscription};
pub use resume::Reconnect;
pub use server_error::ServerError;
pub use shaddock_protocol::Dialect;
pub use sign::{SigningKey, SigningKeyError};
pub use tls::TlsOptions;
