//! Servers that are leaving or have left the list ([`Departures`]), and the frontends among them that are to be probed. No IO.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::owners::Departures;
use crate::{ServerId, ServerInfo};
use parking_lot::{Mutex, MutexGuard};

/// The limit of frontends that wait for their probe, and of probes at the same time. A frontend above it counts as gone without a probe.
pub(super) const MAX_SUSPECTS: usize = 1024;

/// Servers that are leaving or have left.
pub(super) struct Departing {
    table: Mutex<Departures>,
    /// Frontends to be asked.
    suspects: mpsc::Sender<Suspect>,
    /// Questions that are being asked; each ends when its value here is dropped.
    asked: Mutex<HashMap<u64, (ServerId, oneshot::Sender<()>)>>,
}

/// A frontend to be asked whether it serves.
pub(super) struct Suspect {
    pub(super) frontend: Arc<ServerInfo>,
    /// The number of the question.
    pub(super) question: u64,
    /// Ready when the question need not be asked any more.
    pub(super) ended: oneshot::Receiver<()>,
}

impl Departing {
    /// The table, and the frontends that [`probe_departed`](super::probes::probe_departed) is to ask.
    pub(super) fn new() -> (Self, mpsc::Receiver<Suspect>) {
        let (suspects, asked) = mpsc::channel(MAX_SUSPECTS);
        let departing = Self {
            table: Mutex::default(),
            suspects,
            asked: Mutex::default(),
        };
        (departing, asked)
    }

    /// Hands in a question. False if too many wait to be asked.
    pub(super) fn ask(&self, frontend: Arc<ServerInfo>, question: u64) -> bool {
        let (end, ended) = oneshot::channel();
        let asked = (frontend.id.clone(), end);
        self.questions().insert(question, asked);
        let suspect = Suspect {
            frontend,
            question,
            ended,
        };
        let sent = self.suspects.try_send(suspect);
        // Closed: this server leaves, and sends no further questions.
        !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Ends the questions whose answer is not needed any more.
    pub(super) fn end_questions(&self) {
        let table = self.lock();
        self.questions()
            .retain(|question, (server, _)| table.is_asked(server, *question));
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<u64, (ServerId, oneshot::Sender<()>)>> {
        self.asked.lock()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Departures> {
        self.table.lock()
    }
}
