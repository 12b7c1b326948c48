//! Claims at etcd: read, written, deleted. Each write is a transaction that compares first.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::keys::{binding_key, found, notice_key};
use crate::ServerId;
use crate::etcd::pb::{Compare, RequestOp, TxnRequest, TxnResponse};
use crate::etcd::{EtcdError, EtcdResult, LeaseState};
use crate::nats::core::Core;
use crate::owners::{Claim, Number, Own, StepOutcome, Verdict, verdict};

/// Without a lease nothing can be claimed.
pub(super) const NO_LEASE: EtcdError = EtcdError::Odd("this server has no lease");

/// The result of a transaction's reads: the claim, and whether there is a notice.
fn outcome_of(answer: TxnResponse) -> StepOutcome {
    let mut ranges = answer.responses.into_iter().map(|response| {
        let range = response.range.unwrap_or_default();
        range.kvs.into_iter().next()
    });
    StepOutcome::Found {
        found: ranges.next().flatten().as_ref().map(found),
        notice: ranges.next().flatten().is_some(),
    }
}

fn reads(core: &Core, uid: &str, owner: Option<&ServerId>) -> Vec<RequestOp> {
    let mut gets = vec![RequestOp::get(&binding_key(core, uid))];
    gets.extend(owner.map(|owner| RequestOp::get(&notice_key(core, owner, uid))));
    gets
}

pub(super) async fn read(
    core: &Core,
    uid: &str,
    owner: Option<&ServerId>,
) -> EtcdResult<StepOutcome> {
    // Without a condition it always succeeds.
    let txn = TxnRequest {
        success: reads(core, uid, owner),
        ..TxnRequest::default()
    };
    Ok(outcome_of(core.etcd.txn(txn).await?))
}

/// Writes this server as the owner if the condition holds. When this completes, the written claim is in the table, even if the caller no longer waits.
pub(super) async fn write(
    core: &Arc<Core>,
    uid: &Arc<str>,
    claim: Claim,
    seen: Option<ServerId>,
) -> EtcdResult<StepOutcome> {
    let lease = core.lease.state();
    if !lease.is_valid() {
        return Err(NO_LEASE);
    }
    let key = binding_key(core, uid);
    let compare = match claim {
        Claim::Missing => vec![Compare::missing(&key)],
        Claim::Unchanged(revision) => vec![Compare::unchanged(&key, revision)],
        Claim::Orphan { revision, owner } => vec![
            Compare::unchanged(&key, revision),
            Compare::missing(&core.etcd.id_key(owner.as_str())),
        ],
    };
    let txn = TxnRequest {
        compare,
        success: vec![RequestOp::put(&key, core.info.id.as_str(), lease.id)],
        failure: reads(core, uid, seen.as_ref()),
    };
    let (done, written) = oneshot::channel();
    let (this, user) = (Arc::clone(core), Arc::clone(uid));
    core.batches.submit(key, txn, move |outcome| {
        let _ = done.send(
            outcome
                .and_then(|outcome| settled(&this, &user, lease, outcome))
                .inspect_err(|_| {
                    // It may have been written nevertheless.
                    this.users.maybe_claimed(&user);
                }),
        );
    });
    written
        .await
        .unwrap_or(Err(EtcdError::Odd("this server has left")))
}

/// A claim was written under this lease, or was not.
fn settled(
    core: &Core,
    uid: &Arc<str>,
    lease: LeaseState,
    (revision, answer): (i64, TxnResponse),
) -> EtcdResult<StepOutcome> {
    if !answer.succeeded {
        return Ok(outcome_of(answer));
    }
    if core.lease.state().id != lease.id {
        // It went with the lease under which it was written; the claims that count were read after that.
        return Err(NO_LEASE);
    }
    let number = Number {
        era: lease.era,
        revision,
    };
    core.users.claimed(uid, number);
    Ok(StepOutcome::Written(revision))
}

/// Deletes claims that are no longer needed, unless another frontend has written over them.
pub(in crate::nats) async fn delete_given_up(core: Arc<Core>) {
    loop {
        core.users.gave_up.notified().await;
        let deletions: Vec<_> = core
            .users
            .take_given_up()
            .into_iter()
            .map(|(uid, number)| delete(Arc::clone(&core), uid, number))
            .collect();
        let mut failed = false;
        // All of them are handed in at once, so that they share transactions.
        for deletion in futures_util::future::join_all(deletions).await {
            failed |= !deletion;
        }
        if failed {
            // Meanwhile the keys say that the users are here, which the next bind elsewhere finds out by asking.
            sleep(core.config.etcd_retry_delay).await;
            core.users.gave_up.notify_one();
        }
    }
}

/// True if the claim is this server's no more.
async fn delete(core: Arc<Core>, uid: Arc<str>, mut number: Number) -> bool {
    let key = binding_key(&core, &uid);
    if number == Number::default() {
        // It is not known whether it was written.
        let Ok(answer) = core.etcd.get(&key).await else {
            core.users.give_up_again(&uid, number);
            return false;
        };
        let found = answer.kvs.first().map(found);
        let lease = core.lease.state();
        let own = Own {
            id: &core.info.id,
            lease: lease.id,
        };
        let Verdict::Holds(revision) = verdict(own, found.as_ref()) else {
            return true;
        };
        let era = lease.era;
        number = Number { era, revision };
        if core.users.renumber(&uid, number) {
            return true;
        }
    }
    let txn = TxnRequest {
        compare: vec![Compare::unchanged(&key, number.revision)],
        success: vec![RequestOp::delete(&key)],
        failure: Vec::new(),
    };
    let (done, deleted) = oneshot::channel();
    core.batches.submit(key, txn, move |outcome| {
        let _ = done.send(outcome.is_ok());
    });
    let deleted = deleted.await.unwrap_or(true);
    if !deleted {
        core.users.give_up_again(&uid, number);
    }
    deleted
}
