//! This server's lease, the id that it holds, and its key in the list.
//!
//! One life of a server holds its id at `<prefix>shaddock/ids/<id>`, for servers of all types. That key and the one in the list are written by transactions
//! on the condition that no other life holds the id. All of it hangs on the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::client::Exchange;
use super::granted::Granted;
use super::pb::{Compare, KeyValue, LeaseRequest, LeaseResponse, RequestOp, TxnRequest};
use super::{Etcd, EtcdError, EtcdResult, record};
use crate::nats::NatsConfig;
use crate::owners::{Entry, Fence, Moment, counts_for, entry};
use crate::{ServerInfo, clock};

/// The lease of a server, kept alive; all that it writes to etcd hangs on it and vanishes with it.
pub(crate) struct Lease {
    etcd: Etcd,
    info: Arc<ServerInfo>,
    ttl: Duration,
    retry: Duration,
    /// A tool that takes part without a name of its own: it holds no id.
    hidden: bool,
    /// Tells this life of the server from others.
    life: String,
    fence: Arc<Fence>,
    state: watch::Sender<LeaseState>,
    /// Whether the server wants to be in the list.
    wanted: AtomicBool,
    /// It was in the list once: if it is missing there, something has happened.
    was_listed: AtomicBool,
    /// There was a lease before.
    had_one: AtomicBool,
    /// The key was deleted.
    restore: Notify,
}

/// The known state of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// 0 before the first.
    pub(crate) id: i64,
    /// etcd does not let go of the lease before this moment.
    pub(crate) valid_until: Moment,
    /// Since when this etcd remembers.
    pub(crate) era: u64,
    /// When etcd answered again after a silence in which leases may have ended.
    pub(crate) confirmed_again: Option<Instant>,
}

impl LeaseState {
    /// Whether etcd surely still has the lease with this id.
    pub(crate) fn holds(&self, id: i64) -> bool {
        self.id == id && self.is_valid()
    }

    /// Whether etcd surely still has it.
    pub(crate) fn is_valid(&self) -> bool {
        self.id != 0 && clock::now() < self.valid_until
    }
}

/// Why a server cannot enter the list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Another life holds the id. Its key, to be asked about.
    #[error("another server holds the id")]
    Taken(Box<KeyValue>),
}

/// A stream on which the lease is kept alive.
type Keeping = Exchange<LeaseRequest, LeaseResponse>;

enum Kept {
    Yes,
    /// etcd has no such lease.
    Lost,
    /// No reply.
    Unknown,
}

impl Lease {
    pub(crate) fn new(
        etcd: Etcd,
        info: Arc<ServerInfo>,
        config: &NatsConfig,
        listed: bool,
        token: &str,
    ) -> Self {
        let state = LeaseState {
            id: 0,
            valid_until: Moment::default(),
            era: 0,
            confirmed_again: None,
        };
        Self {
            etcd,
            // The type is for servers that check whether it has a subscriber.
            life: format!("{token} {}", info.server_type),
            info,
            ttl: config.lease_ttl,
            retry: config.etcd_retry_delay,
            hidden: !listed,
            fence: Arc::default(),
            state: watch::Sender::new(state),
            wanted: AtomicBool::new(listed),
            was_listed: AtomicBool::new(false),
            had_one: AtomicBool::new(false),
            restore: Notify::new(),
        }
    }

    /// Whether this server may act for its users.
    pub(crate) const fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    /// The state now, and a way to wait for the next.
    fn watch(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    pub(crate) fn state(&self) -> LeaseState {
        *self.state.borrow()
    }

    /// How long etcd surely keeps the lease; no time if there is none.
    pub(crate) fn left(&self) -> Duration {
        clock::now().until(self.state().valid_until)
    }

    /// How long others believe that this server lives without hearing of it.
    pub(crate) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether a server that is missing from the list is gone. Not while etcd is unreachable, nor for some time after: the leases of others
    /// may have ended only because they could not be renewed, and they return.
    pub(crate) fn absence_counts(&self, grace: Duration) -> bool {
        let state = self.state();
        self.is_fresh(&state)
            && state
                .confirmed_again
                .is_none_or(|since| since.elapsed() > grace)
    }

    /// Whether etcd has answered so lately that no lease can have ended since for want of being kept alive.
    fn is_fresh(&self, state: &LeaseState) -> bool {
        clock::now().after(self.ttl / 3) < state.valid_until
    }

    /// etcd has the lease, and was asked at this moment.
    fn confirmed(&self, id: i64, asked: Moment) {
        self.fence.confirmed(id, asked, self.ttl);
        self.state.send_modify(|state| {
            if self.had_one.swap(true, Ordering::AcqRel) && !self.is_fresh(state) {
                state.confirmed_again = Some(Instant::now());
            }
            state.id = id;
            state.valid_until = asked.after(counts_for(self.ttl));
        });
    }

    /// There is no lease any more. What hung on it is gone, however long it should have lasted.
    fn forget(&self) {
        self.fence.lease_lost();
        self.state
            .send_modify(|state| (state.id, state.valid_until) = (0, Moment::default()));
    }

    /// Whether the server wants to be in the list.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Whether the server is in the list.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_wanted() && self.was_listed.load(Ordering::Acquire) && self.state().is_valid()
    }

    /// Takes a lease and the id. The server is not in the list yet.
    pub(crate) async fn enter(&self) -> Result<(), EnterError> {
        self.register(false).await
    }

    /// Enters the list, if that is wanted. The lease and the id are there.
    pub(crate) async fn list(&self) -> Result<(), EnterError> {
        let lease = self.state().id;
        if !self.is_wanted() || self.take_id(lease, true).await? {
            return Ok(());
        }
        // Both went with the lease, which took too long.
        self.register(true).await
    }

    /// Takes a lease, the id, and a place in the list.
    async fn register(&self, listed: bool) -> Result<(), EnterError> {
        let asked = clock::now();
        let id = self.etcd.grant(self.ttl).await?;
        let granted = Granted::new(&self.etcd, id);
        let entered = async {
            let era = self.era().await?;
            self.state.send_modify(|state| state.era = era);
            self.take_id(id, listed).await
        };
        match entered.await {
            Ok(true) => {
                granted.keep();
                self.confirmed(id, asked);
                Ok(())
            }
            Ok(false) => {
                granted.hand_back().await;
                Err(EtcdError::Odd("the id changed hands meanwhile").into())
            }
            Err(error) => {
                granted.hand_back().await;
                Err(error)
            }
        }
    }

    /// Since when this etcd remembers: written by the first server that finds it without memory.
    async fn era(&self) -> EtcdResult<u64> {
        let key = self.etcd.era_key();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or_default();
        let fresh = now.max(self.state().era + 1);
        let txn = TxnRequest {
            compare: vec![Compare::missing(&key)],
            success: vec![RequestOp::put(&key, &fresh.to_string(), 0)],
            failure: vec![RequestOp::get(&key)],
        };
        let answer = self.etcd.txn(txn).await?;
        if answer.succeeded {
            return Ok(fresh);
        }
        let found = answer.responses.into_iter().find_map(|op| op.range);
        let written = found.and_then(|range| range.kvs.into_iter().next());
        let era = written.and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok());
        era.ok_or(EtcdError::Odd("`shaddock/era` is not a number; delete it"))
    }

    /// Writes the id and the place in the list under this lease, if no other life has them. False if they changed hands just now.
    async fn take_id(&self, lease: i64, listed: bool) -> Result<bool, EnterError> {
        let taken = self.write_id(lease, listed).await?;
        if taken && listed {
            self.was_listed.store(true, Ordering::Release);
        }
        if taken && listed && !self.is_wanted() && !self.hidden {
            // It was withdrawn while it was written.
            self.unlist().await?;
        }
        Ok(taken)
    }

    async fn write_id(&self, lease: i64, listed: bool) -> Result<bool, EnterError> {
        if self.hidden {
            return Ok(true);
        }
        let (id, place) = (
            self.etcd.id_key(self.info.id.as_str()),
            self.etcd.server_key(&self.info),
        );
        let mut puts = vec![RequestOp::put(&id, &self.life, lease)];
        if listed && self.is_wanted() {
            puts.push(RequestOp::put(&place, &record::write(&self.info), lease));
        }
        let txn = TxnRequest {
            compare: vec![Compare::missing(&id), Compare::missing(&place)],
            success: puts.clone(),
            failure: vec![RequestOp::get(&id), RequestOp::get(&place)],
        };
        let answer = self.etcd.txn(txn).await?;
        if answer.succeeded {
            return Ok(true);
        }
        let mut found = answer.responses.into_iter().map(|op| {
            let range = op.range.unwrap_or_default();
            range.kvs.into_iter().next()
        });
        let (holder, listed_as) = (found.next().flatten(), found.next().flatten());
        let value = holder.as_ref().map(|kv| &*kv.value);
        let condition = match (entry(value, &self.life), listed_as) {
            (Entry::Taken, _) => {
                return Err(EnterError::Taken(Box::new(holder.unwrap_or_default())));
            }
            (Entry::IfOwn, _) => Compare::has_value(&id, &self.life),
            // Written by a server that knows nothing of ids, unless it is what an operator has left of this one's.
            (Entry::IfFree, Some(kv)) if kv.lease != lease => {
                return Err(EnterError::Taken(Box::new(kv)));
            }
            (Entry::IfFree, _) => Compare::missing(&id),
        };
        let txn = TxnRequest {
            compare: vec![condition],
            success: puts,
            failure: Vec::new(),
        };
        Ok(self.etcd.txn(txn).await?.succeeded)
    }

    /// How long the lease may last on which another life holds the id; `None` if it has ended.
    pub(crate) async fn rest_of(&self, holder: &KeyValue) -> EtcdResult<Option<Duration>> {
        let rest = self.etcd.lease_keys(holder.lease).await?;
        Ok(u64::try_from(rest.ttl).ok().map(Duration::from_secs))
    }

    /// Keeps the lease alive; takes a new one when it is lost. Ends when another life holds the id.
    pub(crate) async fn keep(&self) {
        let mut stream = None;
        let mut look = false;
        loop {
            let next = self.ttl / 3;
            let wait = match self.renew(&mut stream).await {
                Kept::Yes => {
                    if std::mem::take(&mut look) {
                        match self.put_again().await {
                            Err(EnterError::Taken(_)) => return,
                            // The key went with the lease: the next renewal finds that out.
                            Err(EnterError::Etcd(error)) if error.is_no_lease() => continue,
                            Ok(()) | Err(_) => {}
                        }
                    }
                    next
                }
                Kept::Unknown => self.retry.min(next),
                Kept::Lost => {
                    tracing::warn!(server = %self.info.id, "the lease in etcd is lost; taking a new one");
                    stream = None;
                    self.forget();
                    loop {
                        match self.register(true).await {
                            Ok(()) => break,
                            Err(EnterError::Taken(_)) => return,
                            Err(error) => {
                                tracing::warn!(server = %self.info.id, %error, "no new lease yet");
                            }
                        }
                        sleep(self.retry).await;
                    }
                    tracing::info!(server = %self.info.id, "listed again with a new lease");
                    next
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.restore.notified() => look = true,
            }
        }
    }

    async fn renew(&self, stream: &mut Option<Keeping>) -> Kept {
        let id = self.state().id;
        let asked = clock::now();
        let bound = self.ttl / 3;
        let asking = async {
            let exchange = match stream {
                Some(exchange) => {
                    exchange.ask.send(LeaseRequest { id }).await.ok()?;
                    exchange
                }
                // Opening the stream asks once.
                None => stream.insert(self.etcd.keep_alive(id).await.ok()?),
            };
            exchange
                .answers
                .message()
                .await
                .ok()?
                .map(|answer| answer.ttl)
        };
        let answered = timeout(bound, asking).await.ok().flatten();
        match answered {
            Some(ttl) if ttl > 0 => {
                self.confirmed(id, asked);
                Kept::Yes
            }
            Some(_) => Kept::Lost,
            None => {
                // The rest of the stream could contain the reply to an old question.
                *stream = None;
                Kept::Unknown
            }
        }
    }

    /// The key in the list is gone, or belongs to another incarnation, although this server did not change it: it is checked soon, and a
    /// new lease is taken if necessary.
    pub(crate) fn restore(&self) {
        self.restore.notify_one();
    }

    /// Writes the key in the list again, or says why not.
    async fn put_again(&self) -> Result<(), EnterError> {
        match self.take_id(self.state().id, true).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.restore();
                Ok(())
            }
            Err(EnterError::Taken(holder)) => {
                self.forget();
                Err(EnterError::Taken(holder))
            }
            Err(error) => {
                tracing::warn!(server = %self.info.id, %error, "the key in etcd was deleted and cannot be written again");
                Err(error)
            }
        }
    }

    /// Takes the server out of the list; the lease and the id stay, for what else hangs on them.
    pub(crate) async fn withdraw(&self) {
        if !self.wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.unlist().await {
            tracing::warn!(server = %self.info.id, %error, "cannot leave the list; the lease will expire");
        }
    }

    /// Deletes the key in the list, if this life holds the id.
    async fn unlist(&self) -> EtcdResult<()> {
        let id = self.etcd.id_key(self.info.id.as_str());
        let txn = TxnRequest {
            compare: vec![Compare::has_value(&id, &self.life)],
            success: vec![RequestOp::delete(&self.etcd.server_key(&self.info))],
            failure: Vec::new(),
        };
        self.etcd.txn(txn).await.map(drop)
    }

    /// Gives the lease back, and with it everything that hangs on it.
    pub(crate) async fn revoke(&self) {
        self.wanted.store(false, Ordering::Release);
        let id = self.state().id;
        if id == 0 {
            return;
        }
        // No request may be sent for users whose claims end now.
        self.fence.lease_lost();
        if let Err(error) = self.etcd.revoke(id).await {
            tracing::warn!(server = %self.info.id, %error, "cannot revoke the lease; it will expire");
        }
        self.forget();
    }

    /// Done when this lease is no longer surely held.
    pub(crate) async fn until_doubtful(&self, id: i64) {
        let mut changes = self.watch();
        loop {
            let state = *changes.borrow_and_update();
            if !state.holds(id) {
                return;
            }
            tokio::select! {
                () = sleep(clock::now().until(state.valid_until)) => {}
                over = changes.changed() => if over.is_err() { return },
            }
        }
    }
}
