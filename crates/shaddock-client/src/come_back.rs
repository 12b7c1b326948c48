//! Resumes a session after its connection was lost.

use tokio::time::{Instant, sleep, timeout};

use crate::builder::{ClientBuilder, Greeted};
use crate::driver::Driver;
use crate::events::SessionEvent;
use crate::resume::{Ledger, Outcome, Reconnect, ResumeRequest, STABLE};
use crate::transport::Transport;
use crate::{CloseKind, ConnectError};

/// The state for resuming: the addresses, the number of attempts, and the counts.
pub(crate) struct Resume {
    pub(crate) builder: ClientBuilder,
    pub(crate) reconnect: Reconnect,
    pub(crate) address: String,
    pub(crate) ledger: Ledger,
    /// Attempts since the last success.
    pub(crate) attempts: u32,
    /// When the current connection began to work.
    pub(crate) since: Instant,
}

impl Resume {
    /// The server's own address and the one from the application, alternately.
    fn target(&self) -> &str {
        match self.ledger.address() {
            Some(address) if self.attempts % 2 == 1 => address,
            _ => &self.address,
        }
    }

    /// One attempt: socket, handshake, response.
    async fn attempt(&self) -> Result<Greeted, ConnectError> {
        let target = self.target();
        let limit = self.builder.settings.connect_timeout;
        timeout(limit, self.builder.greet(target, Some(self.ledger.ask())))
            .await
            .unwrap_or(Err(ConnectError::Timeout))
    }
}

impl CloseKind {
    /// Whether the session may still exist.
    pub(crate) const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::ServerClosed(_) | Self::HeartbeatTimeout | Self::Io { .. }
        )
    }
}

/// Why no further attempt is made. `None`: the next one may succeed.
fn final_word(error: &ConnectError) -> Option<CloseKind> {
    match error {
        ConnectError::Closed(kind @ CloseKind::Kicked { .. }) => Some(kind.clone()),
        ConnectError::Closed(CloseKind::Protocol(violation @ crate::Violation::ResumeCounts)) => {
            Some(CloseKind::Protocol(violation.clone()))
        }
        // 501: this client is too old. Other codes from 500 on may be temporary.
        ConnectError::Refused { code } if *code < 500 || *code == 501 => {
            Some(CloseKind::Refused { code: *code })
        }
        _ => None,
    }
}

impl Driver {
    /// After a loss: resumes the same session or starts a new one.
    ///
    /// # Errors
    ///
    /// The client is closed for this reason: it cannot or must not reconnect.
    pub(crate) async fn come_back(&mut self, lost: CloseKind) -> Result<(), CloseKind> {
        // The socket is dropped without a goodbye, which would end the session.
        self.transport = Transport::gone();
        let Some(resume) = &mut self.resume else {
            return Err(lost);
        };
        if resume.since.elapsed() >= STABLE {
            resume.attempts = 0;
        }
        self.shared.set_suspended(true);
        self.shared
            .bell
            .publish(SessionEvent::Suspended(lost.clone()));
        loop {
            let Some(wait) = resume.reconnect.wait(resume.attempts) else {
                return Err(lost);
            };
            resume.attempts += 1;
            let attempt = async {
                sleep(wait).await;
                resume.attempt().await
            };
            let attempt = tokio::select! {
                () = self.shared.closing.notified() => return Err(CloseKind::ClosedByClient),
                attempt = attempt => attempt,
            };
            match attempt {
                Ok(greeted) => return self.greeted(greeted),
                Err(error) => {
                    if let Some(kind) = final_word(&error) {
                        return Err(kind);
                    }
                }
            }
        }
    }

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
        let ack =
            shaddock_protocol::encode_package(shaddock_protocol::PackageType::HandshakeAck, b"");
        // An empty body always fits.
        self.transport.queue(ack.unwrap_or_default());
        self.heartbeat = crate::heartbeat::Heartbeat::new(
            resume.builder.settings.dialect,
            agreed.heartbeat,
            Instant::now(),
        );
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
    fn restart(&mut self, agreed: crate::handshake::Agreed) {
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
        self.wire = std::sync::Arc::new(wire);
        self.shared.set_resumable(self.resume.is_some());
        self.shared.restart(self.wire.clone());
        self.shared.set_suspended(false);
        self.shared
            .bell
            .publish(SessionEvent::Restarted { why, lost });
    }
}

/// The value of `sys.resume` for the first connection.
pub(crate) fn first_resume_request(builder: &ClientBuilder) -> Option<ResumeRequest> {
    builder.settings.reconnect.map(|_| ResumeRequest::new())
}
