//! Verifies that the claims of this frontend are still its own: after each cut, periodically, and when another server rejects a request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::asking::ASK_OWNER;
use super::claim::LOOK;
use super::claims::{NO_LEASE, write};
use super::keys::{binding_key, found};
use super::revoke::revoke_user;
use crate::ServerId;
use crate::clock;
use crate::etcd::pb::{RequestOp, TxnRequest};
use crate::etcd::{EtcdError, EtcdResult, LeaseState};
use crate::nats::core::Core;
use crate::nats::watched::LinkState;
use crate::owners::{Claim, Number, Own, StepOutcome, Verdict, verdict};
use crate::reply::guarded;

/// When a frontend looks once more that was cut off, or got a user from a Pitaya frontend, which deletes the claim when it closes its session.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Keys that are read in one transaction; etcd's default bound is 128 operations.
const BATCH: usize = 128;
/// Transactions that read claims at the same time.
const READS: usize = 8;
/// Claims that are written again at the same time; they share transactions.
const WRITES: usize = 2048;
/// How often a claim that is written again may change in that moment.
const TRIES: usize = 3;
/// The limit of users whose claims wait to be checked because a server rejected a request.
pub(in crate::nats) const REFUSALS: usize = 1024;

/// Verifies the claims of this frontend when it may have lost users, and periodically, for ever.
pub(in crate::nats) async fn guard(core: Arc<Core>, mut link: watch::Receiver<LinkState>) {
    let mut verified = (core.lease.state().id, link.borrow().losses);
    let mut next_audit = Instant::now() + core.config.sync_interval;
    let mut looks_again = false;
    loop {
        tokio::select! {
            () = core.lease.until_doubtful(verified.0) => {}
            lost = lost_again(&mut link, verified.1) => if !lost { return },
            () = look_again(&core), if looks_again => {
                looks_again = false;
                continue;
            }
            () = core.users.key_may_go.notified(), if !looks_again => {
                looks_again = true;
                continue;
            }
            () = sleep_until(next_audit) => {
                audit(&core).await;
                next_audit = Instant::now() + core.config.sync_interval;
                continue;
            }
        }
        notify_fenced(&core, true);
        verified = verify_claims(&core, &mut link, verified.0).await;
        if core.left.load(Ordering::Acquire) {
            return;
        }
        notify_fenced(&core, false);
        // A frontend of an older version takes users whose owner it does not reach, until it reaches this one.
        looks_again = true;
    }
}

/// Waits until the link was lost more often than that. False if this server has left.
async fn lost_again(link: &mut watch::Receiver<LinkState>, losses: u64) -> bool {
    let lost = link.wait_for(|state| state.losses != losses).await;
    lost.is_ok()
}

/// Waits until this frontend may act for its users again. Returns its lease, and how often the link was lost before.
/// `before` is the lease on which the claims hung.
async fn verify_claims(
    core: &Arc<Core>,
    link: &mut watch::Receiver<LinkState>,
    before: i64,
) -> (i64, u64) {
    while !core.left.load(Ordering::Acquire) {
        let losses = match link.wait_for(|state| state.up).await {
            Ok(state) => state.losses,
            Err(_) => break,
        };
        // Pitaya's frontends take users without asking, and announce it over NATS only.
        if !core.link.round_trip(ASK_OWNER).await {
            sleep(LOOK).await;
            continue;
        }
        let ticket = core.lease.fence().begin();
        let lease = core.lease.state();
        let claims = core.users.claims();
        let checked = if lease.id == before {
            check_claims(core, lease, claims).await
        } else {
            claim_all_again(core, lease, claims).await
        };
        match checked {
            // The result is valid if nothing was lost meanwhile.
            Ok(()) if core.lease.fence().settle(ticket, clock::now()) => return (lease.id, losses),
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "the claims of this frontend are still not verified");
            }
        }
        sleep(core.config.etcd_retry_delay.min(LOOK)).await;
    }
    (0, 0)
}

/// Checks the claims a second time, a while after they were verified, or after this frontend got a user from a Pitaya frontend.
async fn look_again(core: &Arc<Core>) {
    sleep(LOOK_AGAIN).await;
    while let Err(error) = check_claims(core, core.lease.state(), core.users.claims()).await {
        tracing::debug!(%error, "the claims cannot be checked again yet");
        sleep(LOOK).await;
    }
}

/// Looks whether all claims still hang on the lease. One that an operator has deleted, or that something unforeseen has written over, is found here.
async fn audit(core: &Arc<Core>) {
    let lease = core.lease.state();
    let claims = core.users.claims();
    let there = match core.etcd.lease_keys(lease.id).await {
        Ok(there) if there.ttl > 0 => there,
        // The lease has its own watchman.
        Ok(_) => return,
        Err(error) => return tracing::debug!(%error, "the claims cannot be maintained now"),
    };
    let keys: std::collections::HashSet<_> = there.keys.iter().map(|key| &**key).collect();
    let missing: Vec<_> = claims
        .into_iter()
        .filter(|(uid, _)| !keys.contains(binding_key(core, uid).as_bytes()))
        .collect();
    // Given up for a frontend that did not take the user.
    let prefix = binding_key(core, "");
    for key in &there.keys {
        let uid = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.strip_prefix(&*prefix));
        if let Some(uid) = uid.filter(|uid| !core.users.knows(uid)) {
            core.users.maybe_claimed(&uid.into());
        }
    }
    if let Err(error) = check_claims(core, lease, missing).await {
        tracing::debug!(%error, "the claims cannot be maintained now");
    }
}

/// Checks the claims on users whose requests other servers rejected: if another frontend owns the user, their sessions here are closed. For
/// ever.
pub(in crate::nats) async fn look_after_refused(
    core: Arc<Core>,
    mut refused: mpsc::Receiver<Arc<str>>,
) {
    while let Some(uid) = refused.recv().await {
        let Some(number) = core.users.claim(&uid) else {
            continue;
        };
        tracing::debug!(
            uid = &*uid,
            "a user's request was rejected: another frontend owns the user"
        );
        if let Err(error) = check_claims(&core, core.lease.state(), vec![(uid, number)]).await {
            tracing::debug!(%error, "the claim on a user cannot be read");
        }
    }
}

/// Notifies the node when it changes whether this frontend may act for its users.
pub(in crate::nats) fn notify_fenced(core: &Core, fenced: bool) {
    if fenced && core.left.load(Ordering::Acquire) {
        // Its lease ends because this server leaves.
        return;
    }
    if core.fence_notified.swap(fenced, Ordering::AcqRel) != fenced {
        if fenced {
            tracing::warn!(server = %core.info.id, "disconnected from the cluster: another frontend may own the users of this one");
        } else {
            tracing::info!(server = %core.info.id, "the claims of this frontend are verified again");
        }
        guarded("fenced", || core.node.fenced(fenced));
        core.claims_verified.notify_waiters();
    }
}

/// Reads the claims on these users. Revokes users that other frontends own, and writes missing claims again.
async fn check_claims(
    core: &Arc<Core>,
    lease: LeaseState,
    claims: Vec<(Arc<str>, Number)>,
) -> EtcdResult<()> {
    if !lease.is_valid() {
        return Err(NO_LEASE);
    }
    let chunks = claims.chunks(BATCH).map(<[_]>::to_vec);
    let checks = chunks.map(|claims| check_some(core, lease, claims));
    stream::iter(checks)
        .buffer_unordered(READS)
        .try_collect::<()>()
        .await
}

async fn check_some(
    core: &Arc<Core>,
    lease: LeaseState,
    claims: Vec<(Arc<str>, Number)>,
) -> EtcdResult<()> {
    let gets = claims
        .iter()
        .map(|(uid, _)| RequestOp::get(&binding_key(core, uid)))
        .collect();
    // Without a condition it always succeeds.
    let txn = TxnRequest {
        success: gets,
        ..TxnRequest::default()
    };
    let answer = core.etcd.txn(txn).await?;
    let mut again = Vec::new();
    for ((uid, number), response) in claims.iter().zip(answer.responses) {
        let range = response.range.unwrap_or_default();
        let seen = range.kvs.first().map(found);
        let own = Own {
            id: &core.info.id,
            lease: lease.id,
        };
        match verdict(own, seen.as_ref()) {
            Verdict::Holds(revision) if revision != number.revision => {
                let era = lease.era;
                core.users.renumber(uid, Number { era, revision });
            }
            Verdict::Holds(_) => {}
            Verdict::Missing(claim) => again.push(claim_again(core, uid, *number, claim)),
            Verdict::Lost(owner) => claim_taken(core, uid, *number, owner.as_ref()),
        }
    }
    futures_util::future::try_join_all(again).await.map(drop)
}

/// Writes the claims again after the lease was lost on which they hung. They went with it, so nothing is read first; only where another frontend was
/// faster, etcd answers with what is there.
async fn claim_all_again(
    core: &Arc<Core>,
    lease: LeaseState,
    claims: Vec<(Arc<str>, Number)>,
) -> EtcdResult<()> {
    if !lease.is_valid() {
        return Err(NO_LEASE);
    }
    let again = claims.into_iter().map(|(uid, number)| {
        let core = Arc::clone(core);
        async move { claim_again(&core, &uid, number, Claim::Missing).await }
    });
    stream::iter(again)
        .buffer_unordered(WRITES)
        .try_collect::<()>()
        .await
}

/// Writes a claim again, on this condition at first.
async fn claim_again(
    core: &Arc<Core>,
    uid: &Arc<str>,
    number: Number,
    mut claim: Claim,
) -> EtcdResult<()> {
    for _ in 0..TRIES {
        // Unless the user has gone, or was bound anew: that is no matter of this claim.
        if core.users.claim(uid) != Some(number) {
            return Ok(());
        }
        let StepOutcome::Found { found: seen, .. } = write(core, uid, claim, None).await? else {
            return Ok(());
        };
        let lease = core.lease.state();
        let own = Own {
            id: &core.info.id,
            lease: lease.id,
        };
        claim = match verdict(own, seen.as_ref()) {
            Verdict::Holds(revision) => {
                let era = lease.era;
                core.users.renumber(uid, Number { era, revision });
                return Ok(());
            }
            Verdict::Lost(owner) => {
                claim_taken(core, uid, number, owner.as_ref());
                return Ok(());
            }
            Verdict::Missing(claim) => claim,
        };
    }
    Err(EtcdError::Odd("a claim changed meanwhile"))
}

/// A key names another owner. It may have been read before its user was bound here anew.
fn claim_taken(core: &Core, uid: &Arc<str>, number: Number, owner: Option<&ServerId>) {
    if core.users.claim(uid) == Some(number) {
        revoke_user(core, uid, owner);
    }
}
