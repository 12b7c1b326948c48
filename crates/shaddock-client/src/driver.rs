//! The task that owns a connection, or a session and its connections: only this task reads, writes and handles time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shaddock_protocol::{
    Message, MessageError, MessageType, Package, PackageReader, PackageType, encode_package,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::come_back::Resume;
use crate::connect::Greeted;
use crate::events::SessionEvent;
use crate::handshake::Agreed;
use crate::heartbeat::{Due, Heartbeat};
use crate::resume::{Ledger, Outcome};
use crate::server_error::ServerError;
use crate::shared::{Command, Shared};
use crate::transport::{Event, Transport};
use crate::wire::Wire;
use crate::{CloseKind, RequestError, Violation};

/// Timeout for a goodbye, and for remaining data of a server after a write failed.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Commands that are taken together and sent in one write.
const BATCH: usize = 64;

/// See the module.
pub(crate) struct Driver {
    pub(crate) transport: Transport,
    pub(crate) reader: PackageReader,
    /// Bytes that were not decoded as packages yet.
    pub(crate) input: Bytes,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) max_package_size: usize,
    /// Only for a resumable session.
    pub(crate) resume: Option<Box<Resume>>,
    /// A HEARTBEAT is due, and the server does not read: one will tell what several would have told.
    pub(crate) owes_heartbeat: bool,
}

/// Ends all waits however the task ends, also together with its runtime.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(&CloseKind::Aborted);
        let kind = self.0.pending.closed().unwrap_or(CloseKind::Aborted);
        self.0.closed.send_replace(Some(kind));
    }
}

impl Driver {
    /// Runs until the connection has ended.
    pub(crate) async fn run(mut self) {
        let guard = EndGuard(self.shared.clone());
        let kind = self.sessions().await;
        // In this order: a caller that finds the queue closed can read the reason.
        self.shared.end(&kind);
        self.commands.close();
        match kind {
            CloseKind::ClosedByClient => {
                // Messages accepted before are still sent.
                while let Ok(command) = self.commands.try_recv() {
                    self.send(command);
                }
                self.send_goodbye();
                // The peer may not read; it then receives no goodbye.
                let _ = timeout(CLOSE_TIME, self.transport.shutdown()).await;
            }
            CloseKind::Kicked { .. } | CloseKind::ServerClosed(_) | CloseKind::Protocol(_) => {
                let _ = timeout(CLOSE_TIME, self.transport.shutdown()).await;
            }
            // There is no connection for a goodbye.
            _ => {}
        }
        drop(self);
        drop(guard);
    }

    /// Runs one connection after another, as long as the session can be resumed.
    async fn sessions(&mut self) -> CloseKind {
        loop {
            let kind = self.work().await;
            if self.resume.is_none() || !kind.is_loss() {
                return kind;
            }
            if let Err(kind) = self.come_back(kind).await {
                return kind;
            }
        }
    }

    /// After a loss: resumes the same session or starts a new one.
    ///
    /// # Errors
    ///
    /// The client is closed for this reason: it cannot or must not reconnect.
    async fn come_back(&mut self, lost: CloseKind) -> Result<(), CloseKind> {
        // The socket is dropped without a goodbye, which would end the session.
        self.transport = Transport::gone();
        let Some(resume) = &mut self.resume else {
            return Err(lost);
        };
        let greeted = resume.connect_again(&self.shared, lost).await?;
        self.greeted(greeted)
    }

    /// Goes on over the next connection.
    fn greeted(&mut self, greeted: Greeted) -> Result<(), CloseKind> {
        let Some(resume) = &mut self.resume else {
            return Ok(());
        };
        let Greeted {
            transport,
            reader,
            input,
            agreed,
        } = greeted;
        resume.since = Instant::now();
        self.transport = transport;
        self.reader = reader;
        self.input = input;
        self.owes_heartbeat = false;
        let ack = encode_package(PackageType::HandshakeAck, b"");
        // An empty body always fits.
        self.transport.queue(ack.unwrap_or_default());
        self.heartbeat = Heartbeat::new(agreed.wire.dialect, agreed.heartbeat, Instant::now());
        let resumed = match &agreed.resume {
            Some(grant) => match grant.outcome {
                Outcome::Resumed {
                    received,
                    position,
                    missed,
                } => Some((grant.clone(), received, position, missed)),
                Outcome::New { .. } => None,
            },
            None => None,
        };
        let Some((grant, received, position, missed)) = resumed else {
            self.restart(agreed);
            return Ok(());
        };
        resume
            .ledger
            .resume(grant, received, position)
            .map_err(CloseKind::Protocol)?;
        resume.attempts = 0;
        for package in resume.ledger.kept() {
            self.transport.queue(package.clone());
        }
        self.shared.set_suspended(false);
        self.shared.bell.publish(SessionEvent::Resumed { missed });
        Ok(())
    }

    /// Starts a new session in place of the lost one.
    fn restart(&mut self, agreed: Agreed) {
        let mut lost = 0;
        let mut why = String::new();
        if let Some(mut resume) = self.resume.take() {
            lost = resume.ledger.kept().count();
            // Without a grant the next loss ends the client, as for every other connection.
            if let Some(grant) = agreed.resume {
                if let Outcome::New { why: word } = &grant.outcome {
                    why.clone_from(word);
                }
                resume.ledger = Ledger::new(grant);
                self.resume = Some(resume);
            }
        }
        let mut wire = agreed.wire;
        wire.generation = self.wire.generation.wrapping_add(1);
        self.wire = Arc::new(wire);
        self.shared.set_resumable(self.resume.is_some());
        self.shared.restart(self.wire.clone());
        self.shared.set_suspended(false);
        self.shared
            .bell
            .publish(SessionEvent::Restarted { why, lost });
    }

    /// Runs one connection.
    async fn work(&mut self) -> CloseKind {
        let sleep = sleep_until(Instant::now());
        tokio::pin!(sleep);
        // After a failed write: the reason, and the deadline for the server's remaining data.
        let mut broken: Option<(CloseKind, Instant)> = None;
        loop {
            if let Err(kind) = self.read_packages() {
                return kind;
            }
            if self.owes_heartbeat && self.transport.has_room() {
                self.send_heartbeat();
            }
            let patience = broken.as_ref().map(|(_, until)| *until);
            let deadline = self.heartbeat.deadline().into_iter().chain(patience).min();
            if let Some(deadline) = deadline.filter(|at| *at != sleep.deadline()) {
                sleep.as_mut().reset(deadline);
            }
            let has_room = self
                .resume
                .as_ref()
                .is_none_or(|resume| resume.ledger.has_room());
            let takes_commands = broken.is_none() && has_room && self.transport.has_room();
            tokio::select! {
                () = self.shared.closing.notified() => return CloseKind::ClosedByClient,
                () = self.shared.interrupt.notified() => {
                    // Nothing is flushed, and no goodbye is sent.
                    self.transport = Transport::gone();
                    return CloseKind::ServerClosed(None);
                }
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
                    Some(command) => self.queue(command),
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

    /// Sends a message and those that wait behind it.
    fn queue(&mut self, command: Command) {
        self.send(command);
        for _ in 1..BATCH {
            let resume = self.resume.as_ref();
            if !self.transport.has_room() || resume.is_some_and(|resume| !resume.ledger.has_room())
            {
                return;
            }
            match self.commands.try_recv() {
                Ok(command) => self.send(command),
                Err(_) => return,
            }
        }
    }

    fn send(&mut self, command: Command) {
        if command.generation != self.wire.generation {
            // Encoded for a session that has ended; its route codes may be outdated.
            if let Some(waiting) = self.shared.pending.take(command.id) {
                let _ = waiting.answer.send(Err(RequestError::Lost));
            }
            return;
        }
        // The request was dropped while it waited here, so it is never sent.
        if command.id != 0 && !self.shared.pending.contains(command.id) {
            return;
        }
        if let Some(resume) = &mut self.resume {
            resume.ledger.keep(command.package.clone());
        }
        self.transport.queue(command.package);
    }

    /// Sends a goodbye: the server need not keep the session.
    fn send_goodbye(&mut self) {
        if self.resume.is_some()
            && let Ok(package) = encode_package(PackageType::Kick, b"")
        {
            self.transport.queue(package);
        }
    }

    fn beat(&mut self, now: Instant) -> Result<(), CloseKind> {
        match self.heartbeat.due(now) {
            Some(Due::Dead) => return Err(CloseKind::HeartbeatTimeout),
            Some(Due::Send) => self.send_heartbeat(),
            None => {}
        }
        Ok(())
    }

    /// Contains the number of received packages, if it has changed and the server expects it.
    fn send_heartbeat(&mut self) {
        self.owes_heartbeat = !self.transport.has_room();
        if self.owes_heartbeat {
            return;
        }
        let package = match &mut self.resume {
            Some(resume) => resume.ledger.put_heartbeat(),
            // An empty body always fits.
            None => encode_package(PackageType::Heartbeat, b"").unwrap_or_default(),
        };
        self.transport.queue(package);
    }

    /// Takes all complete packages from the input.
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
        // Release the buffer before waiting.
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
            PackageType::Data => {
                self.message(package.body)?;
                if let Some(resume) = &mut self.resume
                    && resume.ledger.taken()
                {
                    self.send_heartbeat();
                }
            }
            PackageType::Heartbeat => {
                if let Some(resume) = &mut self.resume {
                    let taken = resume.ledger.heartbeat(&package.body);
                    taken.map_err(CloseKind::Protocol)?;
                }
                self.heartbeat.on_heartbeat(now);
            }
            PackageType::Kick => return Err(CloseKind::kicked(&package.body)),
            // Both are only valid during the handshake.
            PackageType::Handshake | PackageType::HandshakeAck => {}
        }
        Ok(())
    }

    fn message(&self, body: Bytes) -> Result<(), CloseKind> {
        let message = match Message::decode(body) {
            Ok(message) => message,
            // Well-formed, from a future version.
            Err(MessageError::InvalidType(_)) => {
                count(&self.shared.counters.unreadable);
                return Ok(());
            }
            Err(error) => return Err(CloseKind::Protocol(error.into())),
        };
        match message.kind {
            MessageType::Response => self.response(&message),
            MessageType::Push => self.push(&message),
            // Servers do not send requests.
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
        // The caller may have gone away at this moment.
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
