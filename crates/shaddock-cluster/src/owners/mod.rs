//! Who owns a user whose sessions are unique: the decisions, without IO, tasks or a clock.
//!
//! `nats/` and `etcd/` carry out what is decided here. Everything that these types need is an argument (what etcd holds, what another
//! frontend said, the time), so that `model.rs` can drive them through cuts, hangs, twins and drifting clocks, by seed.
//!
//! # The shape
//!
//! etcd holds one key for each user who is bound, `<prefix>bindings/<type>/<uid>`, the **claim**:
//!
//! | part of a claim | where it is | what it is for |
//! | --- | --- | --- |
//! | the frontend | the value (Pitaya's layout) | whom to ask for the user |
//! | the **life** of that frontend | the lease that the key hangs on | a server that was replaced by one of the same id owns nothing; what it owned ends with it |
//! | the [`Number`] | the key's revision, after the era of this etcd | it grows with every change of owner: the fencing token |
//!
//! **A claim with a living lease is never written over, except on its owner's own word.** The word comes over NATS ([`Word::GivesUp`]), or,
//! if NATS does not reach the owner, over etcd: the claimant writes a notice below `<prefix>shaddock/asks/<owner>/`, which only that
//! owner watches, and the owner closes its sessions and deletes the claim. That nobody listens at NATS proves nothing ("no
//! responders" is also what a cut between two NATS servers looks like). An owner that says nothing at all keeps the user until its lease ends; then
//! etcd deletes the claim. ([`Takeover`] is this rule.)
//!
//! **A frontend acts for its users only while its lease is certainly alive**: [`Fence`] compares the moment until which etcd cannot have let go of the lease with
//! the clock, at each use. Nothing has to run for a frontend to become fenced, so a process that was stopped is fenced when it awakes.
//! After its lease was lost, a frontend stays fenced until it has read every claim and written those again that nobody else has ([`verdict`]).
//!
//! **Who acts in a user's name shows the number.** A frontend forwards a request of a user with the number of its claim, and a server that has seen a
//! larger one refuses it ([`Seen`]): so a request that was accepted just before its frontend lost the user, and arrives when the next owner has begun,
//! is not run. The frontend that is refused looks at etcd at once.
//!
//! **One life for one id**: a server enters by a transaction on `<prefix>shaddock/ids/<id>`, for all types, and every write of its key in the
//! list has the same condition ([`entry`]).
//!
//! A question names the claim, and with it the life that has it. A life that was replaced may still hear what is sent to its id; it gives no word for
//! the one after it.
//!
//! **One guard for one bind**: [`Hold`] is what a bind has added to the [`Table`], and undoing a bind takes away that and nothing else.
//!
//! # Where it comes from
//!
//! Leases with a holder that counts the time itself, from before it asked: Chubby. A number that grows with every grant and is checked where
//! the work is done: Chubby's sequencers, Kleppmann's fencing tokens, and what etcd's documentation asks of users of its leases ("version number
//! validation"). Asking the old owner before anything is taken from it: Orleans' directory, which hands ranges over and does not take them.
//! Phoenix and Centrifugo keep presence without owners and live with two; sessions that are unique cannot.

#[cfg(feature = "nats")]
mod departures;
#[cfg(feature = "nats")]
mod fence;
#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "much of it is for NATS and etcd")
)]
mod seats;
#[cfg(feature = "nats")]
mod seen;
#[cfg(feature = "nats")]
mod table;
#[cfg(feature = "nats")]
mod takeover;

#[cfg(all(test, feature = "nats"))]
mod model;

#[cfg(feature = "nats")]
pub(crate) use departures::{Departures, News};
#[cfg(feature = "nats")]
pub(crate) use fence::{Fence, Moment, counts_for};
pub(crate) use seats::{Hold, Seats};
#[cfg(feature = "nats")]
pub(crate) use seen::Seen;
#[cfg(feature = "nats")]
pub(crate) use table::{Asked, Asks, Table};
#[cfg(feature = "nats")]
pub(crate) use takeover::{
    Claim, Entry, Found, Heard, Kind, Own, Step, Takeover, Verdict, Word, entry, verdict,
};

/// The fencing token of a claim: it grows with every change of owner.
#[cfg(feature = "nats")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Number {
    /// Which etcd it is from: the time at which a server first found it empty. An etcd that lost everything counts its revisions anew.
    pub(crate) era: u64,
    /// The revision at which the claim was written.
    pub(crate) revision: i64,
}
