//! The one connection of a server to NATS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, RequestErrorKind, ServerAddr, Statistics, Subject};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;

use super::inbox::Inbox;
use super::waiting::{Place, Waits};
use super::watched::{LinkState, Watched};
use super::{NatsConfig, NatsLogin};
use crate::quiet::quiet;
use crate::random::random_below;
use crate::{ClusterError, RemoteError, RemoteErrorKind, code};

/// Messages that wait for the connection. Above, sending fails.
const MAX_QUEUED: usize = 65_536;
/// Messages of one subscription that wait for their reader, which never waits for anything itself.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Time between looks whether there is room for what waits.
const ROOM: Duration = Duration::from_millis(1);
/// One of so many looks is for what is too old.
const LOOKS: u64 = 50;

/// A subject that no server listens to.
const NOBODY: &str = "shaddock.nobody";

/// The connection. What is sent from one thread leaves in the order in which it was sent.
pub(crate) struct Link {
    client: Client,
    statistics: Arc<Statistics>,
    waits: Waits<Outgoing>,
    watched: Arc<Watched>,
    /// It goes to another NATS server because its own is about to end: what is sent meanwhile leaves from there.
    moving: AtomicBool,
    /// Times that it has gone, of which the loss of the old connection was not taken note of yet.
    moves: AtomicUsize,
    /// Messages that were rejected because too much waited.
    rejected: AtomicU64,
}

struct Outgoing {
    subject: Subject,
    reply: Option<Subject>,
    payload: Bytes,
}

/// Tells when the connection goes up or down.
pub(crate) type LinkEvents = watch::Receiver<LinkState>;

impl Link {
    /// Connects; the second value tells when the connection is lost and found again.
    pub(crate) async fn connect(
        config: &NatsConfig,
        name: String,
    ) -> Result<(Arc<Self>, LinkEvents), ClusterError> {
        let unreachable = |reason: String| ClusterError::Unreachable {
            what: "NATS",
            address: crate::secret::list(&config.nats_urls),
            reason,
        };
        let (events, receiver) = watch::channel(LinkState {
            up: true,
            losses: 0,
        });
        let delay = config.nats_reconnect_delay;
        let watched = Arc::new(Watched::default());
        let watch = Arc::clone(&watched);
        let mut options = ConnectOptions::new()
            .name(&name)
            .connection_timeout(config.nats_connect_timeout)
            .ping_interval(config.nats_ping_interval)
            .client_capacity(MAX_QUEUED)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            // Our subjects are checked where they are made.
            .skip_subject_validation(true)
            .reconnect_delay_callback(move |attempts| reconnect_delay(delay, attempts))
            .event_callback(move |event| {
                watch.record(&name, &events, &event);
                std::future::ready(())
            });
        options = log_in(options, config.nats_login()?)
            .await
            .map_err(unreachable)?;
        if let Some(ca) = &config.nats_tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = &config.nats_tls.client {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if config.nats_tls.is_wanted() {
            options = options.require_tls(true);
        }
        let addresses = addresses(config)?;
        let client = options
            .connect(addresses)
            .await
            .map_err(|e| unreachable(with_causes(&e)))?;
        let link = Self {
            statistics: client.statistics(),
            waits: Waits::new(config.nats_waiting_bytes),
            client,
            watched,
            moving: AtomicBool::new(false),
            moves: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
        };
        Ok((Arc::new(link), receiver))
    }

    /// Whether the connection is up.
    pub(crate) fn is_up(&self) -> bool {
        (self.client.connection_state() == State::Connected || self.is_moving())
            && !self.watched.is_closed()
    }

    /// The action that NATS does not permit to this server, if there is one.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.watched.trouble()
    }

    /// Done when the NATS server says that it is about to end.
    pub(crate) async fn lame_duck(&self) {
        self.watched.lame_duck.notified().await;
    }

    /// Whether the connection goes to another NATS server of its own will.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire)
    }

    /// Whether a loss of the connection was such a move. Each move counts once.
    pub(crate) fn has_moved(&self) -> bool {
        let one_less = |moves: usize| moves.checked_sub(1);
        let order = Ordering::AcqRel;
        let taken = self.moves.fetch_update(order, Ordering::Acquire, one_less);
        taken.is_ok()
    }

    /// Whether there is another NATS server, as far as is known.
    pub(crate) async fn has_elsewhere(&self) -> bool {
        self.client
            .server_pool()
            .await
            .is_ok_and(|servers| servers.len() > 1)
    }

    /// Goes to another NATS server. What was sent before leaves before, and what is sent meanwhile waits for the new connection.
    pub(crate) async fn move_elsewhere(&self, within: Duration) {
        self.flush(within).await;
        let mut losses = self.statistics.connects.load(Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.moving.store(true, Ordering::Release);
        let arrived = async {
            losses += 1;
            if self.client.force_reconnect().await.is_err() {
                return;
            }
            while self.statistics.connects.load(Ordering::Relaxed) < losses
                || self.client.connection_state() != State::Connected
            {
                tokio::time::sleep(ROOM).await;
            }
        };
        let _ = tokio::time::timeout(within, arrived).await;
        self.moving.store(false, Ordering::Release);
    }

    /// The largest message that NATS takes.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Sends a message, behind those that wait.
    pub(crate) fn publish(
        &self,
        subject: Subject,
        reply: Option<Subject>,
        payload: Bytes,
    ) -> Result<(), RemoteError> {
        self.publish_for(Duration::MAX, subject, reply, payload)
    }

    /// As [`publish`](Self::publish); what had to wait for longer than its life is not sent.
    pub(crate) fn publish_for(
        &self,
        life: Duration,
        subject: Subject,
        reply: Option<Subject>,
        payload: Bytes,
    ) -> Result<(), RemoteError> {
        if !self.is_up() {
            return Err(disconnected());
        }
        let max = self.max_payload();
        if payload.len() > max {
            let text = format!(
                "the message has {} bytes and the limit of NATS is {max}",
                payload.len()
            );
            return Err(RemoteError::of(
                RemoteErrorKind::Refused,
                code::INTERNAL,
                text,
            ));
        }
        let size = payload.len();
        let message = Outgoing {
            subject,
            reply,
            payload,
        };
        match self.waits.place(message, size, life, self.taken()) {
            Place::Now(message) => self.give(message),
            Place::Later => Ok(()),
            Place::Full => Err(self.too_much()),
        }
    }

    /// How many messages the client has begun to write.
    fn taken(&self) -> u64 {
        self.statistics.out_messages.load(Ordering::Relaxed)
    }

    fn give(&self, message: Outgoing) -> Result<(), RemoteError> {
        let Outgoing {
            subject,
            reply,
            payload,
        } = message;
        // One poll: either the client has room, or nothing is sent. It waits for nothing else.
        let sent = match reply {
            Some(reply) => at_once(self.client.publish_with_reply(subject, reply, payload)),
            None => at_once(self.client.publish(subject, payload)),
        };
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(_closed)) => {
                self.waits.not_given();
                Err(disconnected())
            }
            None => {
                self.waits.not_given();
                Err(self.too_much())
            }
        }
    }

    /// Rejects a message: counts it, and names the limit in the log.
    fn too_much(&self) -> RemoteError {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        quiet!(
            warn,
            "a message was rejected because too much waits to be sent: NATS is slow, or nats_waiting_bytes of [cluster] is too low",
            waiting_bytes = self.waits.bytes()
        );
        let text = "the send queue is full";
        RemoteError::of(RemoteErrorKind::Busy, code::UNAVAILABLE, text)
    }

    /// How many messages were rejected because too much waited.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Bytes that wait because NATS does not take them.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waits.bytes()
    }

    /// Messages that waited for longer than they were worth and were not sent.
    pub(crate) fn expired(&self) -> u64 {
        self.waits.expired()
    }

    /// Messages that waited when the connection broke are not sent: their callers were notified.
    pub(crate) fn forget_waiting(&self) {
        self.waits.clear(self.taken());
    }

    /// Sends what waits when there is room, for ever.
    pub(crate) async fn send_waiting(self: Arc<Self>) {
        loop {
            self.waits.began.notified().await;
            for round in 0_u64.. {
                // Looking at all of them costs more than looking for room.
                if round % LOOKS == 0 {
                    self.waits.expire(std::time::Instant::now());
                }
                let done = self.waits.advance(
                    || self.taken(),
                    |message| {
                        if let Err(error) = self.give(message) {
                            tracing::debug!(%error, "a queued message was lost");
                        }
                    },
                );
                if done {
                    break;
                }
                tokio::time::sleep(ROOM).await;
            }
        }
    }

    /// Subscribes; what is published after this and reaches NATS later finds the subscription.
    pub(crate) async fn subscribe(&self, subject: String) -> Result<Inbox, RemoteError> {
        let subscribed = self.client.subscribe(Subject::from(subject)).await;
        let messages = subscribed.map_err(|e| {
            RemoteError::of(
                RemoteErrorKind::Disconnected,
                code::UNAVAILABLE,
                e.to_string(),
            )
        })?;
        Ok(Inbox::new(messages, Arc::clone(&self.watched)))
    }

    /// Whether a subject has a subscriber: true unless NATS reports "no responders".
    pub(crate) async fn is_heard(&self, subject: String, payload: Bytes, within: Duration) -> bool {
        self.waits.beside();
        let asked = self.client.request(Subject::from(subject), payload);
        match tokio::time::timeout(within, asked).await {
            Ok(Err(error)) => error.kind() != RequestErrorKind::NoResponders,
            Ok(Ok(_)) | Err(_) => true,
        }
    }

    /// Waits until NATS has processed everything sent before, including subscriptions: it replies to a request without subscribers only
    /// then. Returns false if it does not reply in time, or the link is down, in which case there is no reason to wait.
    pub(crate) async fn round_trip(&self, within: Duration) -> bool {
        self.is_up() && !self.is_heard(NOBODY.to_owned(), Bytes::new(), within).await
    }

    /// Waits until all that was sent is with NATS.
    pub(crate) async fn flush(&self, within: Duration) {
        let _ = tokio::time::timeout(within, self.client.flush()).await;
    }

    /// Closes the connection behind what was sent; nothing that comes is read any more. Others may still hold this value: for them the link is
    /// down.
    pub(crate) fn close(&self) {
        self.watched.close();
        // If the client is full at this moment its connection ends with its last holder.
        let _ = at_once(self.client.drain());
    }
}

/// Where the servers are. The login is not part of it, so that no text has it.
fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, ClusterError> {
    let parse = |address: &crate::Address| {
        address
            .without_login()
            .parse()
            .map_err(|e| ClusterError::Setting {
                key: "nats_urls",
                reason: format!("{address}: {e}"),
            })
    };
    config.nats_urls.iter().map(parse).collect()
}

async fn log_in(options: ConnectOptions, login: NatsLogin) -> Result<ConnectOptions, String> {
    Ok(match login {
        NatsLogin::None => options,
        NatsLogin::User(user, password) => {
            options.user_and_password(user, password.expose().to_owned())
        }
        NatsLogin::Token(token) => options.token(token.expose().to_owned()),
        NatsLogin::Nkey(seed) => options.nkey(seed.expose().to_owned()),
        NatsLogin::Credentials(path) => {
            let read = options.credentials_file(&path).await;
            read.map_err(|e| format!("credentials file {}: {e}", path.display()))?
        }
    })
}

/// An error and what caused it, which says what a certificate lacks.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The value of a future that is ready.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    // A task that has done much still gets its message off.
    tokio::task::unconstrained(future).now_or_never()
}

/// The link to other servers is down; nothing was sent.
pub(crate) fn disconnected() -> RemoteError {
    RemoteError::of(
        RemoteErrorKind::Disconnected,
        code::UNAVAILABLE,
        "not connected to NATS",
    )
}

/// None before the first attempt, so that a short loss is short.
fn reconnect_delay(delay: Duration, attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    // Servers that lost the same NATS do not come back in the same moment.
    let jitter = u32::try_from(random_below(100)).unwrap_or(0);
    delay + delay.mul_f64(f64::from(jitter) / 1000.0)
}
