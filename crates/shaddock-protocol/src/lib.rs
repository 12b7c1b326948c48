//! The client protocol of Pomelo and Pitaya: bytes in, events and bytes out.
//!
//! This crate does no IO, reads no clock and starts no task. It is `no_std` with `alloc`, which enforces this: there is no socket to open
//! and no clock to read. Time and bytes are arguments, deadlines are data.
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `conn` | **start here**: [`Conn`], the state machine of one connection |
//! | `codec` | [`Codec`]: the shared state of a frontend's connections; encodes responses, pushes and kicks |
//! | `package` | the outer layer: type, 24-bit length, body |
//! | `message` | the inner layer: flag, id, route, body |
//! | `route`, `dictionary` | routes, and the 2-byte codes that stand for them |
//! | `handshake`, `answers` | the client's first package, and the responses |
//! | `resume` | resumable sessions: their part of the handshake, acknowledgements |
//! | `text`, `json` | the string forms of browser clients; a JSON validator without allocation |
//! | `protobuf`, `crypto`, `compress` | Pomelo's dynamic protobuf, signed messages, zlib |
//! | `limits`, `dialect`, `time` | limits, dialects, milliseconds |
//!
//! # One connection
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use shaddock_protocol::{Codec, CodecConfig, Conn, Event, Millis};
//! use std::sync::Arc;
//!
//! let codec = Arc::new(Codec::new(CodecConfig::default()));
//! let mut conn = Conn::new(codec, Millis(0));
//! let mut out = BytesMut::new();
//! // HANDSHAKE {"sys":{}}, then ACK, in one chunk.
//! let mut input = Bytes::from_static(b"\x01\x00\x00\x0a{\"sys\":{}}\x02\x00\x00\x00");
//! let now = Millis(20);
//! let Ok(Some(Event::Handshake(_request))) = conn.poll_event(now, &mut input, &mut out) else { panic!() };
//! conn.accept(now, None, &mut out).unwrap();
//! assert!(matches!(conn.poll_event(now, &mut input, &mut out), Ok(Some(Event::Open))));
//! assert_eq!(&out[..], b"\x01\x00\x00\x15{\"code\":200,\"sys\":{}}");
//! ```
#![no_std]

extern crate alloc;

mod answers;
mod codec;
mod codec_config;
mod compress;
mod conn;
mod crypto;
mod dialect;
mod dictionary;
mod handshake;
mod json;
mod limits;
mod members;
mod message;
mod package;
mod protobuf;
mod resume;
mod route;
mod setters;
mod text;
mod time;

pub use codec::Codec;
pub use codec_config::{
    CodecConfig, EncodeError, PITAYA_HEARTBEAT, PitayaSerializer, PomeloErrors,
};
pub use compress::{InflateError, deflate_zlib, inflate, looks_compressed};
pub use conn::{
    Conn, ConnState, DropReason, Event, Inbound, ProtocolError, RefuseReason, TimeoutKind,
};
pub use crypto::{HashPolicy, KeyError, RsaExponent, RsaKey, SignatureError};
pub use dialect::{BrowserClients, Dialect, DialectChoice, Variant};
pub use dictionary::{Dictionary, DictionaryError};
pub use handshake::{HandshakeError, HandshakeRequest, RejectCode, RsaParts};
pub use json::{JsonError, check_json};
pub use limits::Limits;
pub use message::{MAX_ROUTE_LEN, Message, MessageError, MessageType, WireRoute};
pub use package::{
    HEADER_LEN, MAX_BODY, Package, PackageError, PackageReader, PackageTooLarge, PackageType,
    encode_package, put_package_header,
};
pub use protobuf::{FieldProblem, ProtobufError, Protos, Schema, SchemaError};
pub use resume::{
    AcknowledgementError, MAX_TOKEN_LEN, ResumeGrant, ResumeOutcome, ResumeRefusal, ResumeRequest,
    ReturningClient, put_heartbeat, read_acknowledgement,
};
pub use route::Route;
pub use text::{escape_non_bmp, utf8_of_client};
pub use time::Millis;
