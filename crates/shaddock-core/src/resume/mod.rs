//! Sessions that outlive their sockets.
//!
//! Both ends count DATA packages; what the client has not acknowledged is kept. The session owns what is kept, and the connection
//! borrows the session: it [loses](crate::Session::suspend) its socket, or another one [claims](crate::Session::claim) the session and gets what the first
//! one [hands over](crate::Session::hand_over). At no time do two connections have one session.
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
//! | `ledger.rs` | what one session counts, keeps and lets others claim |
//! | `kept.rs` | the kept packages |
//! | `pool.rs` | bounds and counts of all sessions of a service |
//! | `token.rs` | what a client shows |
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
pub use pool::{ResumeConfig, ResumeStatistics};
pub use session::Suspended;
pub use token::ResumeSecret;
