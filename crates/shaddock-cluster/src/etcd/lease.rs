//! This server's lease and its key in the list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::Exchange;
use super::pb::{Compare, LeaseRequest, LeaseResponse, RequestOp, TxnRequest};
use super::{Etcd, EtcdResult, record};
use crate::ServerInfo;
use crate::nats::NatsConfig;

/// The lease of a server, kept alive; all that it writes to etcd hangs on it and vanishes with it.
pub(crate) struct Lease {
    etcd: Etcd,
    info: Arc<ServerInfo>,
    ttl: Duration,
    retry: Duration,
    state: watch::Sender<LeaseState>,
    /// Whether the server wants to be in the list.
    wanted: AtomicBool,
    /// There was a lease before.
    had_one: AtomicBool,
    /// The key was deleted.
    restore: Notify,
}

/// What is known of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// 0 before the first.
    pub(crate) id: i64,
    /// etcd does not let go of the lease before this moment: it was asked to keep it at (this − ttl) or later.
    pub(crate) valid_until: Instant,
    /// When etcd answered again after a silence in which leases may have ended.
    pub(crate) heard_again: Option<Instant>,
}

impl LeaseState {
    /// Whether etcd surely still has the lease with this id.
    pub(crate) fn holds(&self, id: i64) -> bool {
        self.id == id && self.is_valid()
    }

    /// Whether etcd surely still has it.
    pub(crate) fn is_valid(&self) -> bool {
        self.id != 0 && Instant::now() < self.valid_until
    }
}

/// A stream on which the lease is kept alive.
type Keeping = Exchange<LeaseRequest, LeaseResponse>;

enum Kept {
    Yes,
    /// etcd says that there is no such lease.
    Lost,
    /// Nothing was heard.
    Unknown,
}

impl Lease {
    pub(crate) fn new(
        etcd: Etcd,
        info: Arc<ServerInfo>,
        config: &NatsConfig,
        listed: bool,
    ) -> Self {
        let state = LeaseState {
            id: 0,
            valid_until: Instant::now(),
            heard_again: None,
        };
        Self {
            etcd,
            info,
            ttl: config.lease_ttl,
            retry: config.etcd_retry_delay,
            state: watch::Sender::new(state),
            wanted: AtomicBool::new(listed),
            had_one: AtomicBool::new(false),
            restore: Notify::new(),
        }
    }

    /// The state now, and a way to wait for the next.
    fn watch(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    pub(crate) fn state(&self) -> LeaseState {
        *self.state.borrow()
    }

    /// How long others believe that this server lives without hearing of it.
    pub(crate) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether a server that is missing in the list is gone. Not while etcd is silent, nor for some time after: the
    /// leases of others may have ended only because nobody could keep them alive, and they come back.
    pub(crate) fn absence_counts(&self, grace: Duration) -> bool {
        let state = self.state();
        self.is_fresh(&state)
            && state
                .heard_again
                .is_none_or(|since| since.elapsed() > grace)
    }

    /// Whether etcd has answered so lately that no lease can have ended since for want of being kept alive.
    fn is_fresh(&self, state: &LeaseState) -> bool {
        Instant::now() + self.ttl / 3 < state.valid_until
    }

    /// etcd has the lease since a moment.
    fn heard(&self, id: i64, asked: Instant) {
        self.state.send_modify(|state| {
            if self.had_one.swap(true, Ordering::AcqRel) && !self.is_fresh(state) {
                state.heard_again = Some(Instant::now());
            }
            state.id = id;
            state.valid_until = asked + self.ttl;
        });
    }

    /// Whether the server wants to be in the list.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Whether the server is in the list.
    pub(crate) fn is_listed(&self) -> bool {
        self.wanted.load(Ordering::Acquire) && self.state().is_valid()
    }

    /// Takes a lease and, if wanted, lists the server under it.
    pub(crate) async fn register(&self) -> EtcdResult<()> {
        let asked = Instant::now();
        let id = self.etcd.grant(self.ttl).await?;
        if self.wanted.load(Ordering::Acquire) {
            self.put(id).await?;
        }
        self.heard(id, asked);
        Ok(())
    }

    async fn put(&self, lease: i64) -> EtcdResult<()> {
        self.etcd
            .put(
                self.etcd.server_key(&self.info),
                record::write(&self.info),
                lease,
            )
            .await
    }

    /// Whether some server is listed under this one's id now.
    pub(crate) async fn id_is_listed(&self) -> EtcdResult<bool> {
        Ok(!self
            .etcd
            .get(&self.etcd.server_key(&self.info))
            .await?
            .kvs
            .is_empty())
    }

    /// Keeps the lease alive for ever; takes a new one when it is lost.
    pub(crate) async fn keep(&self) {
        let mut stream = None;
        let mut deleted = false;
        loop {
            let next = self.ttl / 3;
            let wait = match self.renew(&mut stream).await {
                Kept::Yes => {
                    if std::mem::take(&mut deleted) {
                        self.put_again(self.state().id).await;
                    }
                    next
                }
                Kept::Unknown => self.retry.min(next),
                Kept::Lost => {
                    tracing::warn!(server = %self.info.id, "the lease in etcd is lost; taking a new one");
                    stream = None;
                    // What hung on it is gone now, however long it should have lasted.
                    self.state
                        .send_modify(|state| (state.id, state.valid_until) = (0, Instant::now()));
                    while let Err(error) = self.register().await {
                        tracing::warn!(server = %self.info.id, %error, "no new lease yet");
                        sleep(self.retry).await;
                    }
                    tracing::info!(server = %self.info.id, "listed again with a new lease");
                    next
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.restore.notified() => deleted = self.is_wanted(),
            }
        }
    }

    async fn renew(&self, stream: &mut Option<Keeping>) -> Kept {
        let id = self.state().id;
        let asked = Instant::now();
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
                self.heard(id, asked);
                Kept::Yes
            }
            Some(_) => Kept::Lost,
            None => {
                // What may be left of the stream could answer an old question.
                *stream = None;
                Kept::Unknown
            }
        }
    }

    /// The key is gone although nobody here took it away: it is written again soon, if need be with a new lease.
    pub(crate) fn restore(&self) {
        self.restore.notify_one();
    }

    async fn put_again(&self, lease: i64) {
        if let Err(error) = self.put(lease).await {
            tracing::warn!(server = %self.info.id, %error, "the key in etcd was deleted and cannot be written again");
        }
    }

    /// Takes the server out of the list; the lease stays for what else hangs on it.
    pub(crate) async fn withdraw(&self) {
        if !self.wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        let key = self.etcd.server_key(&self.info);
        // Only if it is ours: an operator may have started another server with this id.
        let txn = TxnRequest {
            compare: vec![Compare::on_lease(&key, self.state().id)],
            success: vec![RequestOp::delete(&key)],
            failure: Vec::new(),
        };
        if let Err(error) = self.etcd.txn(txn).await {
            tracing::warn!(server = %self.info.id, %error, "cannot leave the list; the lease will end by itself");
        }
    }

    /// Gives the lease back, and with it everything that hangs on it.
    pub(crate) async fn revoke(&self) {
        self.wanted.store(false, Ordering::Release);
        let id = self.state().id;
        if id == 0 {
            return;
        }
        if let Err(error) = self.etcd.revoke(id).await {
            tracing::warn!(server = %self.info.id, %error, "cannot give the lease back; it will end by itself");
        }
        self.state.send_replace(LeaseState {
            id: 0,
            valid_until: Instant::now(),
            heard_again: None,
        });
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
                () = sleep_until(state.valid_until) => {}
                over = changes.changed() => if over.is_err() { return },
            }
        }
    }
}
