//! Resumable sessions.
//!
//! Both ends count DATA packages; packages that the client has not acknowledged are kept. The session owns the kept packages, and the
//! connection borrows the session: it [loses](crate::Session::suspend) its socket, or another one [claims](crate::Session::claim) the
//! session and receives what the first one [hands over](crate::Session::hand_over). Two connections never have one session.
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
//! | `ledger.rs` | counts, kept packages and claims of one session |
//! | `kept.rs` | the kept packages |
//! | `pool.rs` | limits and counts of all sessions of a service |
//! | `token.rs` | the tokens of clients |
//! | `session.rs` | all of it as methods of [`Session`](crate::Session) and [`SessionService`](crate::SessionService) |
//!

mod kept;
mod ledger;
mod pool;
mod session;
mod token;

pub(crate) use kept::Piece;
pub(crate) use ledger::{Away, Ledger, Link};
pub use ledger::{BadAcknowledgement, Claimed, Handover, Resumption};
pub(crate) use pool::ResumePool;
pub use pool::{OnFull, ResumeConfig, ResumeStatistics};
pub use session::Suspended;
pub use token::ResumeSecret;
