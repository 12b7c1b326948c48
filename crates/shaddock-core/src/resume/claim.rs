//! Claims of new connections for a session, and what the last connection hands over.

use std::any::Any;
use std::task::Waker;

/// The state that one connection leaves for the next one, such as running and waiting requests. Opaque to the core.
pub type Handover = Box<dyn Any + Send>;

/// A new connection that claims the session.
pub(crate) struct Claim {
    pub(super) number: u64,
    pub(super) waker: Option<Waker>,
    /// The hand-over of the last connection. Once it is set, no other connection has any part of the session.
    pub(super) handed: Option<Handover>,
}

/// The previous owner that a claim has replaced.
#[derive(Default)]
pub(crate) struct Replaced {
    /// The waker of an earlier claim, which ends.
    pub(crate) claimant: Option<Waker>,
    /// The session was parked. The waker in its outbox belongs to the task that has parked it.
    pub(crate) was_parked: bool,
}

/// The result of a claim for the next connection.
pub enum Claimed {
    /// The last connection has not released the session yet. The waker will be called.
    Pending,
    /// A later connection claims the session too, and receives it.
    Superseded,
    /// The session has ended meanwhile. Contains its hand-over, if this connection has it.
    Closed(Option<Handover>),
    /// The connection owns the session. Contains the hand-over of the last one.
    Yours(Handover),
}

/// The result of [`Session::park`](crate::Session::park).
#[derive(Debug)]
pub enum Parking {
    /// The session keeps the hand-over. Contains the number for [`Session::unpark`](crate::Session::unpark).
    Parked(u64),
    /// A connection had claimed the session, and has it now.
    HandedOver,
    /// The session has ended, or is about to. Contains its hand-over.
    Ended(Handover),
}

/// The positions from which both ends continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The number of the client's packages that the server has received.
    pub received: u64,
    /// The position from which the client counts on.
    pub position: u64,
    /// The number of discarded packages.
    pub missed: u64,
}
