//! Ownership of users with unique sessions: the decisions, without IO, tasks or a clock.
//!
//! `nats/` and `etcd/` execute these decisions. All inputs are arguments (the content of etcd, answers of other frontends, the time), so
//! that `tests/model/` can test the types with cuts, hangs, twins and drifting clocks, by seed.
//!
//! # Design
//!
//! etcd holds one key for each bound user, `<prefix>bindings/<type>/<uid>`, the **claim**:
//!
//! | part of a claim | where it is stored | purpose |
//! | --- | --- | --- |
//! | the frontend | the value (Pitaya's layout) | the server to ask for the user |
//! | the **life** (incarnation) of that frontend | the lease to which the key is attached | a server that was replaced by one with the same id owns nothing; its claims end with it |
//! | the [`Number`] | the key's revision, after the era of this etcd | it grows with every change of owner: the fencing token |
//!
//! **A claim with a valid lease is never overwritten, except with its owner's consent.** The consent is sent over NATS ([`OwnerReply::Released`]),
//! or, if NATS does not reach the owner, over etcd: the claimant writes a notice below `<prefix>shaddock/asks/<owner>/`, which only that
//! owner watches, and the owner closes its sessions and deletes the claim. A missing subscriber on NATS proves nothing ("no responders" is
//! also the effect of a cut between two NATS servers). An owner that does not reply at all keeps the user until its lease ends; then etcd
//! deletes the claim. ([`Takeover`] implements this rule.)
//!
//! **A frontend acts for its users only while its lease is certainly valid**: [`Fence`] compares the time until which etcd certainly keeps
//! the lease with the clock, at each use. No code has to run for a frontend to become fenced, so a paused process is fenced when it
//! continues. After its lease was lost, a frontend stays fenced until it has read every claim and has written those again that no other
//! frontend has ([`verdict`]).
//!
//! **Requests of a user carry the number.** A frontend forwards a request of a user with the number of its claim, and a server that has
//! seen a larger one rejects it ([`Seen`]): so a request that was accepted just before its frontend lost the user, and arrives after the
//! next owner has begun, is not run. The rejected frontend checks etcd immediately.
//!
//! **One life per id**: a server joins by a transaction on `<prefix>shaddock/ids/<id>`, for all types, and every write of its key in the
//! list has the same condition ([`entry`]).
//!
//! A question names the claim, and with it the life that has it. A replaced life may still receive messages for its id; it never consents
//! for its successor.
//!
//! **One guard per bind**: [`Hold`] is what a bind has added to the [`Table`], and reverting a bind removes exactly that.
//!
//! # Prior work
//!
//! Leases whose holder counts the time itself, from before its request: Chubby. A number that grows with every grant and is checked where
//! the work is done: Chubby's sequencers, Kleppmann's fencing tokens, and the recommendation of etcd's documentation for leases ("version
//! number validation"). Asking the old owner before taking anything from it: Orleans' directory, which hands ranges over instead of taking
//! them. Phoenix and Centrifugo keep presence without owners and accept two; unique sessions cannot.

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
mod tests;

#[cfg(feature = "nats")]
pub(crate) use departures::{Departures, News};
#[cfg(feature = "nats")]
pub(crate) use fence::{Fence, Moment, counts_for};
pub(crate) use seats::{Hold, Seats};
#[cfg(feature = "nats")]
pub(crate) use seen::Seen;
#[cfg(feature = "nats")]
pub(crate) use table::{ClaimAnswer, ClaimQuery, Extra, Table};
#[cfg(feature = "nats")]
pub(crate) use takeover::{
    Claim, Entry, Found, Kind, Own, OwnerReply, Step, StepOutcome, Takeover, Verdict, entry,
    verdict,
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
