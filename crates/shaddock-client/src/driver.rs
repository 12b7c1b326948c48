//! The task that owns a connection: it alone reads, writes and keeps the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shaddock_protocol::{
    Message, MessageError, MessageType, Package, PackageReader, PackageType, encode_package,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::heartbeat::{Due, Heartbeat};
use crate::pending::Pending;
use crate::pushes::Hub;
use crate::server_error::ServerError;
use crate::transport::{Event, Transport};
use crate::wire::Wire;
use crate::{CloseKind, RequestError, Violation};

/// How long a goodbye may take, and how long the last words of a server are waited for after a write failed.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Commands that are taken at once: they leave in one write.
const BATCH: usize = 64;

/// What the task and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pending: Pending,
    pub(crate) pushes: Arc<Hub>,
    /// Asks the task to say goodbye.
    pub(crate) closing: Notify,
    /// Set once, when the socket is gone.
    pub(crate) closed: watch::Sender<Option<CloseKind>>,
    pub(crate) counters: Counters,
}

/// What was thrown away.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) unreadable: AtomicU64,
    pub(crate) late_answers: AtomicU64,
}

impl Shared {
    pub(crate) fn new(max_pending: usize) -> Self {
        Self {
            pending: Pending::new(max_pending),
            pushes: Arc::default(),
            closing: Notify::new(),
            closed: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    /// No more answers and pushes. The reason of the first call stays.
    fn end(&self, kind: &CloseKind) {
        self.pending.close(kind);
        self.pushes.close();
    }
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) transport: Transport,
    pub(crate) reader: PackageReader,
    /// Bytes that are not read as packages yet.
    pub(crate) input: Bytes,
    pub(crate) commands: mpsc::Receiver<Bytes>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) max_package_size: usize,
}

/// However the task ends, also with its runtime, nobody waits for ever.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(&CloseKind::Aborted);
        let kind = self.0.pending.closed().unwrap_or(CloseKind::Aborted);
        self.0.closed.send_replace(Some(kind));
    }
}

impl Driver {
    /// Runs until the connection is over.
    pub(crate) async fn run(mut self) {
        let guard = EndGuard(self.shared.clone());
        let kind = self.work().await;
        // In this order: whoever finds the queue closed finds the reason.
        self.shared.end(&kind);
        self.commands.close();
        match kind {
            CloseKind::ClosedByClient => {
                // What was accepted before is still sent.
                while let Ok(package) = self.commands.try_recv() {
                    self.transport.queue(package);
                }
                // The peer need not read; then it gets no goodbye.
                let _ = timeout(CLOSE_TIME, self.transport.shutdown()).await;
            }
            CloseKind::Kicked { .. } | CloseKind::ServerClosed(_) | CloseKind::Protocol(_) => {
                let _ = timeout(CLOSE_TIME, self.transport.shutdown()).await;
            }
            // There is nobody to say goodbye to.
            _ => {}
        }
        drop(self);
        drop(guard);
    }

    async fn work(&mut self) -> CloseKind {
        let sleep = sleep_until(Instant::now());
        tokio::pin!(sleep);
        // After a failed write: the reason, and until when the server's last words are waited for.
        let mut broken: Option<(CloseKind, Instant)> = None;
        loop {
            if let Err(kind) = self.read_packages() {
                return kind;
            }
            let patience = broken.as_ref().map(|(_, until)| *until);
            let deadline = self.heartbeat.deadline().into_iter().chain(patience).min();
            if let Some(deadline) = deadline.filter(|at| *at != sleep.deadline()) {
                sleep.as_mut().reset(deadline);
            }
            let takes_commands = broken.is_none() && self.transport.has_room();
            tokio::select! {
                () = self.shared.closing.notified() => return CloseKind::ClosedByClient,
                event = self.transport.event() => match event {
                    Ok(Event::Bytes(bytes)) => self.input = bytes,
                    Ok(Event::Room) => {}
                    Ok(Event::WriteFailed(kind)) => {
                        broken = Some((kind, Instant::now() + CLOSE_TIME));
                    }
                    Ok(Event::End(status)) => return CloseKind::ServerClosed(status),
                    Err(kind) => return broken.map_or(kind, |(kind, _)| kind),
                },
                command = self.commands.recv(), if takes_commands => match command {
                    Some(package) => self.queue(package),
                    None => return CloseKind::ClosedByClient,
                },
                () = &mut sleep, if deadline.is_some() => {
                    let now = Instant::now();
                    if let Some((kind, until)) = &broken
                        && *until <= now
                    {
                        return kind.clone();
                    }
                    if let Err(kind) = self.beat(now) {
                        return kind;
                    }
                }
            }
        }
    }

    /// Queues a package and those that wait behind it.
    fn queue(&mut self, package: Bytes) {
        self.transport.queue(package);
        for _ in 1..BATCH {
            if !self.transport.has_room() {
                return;
            }
            match self.commands.try_recv() {
                Ok(package) => self.transport.queue(package),
                Err(_) => return,
            }
        }
    }

    fn beat(&mut self, now: Instant) -> Result<(), CloseKind> {
        match self.heartbeat.due(now) {
            Some(Due::Dead) => Err(CloseKind::HeartbeatTimeout),
            Some(Due::Send) => {
                // An empty body always fits.
                if let Ok(package) = encode_package(PackageType::Heartbeat, b"") {
                    self.transport.queue(package);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes all whole packages out of the input.
    fn read_packages(&mut self) -> Result<(), CloseKind> {
        loop {
            let package = self
                .reader
                .next(&mut self.input, self.max_package_size)
                .map_err(|error| CloseKind::Protocol(error.into()))?;
            let Some(package) = package else {
                break;
            };
            self.package(package)?;
        }
        // Give the buffer back before waiting.
        self.input = Bytes::new();
        if self.transport.has_messages() && self.reader.is_mid_package() {
            return Err(CloseKind::Protocol(Violation::CutPackage));
        }
        Ok(())
    }

    fn package(&mut self, package: Package) -> Result<(), CloseKind> {
        let now = Instant::now();
        self.heartbeat.on_package(now);
        match package.kind {
            PackageType::Data => self.message(package.body)?,
            PackageType::Heartbeat => self.heartbeat.on_heartbeat(now),
            PackageType::Kick => return Err(kick(&package.body)),
            // Both have had their time.
            PackageType::Handshake | PackageType::HandshakeAck => {}
        }
        Ok(())
    }

    fn message(&self, body: Bytes) -> Result<(), CloseKind> {
        let message = match Message::decode(body) {
            Ok(message) => message,
            // Well-formed, from a time to come.
            Err(MessageError::InvalidType(_)) => {
                count(&self.shared.counters.unreadable);
                return Ok(());
            }
            Err(error) => return Err(CloseKind::Protocol(error.into())),
        };
        match message.kind {
            MessageType::Response => self.response(&message),
            MessageType::Push => self.push(&message),
            // Servers do not ask.
            MessageType::Request | MessageType::Notify => count(&self.shared.counters.unreadable),
        }
        Ok(())
    }

    fn response(&self, message: &Message) {
        let Some(waiting) = self.shared.pending.take(message.id) else {
            count(&self.shared.counters.late_answers);
            return;
        };
        let route = waiting.route.as_deref().unwrap_or_default();
        let answer = match self.wire.decode(route, message) {
            Ok(body) if self.wire.marks_error(message) => {
                let error = ServerError::marked(body, self.wire.raw_protobuf);
                Err(RequestError::Server(error))
            }
            Ok(body) => Ok(body),
            Err(error) => Err(RequestError::Decode(error)),
        };
        // The caller may have gone away in this moment.
        let _ = waiting.answer.send(answer);
    }

    fn push(&self, message: &Message) {
        let pushes = &self.shared.pushes;
        let delivered = self.wire.route(&message.route).is_some_and(|route| {
            let body = || self.wire.decode(route, message);
            pushes.deliver(route, body).is_ok()
        });
        if !delivered {
            count(&self.shared.counters.unreadable);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a KICK means: `{"reason":".."}`, or nothing.
pub(crate) fn kick(body: &[u8]) -> CloseKind {
    #[derive(serde::Deserialize)]
    struct Kick {
        reason: Option<String>,
    }
    let kick: Option<Kick> = serde_json::from_slice(body).ok();
    CloseKind::Kicked {
        reason: kick.and_then(|kick| kick.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_with_and_without_a_reason() {
        let reason = |body: &str| match kick(body.as_bytes()) {
            CloseKind::Kicked { reason } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(reason(r#"{"reason":"full"}"#).as_deref(), Some("full"));
        for body in ["", "{}", "[]", r#"{"reason":1}"#, "\u{ff}"] {
            assert_eq!(reason(body), None, "{body}");
        }
    }
}
