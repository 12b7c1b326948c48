//! Sessions and their state: bindings to users, settings, events, outbound queues, channels, statistics.
//!
//! One client connection is one [`Session`]. The [`SessionService`] of a frontend server finds it by its [`Sid`] or by the [`Uid`] of its
//! user, and the session's [`Outbox`] is the only way to send data to the client.
//!
//! This crate does no IO, reads no clock, starts no thread and depends on no async runtime. Time is passed in as [`Millis`], bytes as
//! [`bytes::Bytes`]. A connection's driver (see `shaddock-net`) empties the outbox; all other code only fills it.
//!
//! ```
//! use shaddock_core::{ClientInfo, FrontendId, SessionConfig, SessionService, SidAllocator, Uid};
//!
//! let service = SessionService::new(
//!     FrontendId::new("connector-1")?,
//!     SidAllocator::new(86_400, 1),
//!     SessionConfig::default(),
//! );
//! let session = service.create(ClientInfo::default());
//! service.bind(session.id(), Uid::new("alice")?)?;
//! assert_eq!(service.get_by_uid("alice").len(), 1);
//!
//! // Closes every session of the user; each client is told why.
//! assert_eq!(service.kick("alice", None), 1);
//! assert!(service.get(session.id()).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//!
//! | module | what it owns |
//! | --- | --- |
//! | `service` | **start here**: [`SessionService`], the sessions of one frontend |
//! | `session` | [`Session`], the record of one client |
//! | `binding` | bind, unbind, close: the steps that keep the two indexes right |
//! | `audience` | membership of channels and topics on this frontend; ends with the session |
//! | `event`, `hooks`, `close` | events of sessions; their receiver; close reasons |
//! | `outbox`, `drained`, `pool` | bounded queue of bytes for one client; the data taken by its driver; spare buffers |
//! | `resume` | resumable sessions: counts and kept messages, tokens, take-over |
//! | `index`, `few`, `sync` | sharded maps; locks of std, or of loom under test |
//! | `ids`, `client`, `settings`, `config`, `error` | plain values |
//! | `channel`, `members`, `fanout`, `store` | members of a channel by frontend, plans for pushes, persistence |
//! | `stats` | [`ConnectionStats`]: connections and logins |
//!
//! # Locks
//!
//! All locks are short and none is held while a listener runs or a waker is called. The lock order, where one is taken under another: shard
//! of the uid index, then session record, shard of audience names, or one audience (one of the three at a time); for channels: turn of a
//! name, names, channel, member index. Shards of the sid index and outboxes are locked alone; only the list of suspended sessions is locked
//! under an outbox. Closures of callers run without a lock. Only the turn of a channel name is held over calls of a channel store, to keep
//! them in order; without a store there are no turns.

mod audience;
mod binding;
mod channel;
mod claims;
mod client;
mod close;
mod config;
mod drained;
mod error;
mod event;
mod fanout;
mod few;
mod hooks;
mod ids;
mod index;
mod members;
mod outbox;
mod pool;
mod resume;
mod service;
mod session;
mod settings;
mod shards;
mod stats;
mod store;
mod sync;

pub use audience::{AudienceChange, Departure, NotJoined, Tie};
pub use channel::{Channel, ChannelConfig, ChannelService, ChannelState, Place};
pub use claims::ClientClaims;
pub use client::{ClientInfo, TransportKind};
pub use close::{CloseReason, kick_package};
pub use config::{Conflict, SessionConfig, SessionsPerUser};
pub use drained::Drained;
pub use error::{BindError, ChannelError, ListenerError, SettingError, UnbindError};
pub use event::ListenerId;
pub use fanout::FanOutGroup;
pub use hooks::SessionEvents;
pub use ids::{FrontendId, InvalidId, InvalidSid, Sid, SidAllocator, Uid};
pub use outbox::{Flush, Next, Offer, Outbox, OutboxStats, PushError, Room, SendError};
pub use resume::{
    BadAcknowledgement, Claimed, Credentials, Handover, OnFull, Parking, Resumable, ResumeConfig,
    ResumeSecret, ResumeStatistics, Resumption,
};
pub use service::{SessionService, SessionStatistics};
pub use session::{Session, SessionState};
pub use settings::Settings;
pub use shards::Shards;
pub use stats::{ConnectionStats, LoginRecord, StatisticsInfo};
pub use store::{ChannelStore, MemoryStore, RestoreError, StoreError};

pub use shaddock_protocol::{
    Dialect, Millis, ProtocolError, ResumeRefusal, ReturningClient, Variant,
};
