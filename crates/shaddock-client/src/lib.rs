//! A client for servers with the protocol of Pomelo: shaddock, Pomelo and Pinus, and in the other dialect Pitaya and nano.
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
//! # Features
//!
//! - TCP and WebSocket, both also with TLS, selected by the scheme of the address.
//! - The handshake with route dictionary and protobuf schemas of the server, which may be [cached](HandshakeCache). The API uses JSON,
//!   whatever the encoding on the wire.
//! - Heartbeats as sent by existing clients, and a timeout when the server falls silent.
//! - [Signed](SigningKey) messages, compressed ones, and the errors of both dialects ([`ServerError`]).
//! - One reason why a connection ended ([`CloseKind`]), the same for all pending calls.
//!
//! - Optional resumption ([`ClientBuilder::resume`]): the client resumes the same session after its connection was lost, and no message is
//!   lost, duplicated or reordered. The server must support this, as shaddock does.
//!
//! Otherwise it does not reconnect automatically: the application decides what to send after a reconnect. [`CloseKind::may_reconnect`]
//! returns whether to try.
//!
//! # Protection against servers
//!
//! All input is validated and limited. If a server sends invalid data, the connection is closed with [`CloseKind::Protocol`]; a server that
//! sends without end fills queues of known length ([`Subscription`]) and no memory beyond them.
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `client`, `builder` (`settings`) | **start here**: [`Client`], [`ClientBuilder`] |
//! | `driver`, `shared` | the task that owns a connection, what it shares with its handles |
//! | `connect` | from an address to a complete handshake |
//! | `resume`, `come_back`, `events` | resumable sessions: counts and kept messages, reconnection, events |
//! | `pending`, `pushes` | pending requests, subscriptions |
//! | `wire`, `handshake`, `cache`, `sign`, `server_error` | encoding on the wire |
//! | `heartbeat` | schedule of heartbeats and timeouts |
//! | `transport`, `tls`, `address` | sockets |

mod address;
mod body;
mod builder;
mod cache;
mod client;
mod come_back;
mod connect;
mod driver;
mod error;
mod events;
mod handshake;
mod heartbeat;
mod pending;
mod pushes;
mod resume;
mod server_error;
mod settings;
mod shared;
mod sign;
mod tls;
mod transport;
mod wire;

pub use body::DecodeError;
pub use builder::ClientBuilder;
pub use cache::HandshakeCache;
pub use client::{Client, Stats};
pub use error::{
    AddressError, AnswerError, CloseKind, CloseStatus, ConnectError, EncodeError, NotifyError,
    RequestError, Violation,
};
pub use events::{Events, SessionEvent};
pub use pushes::{Handler, Push, Subscription};
pub use resume::Reconnect;
pub use server_error::ServerError;
pub use shaddock_protocol::Dialect;
pub use sign::{SigningKey, SigningKeyError};
pub use tls::TlsOptions;
