//! Messages between frontends about the owner of a user: over NATS, and by notices at etcd if NATS does not reach the owner. Pitaya frontends
//! broadcast.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use super::keys::{binding_key, found, notice_key};
use super::revoke::revoke_user;
use crate::etcd::EtcdResult;
use crate::etcd::pb::{Compare, KeyValue, RequestOp, TxnRequest};
use crate::nats::core::Core;
use crate::nats::inbox::Inbox;
use crate::nats::questions;
use crate::nats::wire::{BindMsg, Op, OpKind, decode_or_log};
use crate::owners::{Claim, ClaimAnswer, ClaimQuery, Own, OwnerReply, Verdict, verdict};
use crate::{Conflict, RemoteErrorKind, ServerId, ServerInfo, SessionsPerUser};

/// How long each question to the owner of a user waits for the reply.
pub(super) const ASK_OWNER: Duration = Duration::from_secs(1);

/// Asks the owner over NATS whether it gives the user up.
pub(super) async fn ask(
    core: &Arc<Core>,
    owner: ServerId,
    claim: (i64, i64),
    uid: &str,
) -> OwnerReply {
    let listed = core.members.server(owner.as_str());
    let info = listed.unwrap_or_else(|| Arc::new(of_same_type(core, owner)));
    let kind = if core.options.sessions_per_user == SessionsPerUser::One(Conflict::RejectNew) {
        OpKind::Probe
    } else {
        OpKind::Release
    };
    match questions::ask_owner(core, &info, kind, uid, claim, ASK_OWNER).await {
        Ok(Some(0)) => OwnerReply::Released,
        Ok(Some(_)) => OwnerReply::Keeps,
        Ok(None) => OwnerReply::NoReply,
        Err(error) if error.kind() == RemoteErrorKind::NoResponder => OwnerReply::NoSubscriber,
        // This server's own link: etcd may still reach the owner.
        Err(error) => {
            tracing::debug!(%error, "the owner of a user cannot be queried over NATS");
            OwnerReply::NoReply
        }
    }
}

fn of_same_type(core: &Core, id: ServerId) -> ServerInfo {
    ServerInfo {
        id,
        server_type: Arc::clone(&core.info.server_type),
        frontend: true,
        metadata: std::collections::BTreeMap::new(),
        hostname: String::new(),
        announced: crate::info::Announced::default(),
    }
}

/// Leaves the owner a notice at etcd, on the lease of its claim.
pub(super) async fn leave_notice(
    core: &Core,
    owner: &ServerId,
    revision: i64,
    lease: i64,
    uid: &str,
) -> EtcdResult<()> {
    let is_probe = core.options.sessions_per_user == SessionsPerUser::One(Conflict::RejectNew);
    let what = if is_probe { "probe" } else { "release" };
    let notice = format!("{what} {revision} {}", core.info.id);
    let written = core
        .etcd
        .put(notice_key(core, owner, uid), notice, lease)
        .await;
    match written {
        // The claim is gone too.
        Err(error) if error.is_no_lease() => Ok(()),
        written => written,
    }
}

/// Another frontend asks about a user, over NATS. The answer is how many of the user's sessions stay here; `None` is none.
pub(in crate::nats) fn asked(core: &Core, kind: OpKind, op: &Op) -> Option<u32> {
    let query = ClaimQuery {
        is_probe: kind == OpKind::Probe,
        revision: op.revision,
        lease: op.lease,
    };
    Some(
        match core.users.asked(&op.uid, &query, core.lease.state().id) {
            ClaimAnswer::Other => return None,
            ClaimAnswer::Keep(sessions) => u32::try_from(sessions).unwrap_or(u32::MAX),
            ClaimAnswer::Free | ClaimAnswer::Outdated => 0,
            ClaimAnswer::Revoke => {
                let owner = ServerId::new(op.from.as_str()).ok();
                revoke_user(core, &Arc::from(op.uid.as_str()), owner.as_ref());
                0
            }
        },
    )
}

/// Reads the notices that others leave at etcd for this frontend, for ever.
pub(in crate::nats) async fn notices(core: Arc<Core>) {
    loop {
        if let Err(error) = follow_notices(&core).await {
            tracing::debug!(%error, "notices at etcd cannot be read");
        }
        sleep(core.config.etcd_retry_delay).await;
    }
}

async fn follow_notices(core: &Core) -> EtcdResult<()> {
    let prefix = core.etcd.asks_key(core.info.id.as_str());
    let there = core.etcd.get_prefix(&prefix).await?;
    let from = there.header.map_or(0, |header| header.revision) + 1;
    for kv in &there.kvs {
        noticed(core, &prefix, kv).await?;
    }
    let mut watch = core.etcd.watch(&prefix, from).await?;
    while let Some(answer) = watch.answers.message().await? {
        if answer.canceled {
            break;
        }
        for kv in answer.events.iter().filter_map(|event| event.kv.as_ref()) {
            if !kv.value.is_empty() {
                noticed(core, &prefix, kv).await?;
            }
        }
    }
    Ok(())
}

/// Answers a notice: the claim is deleted if the user is given up, and the notice in any case.
async fn noticed(core: &Core, prefix: &str, kv: &KeyValue) -> EtcdResult<()> {
    let (key, value) = (
        String::from_utf8_lossy(&kv.key),
        String::from_utf8_lossy(&kv.value),
    );
    let mut words = value.split(' ');
    let is_probe = words.next() == Some("probe");
    let revision = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let from = words.next().unwrap_or_default();
    let Some(uid) = key.strip_prefix(prefix) else {
        return Ok(());
    };
    let query = ClaimQuery {
        is_probe,
        revision,
        // It hangs on the lease of the claim.
        lease: kv.lease,
    };
    let gives_up = match core.users.asked(uid, &query, core.lease.state().id) {
        ClaimAnswer::Other => return Ok(()),
        ClaimAnswer::Keep(_) | ClaimAnswer::Outdated => false,
        ClaimAnswer::Free => true,
        ClaimAnswer::Revoke => {
            revoke_user(core, &Arc::from(uid), ServerId::new(from).ok().as_ref());
            true
        }
    };
    let claim = binding_key(core, uid);
    let mut txn = TxnRequest {
        success: vec![RequestOp::delete(&key)],
        failure: vec![RequestOp::delete(&key)],
        ..TxnRequest::default()
    };
    if gives_up {
        txn.compare.push(Compare::unchanged(&claim, revision));
        txn.success.push(RequestOp::delete(&claim));
    }
    core.etcd.txn(txn).await.map(drop)
}

/// Reads the broadcasts of Pitaya frontends of this type, until the subscription ends.
pub(in crate::nats) async fn bindings(core: Arc<Core>, mut inbox: Inbox) {
    while let Some(message) = inbox.next().await {
        let Some(bound) = decode_or_log::<BindMsg>(&message) else {
            continue;
        };
        let from_shaddock = core
            .members
            .server(&bound.fid)
            .is_some_and(|info| info.is_shaddock());
        if *core.info.id.as_str() == *bound.fid {
            continue;
        }
        let owner = ServerId::new(bound.fid).ok();
        if from_shaddock {
            bound_at(&core, &bound.uid, owner.as_ref()).await;
        } else {
            revoke_user(&core, &bound.uid.into(), owner.as_ref());
        }
    }
}

/// Another shaddock frontend announces that it owns a user. Shaddock frontends settle that at etcd before; but if a Pitaya frontend has
/// deleted the key of this one, this server was not asked.
async fn bound_at(core: &Core, uid: &str, owner: Option<&ServerId>) {
    let Some(claim) = core.users.claim(uid) else {
        return;
    };
    let seen = match core.etcd.get(&binding_key(core, uid)).await {
        Ok(answer) => answer.kvs.first().map(found),
        Err(error) => return tracing::debug!(%error, "the claim on a user cannot be read"),
    };
    let own = Own {
        id: &core.info.id,
        lease: core.lease.state().id,
    };
    let owner = match verdict(own, seen.as_ref()) {
        Verdict::Holds(_) | Verdict::Missing(Claim::Unchanged(_)) => return,
        Verdict::Missing(_) => owner.cloned(),
        Verdict::Lost(owner) => owner,
    };
    if core.users.claim(uid) == Some(claim) {
        revoke_user(core, &Arc::from(uid), owner.as_ref());
    }
}
