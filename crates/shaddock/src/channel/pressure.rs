//! Senders that await their pushes wait while a connection has not had its turn: a burst does not outrun the sockets of clients that read.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use shaddock_core::Session;

/// The longest wait. A connection has its turn within microseconds; one that has none for so long has no driver at the moment.
const AT_MOST: u32 = 100;

/// A session to which more was pushed than its connection has been able to offer to the socket.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// So that a push that presses nothing costs one load.
    is_any: AtomicBool,
    /// The latest. Others may be pressed too; the next push to them notes it.
    session: Mutex<Option<Arc<Session>>>,
}

impl Pressure {
    pub(crate) fn note(&self, session: &Arc<Session>) {
        *self.session.lock() = Some(Arc::clone(session));
        self.is_any.store(true, Ordering::Release);
    }

    /// The wait for the session that was noted last, unless it has had its turn by now. Never for a client that does not read: its
    /// connection has had its turn.
    pub(crate) fn wait(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let mut noted = self.session.lock();
        let session = noted.take().filter(|session| session.outbox().is_pressed());
        let Some(session) = session else {
            self.is_any.store(false, Ordering::Release);
            return None;
        };
        *noted = Some(Arc::clone(&session));
        Some(async move {
            // On the same worker, one turn of the loop is all it takes.
            tokio::task::yield_now().await;
            for _ in 0..AT_MOST {
                if !session.outbox().is_pressed() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }
}
