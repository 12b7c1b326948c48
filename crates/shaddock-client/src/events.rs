//! Events of a session over several connections.

use std::fmt;

use tokio::sync::broadcast;

use crate::CloseKind;

/// Maximum number of unread events.
const CAPACITY: usize = 64;

/// An event of the session of a client with [`ClientBuilder::resume`](crate::ClientBuilder::resume).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The connection was lost. The client reconnects automatically; pending requests continue to wait.
    Suspended(CloseKind),
    /// The same session continues.
    Resumed {
        /// The number of messages that the server could not keep: pushes, and responses, whose requests time out. If it is not 0, fetch the
        /// state of your application again.
        missed: u64,
    },
    /// The session could not continue. This is a new one: log in again. Pending requests failed with
    /// [`RequestError::Lost`](crate::RequestError::Lost); handlers and subscriptions stay.
    Restarted {
        /// The server's reason: `unknown`, `expired`, `changed`, `denied`, `busy`; empty if it sent none.
        why: String,
        /// The number of messages of the old session that may not have reached the server.
        lost: usize,
    },
}

/// The events of a session since the call of [`Client::events`](crate::Client::events).
///
/// At most 64 events are kept for the reader; beyond that the oldest are dropped and counted ([`Events::missed`]).
pub struct Events {
    receiver: broadcast::Receiver<SessionEvent>,
    missed: u64,
}

impl Events {
    /// The next event; `None` after the last one of a closed client.
    ///
    /// Cancel-safe: an event is either returned or still in the queue.
    pub async fn recv(&mut self) -> Option<SessionEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(dropped)) => self.missed += dropped,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The number of events dropped so far because they were not read in time.
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("queued", &self.receiver.len())
            .field("missed", &self.missed)
            .finish()
    }
}

/// The sender of events.
#[derive(Debug)]
pub(crate) struct Bell(parking_lot::Mutex<Option<broadcast::Sender<SessionEvent>>>);

impl Default for Bell {
    fn default() -> Self {
        Self(parking_lot::Mutex::new(Some(broadcast::Sender::new(
            CAPACITY,
        ))))
    }
}

impl Bell {
    pub(crate) fn publish(&self, event: SessionEvent) {
        if let Some(sender) = &*self.lock() {
            // An error means that there is no reader.
            let _ = sender.send(event);
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let receiver = match &*self.lock() {
            Some(sender) => sender.subscribe(),
            None => broadcast::Sender::new(1).subscribe(),
        };
        Events {
            receiver,
            missed: 0,
        }
    }

    /// Ends the events.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Option<broadcast::Sender<SessionEvent>>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_misses_the_oldest_events_and_receives_the_end() {
        let bell = Bell::default();
        let mut events = bell.subscribe();
        for missed in 0..70 {
            bell.publish(SessionEvent::Resumed { missed });
        }
        bell.close();
        let mut seen = Vec::new();
        while let Some(SessionEvent::Resumed { missed }) = events.recv().await {
            seen.push(missed);
        }
        assert_eq!((seen, events.missed()), ((6..70).collect(), 6));
        assert_eq!(bell.subscribe().recv().await, None);
    }
}
