//! Resumable sessions.
//!
//! Both ends count DATA packages; packages that the client has not acknowledged are kept. The session owns the kept packages, and the
//! connection borrows the session: it [loses](crate::Session::suspend) its socket, or another one [claims](crate::Session::claim) the
//! session and receives what the first one [hands over](crate::Session::hand_over), or has left with the session when
//! nothing ran for it any more ([parked](crate::Session::park)). Two connections never have one session.
//!
//! ```text
//!             answer                ACK                 lost
//!  (created) ───────► Waiting ───────────► Live ─────────────────► Away
//!                        ▲ │ lost            │ claimed by another    │
//!                        │ └────────►────────┴──────────►────────────┤
//!                        └─────────── resume_from ◄── claimed ◄──────┘
//! ```
//!
//! | file | part |
//! | --- | --- |
//! | `ledger.rs` | counts and kept packages of one session, and the state of its connection |
//! | `ledger/takeover.rs` | claims of new connections, and the hand-over of the last one |
//! | `claim.rs` | the types of both |
//! | `kept.rs` | the kept packages |
//! | `config.rs` | limits |
//! | `pool.rs` | counts of all sessions of a service, and which of them wait |
//! | `token.rs` | the tokens of clients |
//! | `session.rs` | all of it as methods of [`Session`](crate::Session) and [`SessionService`](crate::SessionService) |
//!

mod claim;
mod config;
mod kept;
mod ledger;
mod pool;
mod session;
mod token;

pub use claim::{Claimed, Handover, Parking, Resumption};
pub use config::{OnFull, ResumeConfig};
pub(crate) use kept::Piece;
pub use ledger::BadAcknowledgement;
pub(crate) use ledger::{Away, Ledger, Link};
pub(crate) use pool::ResumePool;
pub use pool::ResumeStatistics;
pub use session::Resumable;
pub(crate) use token::TokenHash;
pub use token::{Credentials, ResumeSecret};
