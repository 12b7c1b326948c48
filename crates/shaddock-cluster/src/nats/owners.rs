//! Unique sessions across frontends: the owner of a user is a key at etcd, and it changes hands by compare-and-swap.
//!
//! The key `<prefix>bindings/<type>/<uid>` holds the owner's server id and hangs on the owner's lease. Who wants the user
//! creates the key; if there is one, he asks its owner to give the user up and then replaces exactly the version that he
//! saw. An owner that does not listen any more is dead, or is cut off and knows it: a frontend whose connection to NATS is
//! down, or whose lease may have ended, is *fenced*: it delivers nothing to its bound users and forwards nothing of them
//! until it has read at etcd which of them it still owns. An owner that listens but does not answer keeps the user until
//! its lease ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Subject, Subscriber};
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::core::{Core, is_shaddock};
use super::join::LinkState;
use super::serve::decode_or_log;
use super::wire::{self, BindMsg, OpKind};
use super::{ops, subject};
use crate::etcd::pb::{Compare, KeyValue, RequestOp, TxnRequest};
use crate::etcd::{EtcdError, EtcdResult, LeaseState};
use crate::reply::guarded;
use crate::{BindError, RemoteErrorKind, ServerId, ServerInfo, Unique};

/// How long the owner of a user is waited for each time he is asked.
const ASK_OWNER: Duration = Duration::from_secs(1);
/// Time between questions to an owner who does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// When a frontend that is sure again looks once more. Another one that is connected to another server of a NATS cluster may not find it
/// until all of them know its subscriptions, and take its users for those of a dead one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Keys in one transaction; etcd's default bound is 128 operations.
const BATCH: usize = 128;

/// Nothing can be claimed now.
const NO_LEASE: EtcdError = EtcdError::Odd("this server has no lease");

/// A claim of this server on a user.
pub(super) struct Claim {
    pub(super) uid: Arc<str>,
    pub(super) revision: i64,
}

/// What the present owner says.
enum Owner {
    GivesUp,
    /// It learns afterwards that it has lost the user; when it closes the session, it deletes the key, whosever that is then.
    Pitaya,
    Keeps,
    Silent,
    /// Nobody listens there.
    Gone(Arc<ServerInfo>),
}

/// Makes this frontend the owner of a user. The caller bounds the time.
pub(super) async fn claim(core: &Arc<Core>, uid: &Arc<str>) -> Result<(), BindError> {
    let key = core.etcd.binding_key(&core.info.server_type, uid);
    loop {
        if core.fenced.load(Ordering::Acquire) {
            return Err(BindError::Unavailable("this server is cut off".to_owned()));
        }
        let unavailable = |e: EtcdError| BindError::Unavailable(e.to_string());
        let free = Compare::missing(&key);
        let claimed = write(core, &key, free).await.map_err(unavailable)?;
        let seen = match claimed {
            Written::Yes(revision) => {
                owned(core, uid, revision);
                return Ok(());
            }
            Written::No(None) => continue,
            Written::No(Some(seen)) => seen,
        };
        match ask(core, &seen, uid).await {
            Ok(answer @ (Owner::GivesUp | Owner::Pitaya | Owner::Gone(_))) => {
                let same = Compare::unchanged(&key, seen.mod_revision);
                if let Written::Yes(revision) =
                    write(core, &key, same).await.map_err(unavailable)?
                {
                    owned(core, uid, revision);
                    match answer {
                        // It may have come back before the key was written, and have read there that the user is its own.
                        Owner::Gone(before) => ops::tell_owner(core, &before, uid),
                        Owner::Pitaya => core.users.key_may_go.notify_one(),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            Ok(Owner::Keeps) => {
                let owner = ServerId::new(String::from_utf8_lossy(&seen.value)).ok();
                return Err(BindError::Taken(
                    owner.unwrap_or_else(|| core.info.id.clone()),
                ));
            }
            Ok(Owner::Silent) => sleep(ASK_AGAIN).await,
            Err(error) => return Err(BindError::Unavailable(error.to_string())),
        }
    }
}

fn owned(core: &Core, uid: &Arc<str>, revision: i64) {
    core.users.claimed(uid, revision);
    if core.has_pitaya_frontend(&core.info.server_type) {
        let bound = BindMsg {
            uid: uid.to_string(),
            fid: core.info.id.as_str().to_owned(),
        };
        let subject = Subject::from(subject::bindings(&core.info.server_type));
        if let Err(error) = core.link.publish(subject, None, wire::encode(&bound)) {
            tracing::warn!(%error, "Pitaya frontends were not told of a bind");
        }
    }
}

enum Written {
    Yes(i64),
    /// What is there instead.
    No(Option<KeyValue>),
}

/// Writes this server as the owner if the condition holds.
async fn write(core: &Core, key: &str, condition: Compare) -> EtcdResult<Written> {
    let lease = core.lease.state();
    if !lease.is_valid() {
        return Err(NO_LEASE);
    }
    let txn = TxnRequest {
        compare: vec![condition],
        success: vec![RequestOp::put(key, core.info.id.as_str(), lease.id)],
        failure: vec![RequestOp::get(key)],
    };
    let answer = core.etcd.txn(txn).await?;
    if answer.succeeded {
        return Ok(Written::Yes(
            answer.header.map_or(0, |header| header.revision),
        ));
    }
    let got = answer
        .responses
        .into_iter()
        .next()
        .and_then(|response| response.range);
    Ok(Written::No(
        got.and_then(|range| range.kvs.into_iter().next()),
    ))
}

/// Asks the owner that a key names whether he gives the user up.
async fn ask(core: &Arc<Core>, seen: &KeyValue, uid: &str) -> Result<Owner, crate::RemoteError> {
    let Ok(owner) = ServerId::new(String::from_utf8_lossy(&seen.value)) else {
        return Ok(Owner::GivesUp);
    };
    if owner == core.info.id {
        // An earlier session, or an earlier life of this server.
        return Ok(Owner::GivesUp);
    }
    let listed = core.members.server(owner.as_str());
    if listed.as_ref().is_some_and(|info| !is_shaddock(info)) {
        // A Pitaya frontend is told by a broadcast after the fact.
        let keeps = core.options.unique == Unique::RejectNew;
        return Ok(if keeps { Owner::Keeps } else { Owner::Pitaya });
    }
    let info = listed.unwrap_or_else(|| Arc::new(of_same_type(core, owner)));
    let kind = if core.options.unique == Unique::RejectNew {
        OpKind::Probe
    } else {
        OpKind::Release
    };
    match ops::ask_owner(core, &info, kind, uid, ASK_OWNER).await {
        Ok(Some(0)) => Ok(Owner::GivesUp),
        Ok(Some(_)) => Ok(Owner::Keeps),
        Ok(None) => Ok(Owner::Silent),
        Err(error) if error.kind() == RemoteErrorKind::NoResponder => Ok(Owner::Gone(info)),
        Err(error) => Err(error),
    }
}

fn of_same_type(core: &Core, id: ServerId) -> ServerInfo {
    ServerInfo {
        id,
        server_type: Arc::clone(&core.info.server_type),
        frontend: true,
        metadata: std::collections::BTreeMap::new(),
        hostname: String::new(),
    }
}

/// Another frontend asks about a user. The answer is how many of his sessions stay here.
pub(super) fn asked(core: &Core, kind: OpKind, uid: &str, from: &str) -> u32 {
    if kind == OpKind::Probe {
        return u32::try_from(core.users.sessions(uid)).unwrap_or(u32::MAX);
    }
    lose(core, &Arc::from(uid), ServerId::new(from).ok().as_ref());
    0
}

/// Another frontend owns this user now.
fn lose(core: &Core, uid: &Arc<str>, owner: Option<&ServerId>) {
    core.users.lose(uid);
    guarded("bound_elsewhere", || core.node.bound_elsewhere(uid, owner));
}

/// Reads what Pitaya frontends of this type broadcast, until the subscription ends.
pub(super) async fn bindings(core: Arc<Core>, mut subscription: Subscriber) {
    while let Some(message) = subscription.next().await {
        let Some(bound) = decode_or_log::<BindMsg>(&message) else {
            continue;
        };
        let from_shaddock = core
            .members
            .server(&bound.fid)
            .is_some_and(|info| is_shaddock(&info));
        if *core.info.id.as_str() == *bound.fid {
            continue;
        }
        let owner = ServerId::new(bound.fid).ok();
        if from_shaddock {
            bound_at(&core, &bound.uid, owner.as_ref()).await;
        } else {
            lose(&core, &bound.uid.into(), owner.as_ref());
        }
    }
}

/// Another frontend of ours says that a user is its own. Among themselves these settle it at etcd before; but if a Pitaya frontend has deleted
/// the key of this one, nobody has asked here.
async fn bound_at(core: &Core, uid: &str, owner: Option<&ServerId>) {
    let Some(claim) = core.users.claim(uid) else {
        return;
    };
    let key = core.etcd.binding_key(&core.info.server_type, uid);
    let seen = match core.etcd.get(&key).await {
        Ok(answer) => answer.kvs.into_iter().next(),
        Err(error) => return tracing::debug!(%error, "who owns a user cannot be read"),
    };
    match seen {
        Some(kv) if *kv.value == *core.info.id.as_str().as_bytes() => {}
        Some(kv) => lost(core, &claim, &kv),
        None if core.users.holds(&claim) => lose(core, &claim.uid, owner),
        None => {}
    }
}

/// Deletes claims that are no longer needed, unless somebody has written over them.
pub(super) async fn delete_given_up(core: Arc<Core>, mut given_up: mpsc::UnboundedReceiver<Claim>) {
    while let Some(claim) = given_up.recv().await {
        let key = core.etcd.binding_key(&core.info.server_type, &claim.uid);
        loop {
            let txn = TxnRequest {
                compare: vec![Compare::unchanged(&key, claim.revision)],
                success: vec![RequestOp::delete(&key)],
                failure: Vec::new(),
            };
            match core.etcd.txn(txn).await {
                Ok(_) => break,
                // Meanwhile the key says that the user is here, which the next bind elsewhere finds out by asking.
                Err(error) => tracing::debug!(%error, "a claim cannot be deleted yet"),
            }
            sleep(core.config.etcd_retry_delay).await;
        }
    }
}

/// Fences this frontend while it cannot be sure that it owns its users, for ever.
pub(super) async fn guard(core: Arc<Core>, mut link: watch::Receiver<LinkState>) {
    let mut sure = (core.lease.state().id, link.borrow().losses);
    let mut looks_again = false;
    loop {
        tokio::select! {
            () = core.lease.until_doubtful(sure.0) => {}
            lost = link.wait_for(|state| state.losses != sure.1) => if lost.is_err() { return },
            () = look_again(&core), if looks_again => {
                looks_again = false;
                continue;
            }
            () = core.users.key_may_go.notified(), if !looks_again => {
                looks_again = true;
                continue;
            }
        }
        fence(&core, true);
        sure = loop {
            let losses = match link.wait_for(|state| state.up).await {
                Ok(state) => state.losses,
                Err(_) => return,
            };
            // Who takes a user from now on can ask for him: only then it counts what etcd says.
            if !core.link.round_trip(ASK_OWNER).await {
                sleep(ASK_AGAIN).await;
                continue;
            }
            let lease = core.lease.state();
            match check_claims(&core, lease).await {
                // What was read counts if nothing was lost meanwhile.
                Ok(()) if core.lease.state().holds(lease.id) && link.borrow().losses == losses => {
                    break (lease.id, losses);
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "still unsure who owns the users of this frontend");
                }
            }
            sleep(core.config.etcd_retry_delay.min(ASK_AGAIN)).await;
        };
        fence(&core, false);
        looks_again = true;
    }
}

/// Checks the claims a second time, a while after this frontend became sure of them, or after it got a user from a Pitaya frontend.
async fn look_again(core: &Core) {
    sleep(LOOK_AGAIN).await;
    while let Err(error) = check_claims(core, core.lease.state()).await {
        tracing::debug!(%error, "the claims cannot be checked again yet");
        sleep(ASK_AGAIN).await;
    }
}

/// Says whether this frontend may act for its users.
pub(super) fn fence(core: &Core, fenced: bool) {
    if core.fenced.swap(fenced, Ordering::AcqRel) != fenced {
        if fenced {
            tracing::warn!(server = %core.info.id, "cut off: another frontend may own the users of this one");
        } else {
            tracing::info!(server = %core.info.id, "sure again who owns the users of this frontend");
        }
        guarded("fenced", || core.node.fenced(fenced));
    }
}

/// Reads who owns the users of this frontend; gives up those who are others', and writes the missing claims again.
async fn check_claims(core: &Core, lease: LeaseState) -> EtcdResult<()> {
    if !lease.is_valid() {
        return Err(NO_LEASE);
    }
    for claims in core.users.claims().chunks(BATCH) {
        let gets: Vec<_> = claims
            .iter()
            .map(|claim| RequestOp::get(&core.etcd.binding_key(&core.info.server_type, &claim.uid)))
            .collect();
        // Without a condition it always succeeds.
        let answer = core
            .etcd
            .txn(TxnRequest {
                success: gets,
                ..TxnRequest::default()
            })
            .await?;
        for (claim, response) in claims.iter().zip(answer.responses) {
            let seen = response
                .range
                .and_then(|range| range.kvs.into_iter().next());
            check_claim(core, lease, claim, seen).await?;
        }
    }
    Ok(())
}

async fn check_claim(
    core: &Core,
    lease: LeaseState,
    claim: &Claim,
    seen: Option<KeyValue>,
) -> EtcdResult<()> {
    let is_own = |kv: &KeyValue| *kv.value == *core.info.id.as_str().as_bytes();
    let key = core.etcd.binding_key(&core.info.server_type, &claim.uid);
    let condition = match &seen {
        None => Compare::missing(&key),
        Some(kv) if is_own(kv) && kv.lease == lease.id => return Ok(()),
        Some(kv) if is_own(kv) => Compare::unchanged(&key, kv.mod_revision),
        Some(kv) => {
            lost(core, claim, kv);
            return Ok(());
        }
    };
    // Unless the user has gone, or was bound anew: that is no matter of this claim.
    if !core.users.holds(claim) {
        return Ok(());
    }
    match write(core, &key, condition).await? {
        Written::Yes(revision) => core.users.claimed(&claim.uid, revision),
        Written::No(Some(kv)) if is_own(&kv) => {}
        Written::No(Some(kv)) => lost(core, claim, &kv),
        Written::No(None) => return Err(EtcdError::Odd("a claim was deleted meanwhile")),
    }
    Ok(())
}

/// A key names another owner. It may have been read before its user was bound here anew.
fn lost(core: &Core, claim: &Claim, kv: &KeyValue) {
    if core.users.holds(claim) {
        let owner = ServerId::new(String::from_utf8_lossy(&kv.value)).ok();
        lose(core, &claim.uid, owner.as_ref());
    }
}
