//! Connects again after the connection of a session was lost.

use tokio::time::{Instant, sleep, timeout};

use crate::connect::{Greeted, greet};
use crate::events::SessionEvent;
use crate::resume::{Ledger, Reconnect, STABLE};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::{CloseKind, ConnectError};

/// The state for resuming: the addresses, the number of attempts, and the counts.
pub(crate) struct Resume {
    pub(crate) settings: Settings,
    pub(crate) reconnect: Reconnect,
    pub(crate) address: String,
    pub(crate) ledger: Ledger,
    /// Attempts since the last success.
    pub(crate) attempts: u32,
    /// When the current connection began to work.
    pub(crate) since: Instant,
}

impl Resume {
    /// After a loss: connects until a server answers the handshake.
    ///
    /// # Errors
    ///
    /// The client is closed for this reason: it cannot or must not reconnect.
    pub(crate) async fn connect_again(
        &mut self,
        shared: &Shared,
        lost: CloseKind,
    ) -> Result<Greeted, CloseKind> {
        if self.since.elapsed() >= STABLE {
            self.attempts = 0;
        }
        shared.set_suspended(true);
        shared.bell.publish(SessionEvent::Suspended(lost.clone()));
        loop {
            let Some(wait) = self.reconnect.wait(self.attempts) else {
                return Err(lost);
            };
            self.attempts += 1;
            let attempt = async {
                sleep(wait).await;
                self.attempt().await
            };
            let attempt = tokio::select! {
                () = shared.closing.notified() => return Err(CloseKind::ClosedByClient),
                attempt = attempt => attempt,
            };
            match attempt {
                Ok(greeted) => return Ok(greeted),
                Err(error) => {
                    if let Some(kind) = final_word(&error) {
                        return Err(kind);
                    }
                }
            }
        }
    }

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
        let limit = self.settings.connect_timeout;
        timeout(
            limit,
            greet(&self.settings, target, Some(self.ledger.ask())),
        )
        .await
        .unwrap_or(Err(ConnectError::Timeout))
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
