//! Unique sessions across frontends: carries out at NATS and etcd what [`crate::owners`] decides, where the rules are written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Subject;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::core::{Core, is_shaddock};
use super::inbox::Inbox;
use super::join::LinkState;
use super::ops;
use super::serve::decode_or_log;
use super::subject;
use super::wire::{self, BindMsg, Op, OpKind};
use crate::clock;
use crate::etcd::pb::{Compare, KeyValue, RequestOp, TxnRequest, TxnResponse};
use crate::etcd::{EtcdError, EtcdResult, LeaseState};
use crate::owners::{
    Asked, Asks, Claim, Found, Heard, Kind, Number, Own, Step, Takeover, Verdict, Word, verdict,
};
use crate::quiet::quiet;
use crate::reply::guarded;
use crate::{BindError, RemoteErrorKind, ServerId, ServerInfo, Unique};

/// How long the owner of a user is waited for each time that it is asked.
const ASK_OWNER: Duration = Duration::from_secs(1);
/// Time between looks at a claim whose owner says nothing.
const LOOK: Duration = Duration::from_millis(250);
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

/// Time between looks at the size of etcd, and while it is full.
const ETCD_SIZE: Duration = Duration::from_secs(60);
const ETCD_FULL: Duration = Duration::from_secs(5);

/// Users who are another's, as a server has said, and are not looked at yet.
pub(super) const REFUSALS: usize = 1024;

/// Nothing can be claimed now.
const NO_LEASE: EtcdError = EtcdError::Odd("this server has no lease");

/// Makes this frontend the owner of a user. The caller bounds the time; then `waits_for` is the frontend that said nothing.
pub(super) async fn claim(
    core: &Arc<Core>,
    uid: &Arc<str>,
    waits_for: &mut Option<ServerId>,
) -> Result<(), BindError> {
    let mut takeover = Takeover::new(core.options.unique);
    let mut heard = Heard::Nothing;
    loop {
        if core.is_fenced() {
            wait_until_sure(core).await?;
        }
        let unavailable = |e: EtcdError| BindError::Unavailable(e.to_string());
        let own = Own {
            id: &core.info.id,
            lease: core.lease.state().id,
        };
        let step = takeover.next(own, heard, |owner| kind(core, owner));
        heard = match step {
            Step::Write(claim) => {
                let seen = takeover.waits_for().cloned();
                write(core, uid, claim, seen).await.map_err(unavailable)?
            }
            Step::Ask {
                owner,
                revision,
                lease,
            } => {
                waits_for.clone_from(&Some(owner.clone()));
                Heard::Says(ask(core, owner, (revision, lease), uid).await)
            }
            Step::Tell {
                owner,
                revision,
                lease,
            } => {
                tell(core, &owner, revision, lease, uid)
                    .await
                    .map_err(unavailable)?;
                Heard::Told
            }
            Step::Wait => {
                sleep(LOOK).await;
                let owner = takeover.waits_for();
                waits_for.clone_from(&owner.cloned());
                read(core, uid, owner).await.map_err(unavailable)?
            }
            Step::Owned { after_pitaya, .. } => {
                if after_pitaya {
                    core.users.key_may_go.notify_one();
                }
                tell_pitaya(core, uid);
                return Ok(());
            }
            Step::Taken(owner) => return Err(BindError::Taken(owner)),
        };
    }
}

/// A bind that comes before this frontend is sure of its users waits for that, and not longer than a push would wait.
async fn wait_until_sure(core: &Core) -> Result<(), BindError> {
    let sure = async {
        loop {
            let sure = core.sure.notified();
            if !core.is_fenced() {
                return;
            }
            // The lease alone may come back, which nobody tells.
            let _ = tokio::time::timeout(LOOK, sure).await;
        }
    };
    let cut_off = |_| BindError::Unavailable("this server is cut off".to_owned());
    tokio::time::timeout(core.config.push_timeout(), sure)
        .await
        .map_err(cut_off)
}

/// A bind did not end in time.
pub(super) fn took_too_long(waits_for: Option<ServerId>) -> BindError {
    BindError::Unavailable(match waits_for {
        Some(owner) => format!(
            "{owner} has the user and says nothing; if it is dead, the user is free when its lease ends (`lease_ttl`)"
        ),
        None => "it took too long".to_owned(),
    })
}

fn kind(core: &Core, owner: &ServerId) -> Kind {
    match core.members.server(owner.as_str()) {
        Some(info) if !is_shaddock(&info) => Kind::Pitaya,
        _ => Kind::Ours,
    }
}

/// Pitaya frontends of this type learn of a bind by a broadcast.
fn tell_pitaya(core: &Core, uid: &Arc<str>) {
    if core.has_pitaya_frontend(&core.info.server_type) {
        let bound = BindMsg {
            uid: uid.to_string(),
            fid: core.info.id.as_str().to_owned(),
        };
        let subject = Subject::from(subject::bindings(&core.info.server_type));
        if let Err(error) = core.link.publish(subject, None, wire::encode(&bound)) {
            quiet!(warn, "Pitaya frontends were not told of a bind", %error);
        }
    }
}

fn binding_key(core: &Core, uid: &str) -> String {
    core.etcd.binding_key(&core.info.server_type, uid)
}

/// Where the owner of a user is left a notice.
fn notice_key(core: &Core, owner: &ServerId, uid: &str) -> String {
    format!("{}{uid}", core.etcd.asks_key(owner.as_str()))
}

fn found(kv: &KeyValue) -> Found {
    Found {
        owner: ServerId::new(String::from_utf8_lossy(&kv.value)).ok(),
        lease: kv.lease,
        revision: kv.mod_revision,
    }
}

/// What a transaction has read: the claim, and whether there is a notice.
fn heard_of(answer: TxnResponse) -> Heard {
    let mut ranges = answer.responses.into_iter().map(|response| {
        let range = response.range.unwrap_or_default();
        range.kvs.into_iter().next()
    });
    Heard::Found {
        found: ranges.next().flatten().as_ref().map(found),
        notice: ranges.next().flatten().is_some(),
    }
}

fn reads(core: &Core, uid: &str, owner: Option<&ServerId>) -> Vec<RequestOp> {
    let mut gets = vec![RequestOp::get(&binding_key(core, uid))];
    gets.extend(owner.map(|owner| RequestOp::get(&notice_key(core, owner, uid))));
    gets
}

async fn read(core: &Core, uid: &str, owner: Option<&ServerId>) -> EtcdResult<Heard> {
    // Without a condition it always succeeds.
    let txn = TxnRequest {
        success: reads(core, uid, owner),
        ..TxnRequest::default()
    };
    Ok(heard_of(core.etcd.txn(txn).await?))
}

/// Writes this server as the owner if the condition holds. What is written is in the table when this is done, also if nobody waits for it any more.
async fn write(
    core: &Arc<Core>,
    uid: &Arc<str>,
    claim: Claim,
    seen: Option<ServerId>,
) -> EtcdResult<Heard> {
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
) -> EtcdResult<Heard> {
    if !answer.succeeded {
        return Ok(heard_of(answer));
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
    Ok(Heard::Written(revision))
}

/// Asks the owner over NATS whether it gives the user up.
async fn ask(core: &Arc<Core>, owner: ServerId, claim: (i64, i64), uid: &str) -> Word {
    let listed = core.members.server(owner.as_str());
    let info = listed.unwrap_or_else(|| Arc::new(of_same_type(core, owner)));
    let kind = if core.options.unique == Unique::RejectNew {
        OpKind::Probe
    } else {
        OpKind::Release
    };
    match ops::ask_owner(core, &info, kind, uid, claim, ASK_OWNER).await {
        Ok(Some(0)) => Word::GivesUp,
        Ok(Some(_)) => Word::Keeps,
        Ok(None) => Word::Silent,
        Err(error) if error.kind() == RemoteErrorKind::NoResponder => Word::Unheard,
        // This server's own link: etcd may still reach the owner.
        Err(error) => {
            tracing::debug!(%error, "the owner of a user cannot be asked over NATS");
            Word::Silent
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
        told: crate::info::Told::default(),
    }
}

/// Leaves the owner a notice at etcd, on the lease of its claim.
async fn tell(
    core: &Core,
    owner: &ServerId,
    revision: i64,
    lease: i64,
    uid: &str,
) -> EtcdResult<()> {
    let only_whether = core.options.unique == Unique::RejectNew;
    let what = if only_whether { "probe" } else { "release" };
    let notice = format!("{what} {revision} {}", core.info.id);
    let told = core
        .etcd
        .put(notice_key(core, owner, uid), notice, lease)
        .await;
    match told {
        // The claim is gone too.
        Err(error) if error.is_no_lease() => Ok(()),
        told => told,
    }
}

/// Another frontend asks about a user, over NATS. The answer is how many of the user's sessions stay here; `None` is none.
pub(super) fn asked(core: &Core, kind: OpKind, op: &Op) -> Option<u32> {
    let asks = Asks {
        only_whether: kind == OpKind::Probe,
        revision: op.revision,
        lease: op.lease,
    };
    Some(
        match core.users.asked(&op.uid, &asks, core.lease.state().id) {
            Asked::Other => return None,
            Asked::Keep(sessions) => u32::try_from(sessions).unwrap_or(u32::MAX),
            Asked::Free | Asked::Outdated => 0,
            Asked::Lose => {
                let owner = ServerId::new(op.from.as_str()).ok();
                lose(core, &Arc::from(op.uid.as_str()), owner.as_ref());
                0
            }
        },
    )
}

/// Another frontend owns this user now.
fn lose(core: &Core, uid: &Arc<str>, owner: Option<&ServerId>) {
    core.users.lose(uid);
    guarded("bound_elsewhere", || core.node.bound_elsewhere(uid, owner));
}

/// Reads the notices that others leave at etcd for this frontend, for ever.
pub(super) async fn notices(core: Arc<Core>) {
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
    let only_whether = words.next() == Some("probe");
    let revision = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let from = words.next().unwrap_or_default();
    let Some(uid) = key.strip_prefix(prefix) else {
        return Ok(());
    };
    let asks = Asks {
        only_whether,
        revision,
        // It hangs on the lease of the claim.
        lease: kv.lease,
    };
    let gives_up = match core.users.asked(uid, &asks, core.lease.state().id) {
        Asked::Other => return Ok(()),
        Asked::Keep(_) | Asked::Outdated => false,
        Asked::Free => true,
        Asked::Lose => {
            lose(core, &Arc::from(uid), ServerId::new(from).ok().as_ref());
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

/// Reads what Pitaya frontends of this type broadcast, until the subscription ends.
pub(super) async fn bindings(core: Arc<Core>, mut inbox: Inbox) {
    while let Some(message) = inbox.next().await {
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
    let seen = match core.etcd.get(&binding_key(core, uid)).await {
        Ok(answer) => answer.kvs.first().map(found),
        Err(error) => return tracing::debug!(%error, "who owns a user cannot be read"),
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
        lose(core, &Arc::from(uid), owner.as_ref());
    }
}

/// Deletes claims that are no longer needed, unless another frontend has written over them.
pub(super) async fn delete_given_up(core: Arc<Core>) {
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

/// Looks after the claims of this frontend while it cannot be sure that it owns its users, and now and then, for ever.
pub(super) async fn guard(core: Arc<Core>, mut link: watch::Receiver<LinkState>) {
    let mut sure = (core.lease.state().id, link.borrow().losses);
    let mut next_audit = Instant::now() + core.config.sync_interval;
    let mut looks_again = false;
    loop {
        tokio::select! {
            () = core.lease.until_doubtful(sure.0) => {}
            lost = lost_again(&mut link, sure.1) => if !lost { return },
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
        say_fenced(&core, true);
        sure = make_sure(&core, &mut link, sure.0).await;
        if core.left.load(Ordering::Acquire) {
            return;
        }
        say_fenced(&core, false);
        // A frontend of an older version takes users whose owner it does not hear, and may do so until it hears this one.
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
async fn make_sure(
    core: &Arc<Core>,
    link: &mut watch::Receiver<LinkState>,
    before: i64,
) -> (i64, u64) {
    while !core.left.load(Ordering::Acquire) {
        let losses = match link.wait_for(|state| state.up).await {
            Ok(state) => state.losses,
            Err(_) => break,
        };
        // Pitaya's frontends take users without asking, and tell of it over NATS only.
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
            // What was read counts if nothing was lost meanwhile.
            Ok(()) if core.lease.fence().settle(ticket, clock::now()) => return (lease.id, losses),
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "still unsure who owns the users of this frontend");
            }
        }
        sleep(core.config.etcd_retry_delay.min(LOOK)).await;
    }
    (0, 0)
}

/// Checks the claims a second time, a while after this frontend became sure of them, or after it got a user from a Pitaya frontend.
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
        Err(error) => return tracing::debug!(%error, "the claims cannot be looked after now"),
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
        tracing::debug!(%error, "the claims cannot be looked after now");
    }
}

/// Looks now and then how full etcd is, and often while it takes no writes. For ever.
pub(super) async fn watch_etcd(core: Arc<Core>) {
    loop {
        match core.etcd.status().await {
            Ok(status) => core.etcd_size.seen(&status),
            Err(error) => tracing::debug!(%error, "the size of etcd is not known"),
        }
        let pause = if core.etcd_size.is_full() {
            ETCD_FULL
        } else {
            ETCD_SIZE.min(core.config.sync_interval)
        };
        sleep(pause).await;
    }
}

/// Looks at etcd for users in whose name this frontend was refused to act: they are another's, and their sessions here are closed. For ever.
pub(super) async fn look_after_refused(core: Arc<Core>, mut refused: mpsc::Receiver<Arc<str>>) {
    while let Some(uid) = refused.recv().await {
        let Some(number) = core.users.claim(&uid) else {
            continue;
        };
        tracing::debug!(
            uid = &*uid,
            "a request of a user was refused: another frontend owns them"
        );
        if let Err(error) = check_claims(&core, core.lease.state(), vec![(uid, number)]).await {
            tracing::debug!(%error, "who owns a user cannot be read");
        }
    }
}

/// Tells the node whether this frontend may act for its users.
pub(super) fn say_fenced(core: &Core, fenced: bool) {
    if fenced && core.left.load(Ordering::Acquire) {
        // Its lease ends because it goes.
        return;
    }
    if core.said_fenced.swap(fenced, Ordering::AcqRel) != fenced {
        if fenced {
            tracing::warn!(server = %core.info.id, "cut off: another frontend may own the users of this one");
        } else {
            tracing::info!(server = %core.info.id, "sure again who owns the users of this frontend");
        }
        guarded("fenced", || core.node.fenced(fenced));
        core.sure.notify_waiters();
    }
}

/// Reads who owns these users; gives up those who are others', and writes the missing claims again.
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
            Verdict::Lost(owner) => lost(core, uid, *number, owner.as_ref()),
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
        let Heard::Found { found: seen, .. } = write(core, uid, claim, None).await? else {
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
                lost(core, uid, number, owner.as_ref());
                return Ok(());
            }
            Verdict::Missing(claim) => claim,
        };
    }
    Err(EtcdError::Odd("a claim changed meanwhile"))
}

/// A key names another owner. It may have been read before its user was bound here anew.
fn lost(core: &Core, uid: &Arc<str>, number: Number, owner: Option<&ServerId>) {
    if core.users.claim(uid) == Some(number) {
        lose(core, uid, owner);
    }
}
