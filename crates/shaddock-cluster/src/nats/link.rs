//! The one connection of a server to NATS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::NatsConfig;
use crate::{ClusterError, RemoteError, RemoteErrorKind, code};

/// Messages that wait for the connection. Above, sending fails.
const MAX_QUEUED: usize = 65_536;
/// Messages of one subscription that wait for their reader, which never waits for anything itself.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// A subject that no server listens to.
const NOBODY: &str = "shaddock.nobody";

/// The connection. What is sent from one thread leaves in the order in which it was sent.
pub(crate) struct Link {
    client: Client,
    closed: AtomicBool,
}

/// The connection went up (`true`) or down.
pub(crate) type LinkEvents = mpsc::UnboundedReceiver<bool>;

impl Link {
    /// Connects; the second value tells when the connection is lost and found again.
    pub(crate) async fn connect(
        config: &NatsConfig,
        name: String,
    ) -> Result<(Arc<Self>, LinkEvents), ClusterError> {
        let unreachable = |reason: String| ClusterError::Unreachable {
            what: "NATS",
            address: config.nats_urls.join(","),
            reason,
        };
        let (events, receiver) = mpsc::unbounded_channel();
        let delay = config.nats_reconnect_delay;
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
                tell(&name, &events, &event);
                std::future::ready(())
            });
        if let Some((user, password)) = &config.nats_user {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(path) = &config.nats_credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|e| unreachable(e.to_string()))?;
        }
        let client = options
            .connect(config.nats_urls.join(","))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let link = Self {
            client,
            closed: AtomicBool::new(false),
        };
        Ok((Arc::new(link), receiver))
    }

    /// Whether the connection is up.
    pub(crate) fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected && !self.closed.load(Ordering::Acquire)
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
        _life: Duration,
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
                "the message has {} bytes and NATS takes {max}",
                payload.len()
            );
            return Err(RemoteError::of(
                RemoteErrorKind::Refused,
                code::INTERNAL,
                text,
            ));
        }
        // One poll: either the client has room, or nothing is sent. It waits for nothing else.
        let sent = match reply {
            Some(reply) => at_once(self.client.publish_with_reply(subject, reply, payload)),
            None => at_once(self.client.publish(subject, payload)),
        };
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(_closed)) => Err(disconnected()),
            None => Err(RemoteError::of(
                RemoteErrorKind::Busy,
                code::UNAVAILABLE,
                "too much is waiting to be sent",
            )),
        }
    }

    /// Subscribes; what is published after this and reaches NATS later finds the subscription.
    pub(crate) async fn subscribe(&self, subject: String) -> Result<Subscriber, RemoteError> {
        self.client
            .subscribe(Subject::from(subject))
            .await
            .map_err(|e| {
                RemoteError::of(
                    RemoteErrorKind::Disconnected,
                    code::UNAVAILABLE,
                    e.to_string(),
                )
            })
    }

    /// Whether somebody listens to a subject: all but NATS' own "nobody" says so.
    pub(crate) async fn is_heard(&self, subject: String, payload: Bytes, within: Duration) -> bool {
        let asked = self.client.request(Subject::from(subject), payload);
        match tokio::time::timeout(within, asked).await {
            Ok(Err(error)) => error.kind() != RequestErrorKind::NoResponders,
            Ok(Ok(_)) | Err(_) => true,
        }
    }

    /// Waits until NATS has taken all that was sent before, subscriptions too: it answers a question to nobody only then.
    /// False if it does not answer in time, or the link is down, which is no reason to wait.
    pub(crate) async fn round_trip(&self, within: Duration) -> bool {
        self.is_up() && !self.is_heard(NOBODY.to_owned(), Bytes::new(), within).await
    }

    /// Waits until all that was sent is with NATS.
    pub(crate) async fn flush(&self, within: Duration) {
        let _ = tokio::time::timeout(within, self.client.flush()).await;
    }

    /// Closes the connection behind what was sent. Others may still hold this value: for them the link is down.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // If the client is full at this moment its connection ends with its last holder.
        let _ = at_once(self.client.drain());
    }
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
    let jitter = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), attempts) % 100;
    delay + delay.mul_f64(f64::from(u32::try_from(jitter).unwrap_or(0)) / 1000.0)
}

fn tell(name: &str, events: &mpsc::UnboundedSender<bool>, event: &Event) {
    match event {
        Event::Connected => {
            tracing::info!(server = name, "connected to NATS");
            let _ = events.send(true);
        }
        Event::Disconnected => {
            tracing::warn!(server = name, "NATS is away");
            let _ = events.send(false);
        }
        Event::SlowConsumer(_) => tracing::error!(server = name, "messages from NATS were dropped"),
        other => tracing::debug!(server = name, %other, "NATS"),
    }
}
