//! Pending requests.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::{CloseKind, RequestError};

/// Largest id that all servers accept: 31 bits.
const MAX_ID: u32 = i32::MAX as u32;

pub(crate) type Answer = Result<Bytes, RequestError>;

/// The table of pending requests, shared by the callers and the task that reads. The lock is held for single map operations only.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    last_id: u32,
    waiting: HashMap<u32, Waiting>,
    closed: Option<CloseKind>,
}

/// One request in the table.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The session of the request.
    generation: u32,
    /// Stored only if a schema depends on it.
    pub(crate) route: Option<Box<str>>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The caller's side. Dropping it removes the request from the table.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    pending: &'a Pending,
    id: u32,
    answer: oneshot::Receiver<Answer>,
    answered: bool,
}

impl Pending {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            limit,
        }
    }

    /// Adds a request under a new id.
    pub(crate) fn enter(
        &self,
        generation: u32,
        route: Option<&str>,
    ) -> Result<Ticket<'_>, RequestError> {
        let mut state = self.lock();
        if let Some(kind) = &state.closed {
            return Err(RequestError::Closed(kind.clone()));
        }
        if state.waiting.len() >= self.limit {
            return Err(RequestError::TooManyPending);
        }
        // Ids count up from 1 and start over after 2^31: an id that is still pending is skipped.
        loop {
            state.last_id = state.last_id % MAX_ID + 1;
            if !state.waiting.contains_key(&state.last_id) {
                break;
            }
        }
        let id = state.last_id;
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            generation,
            route: route.map(Box::from),
            answer: sender,
        };
        state.waiting.insert(id, waiting);
        Ok(Ticket {
            pending: self,
            id,
            answer,
            answered: false,
        })
    }

    /// Removes the request for a response. `None`: there is no such pending request.
    pub(crate) fn take(&self, id: u64) -> Option<Waiting> {
        let id = u32::try_from(id).ok()?;
        self.lock().waiting.remove(&id)
    }

    /// Whether the request is still pending.
    pub(crate) fn contains(&self, id: u64) -> bool {
        u32::try_from(id).is_ok_and(|id| self.lock().waiting.contains_key(&id))
    }

    /// Ends all requests, and all later ones, with `kind`. Only the first call has an effect.
    pub(crate) fn close(&self, kind: &CloseKind) {
        let waiting = {
            let mut state = self.lock();
            state.closed.get_or_insert_with(|| kind.clone());
            std::mem::take(&mut state.waiting)
        };
        for request in waiting.into_values() {
            // The caller may have gone away.
            let _ = request.answer.send(Err(RequestError::Closed(kind.clone())));
        }
    }

    /// A new session began: requests of earlier ones fail.
    pub(crate) fn fail_outdated(&self, present: u32) {
        let lost: Vec<Waiting> = {
            let mut state = self.lock();
            let of_old = state
                .waiting
                .extract_if(|_, waiting| waiting.generation != present);
            of_old.map(|(_, waiting)| waiting).collect()
        };
        for request in lost {
            // The caller may have gone away.
            let _ = request.answer.send(Err(RequestError::Lost));
        }
    }

    /// Why the connection ended, if it has.
    pub(crate) fn closed(&self) -> Option<CloseKind> {
        self.lock().closed.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No foreign code runs under the lock, so the data behind a poisoned lock are consistent.
        self.state.lock()
    }
}

impl Ticket<'_> {
    pub(crate) fn id(&self) -> u64 {
        self.id.into()
    }

    /// Waits for the response. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.answered = true;
        // The sender is never dropped unused: a response follows `take`, and `close` ends all requests.
        answer.unwrap_or_else(|_| {
            let kind = self.pending.closed().unwrap_or(CloseKind::Aborted);
            Err(RequestError::Closed(kind))
        })
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pending.lock().waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_ticket_leaves_nothing() {
        let pending = Pending::new(2);
        let first = pending.enter(0, None).unwrap();
        let second = pending.enter(0, Some("a.b.c")).unwrap();
        assert_eq!((first.id(), second.id()), (1, 2));
        assert_eq!(
            pending.enter(0, None).unwrap_err(),
            RequestError::TooManyPending
        );
        drop(first);
        assert_eq!(pending.len(), 1);
        assert!(pending.take(1).is_none());
        assert_eq!(pending.take(2).unwrap().route.as_deref(), Some("a.b.c"));
        assert_eq!(pending.len(), 0);
        assert!(pending.take(u64::MAX).is_none());
    }

    #[tokio::test]
    async fn a_new_session_ends_the_requests_of_the_old_one_only() {
        let pending = Pending::new(10);
        let mut old = pending.enter(0, None).unwrap();
        let new = pending.enter(1, None).unwrap();
        pending.fail_outdated(1);
        assert_eq!(old.answer().await, Err(RequestError::Lost));
        assert_eq!(pending.len(), 1);
        assert!(pending.take(new.id()).is_some());
    }

    #[test]
    fn ids_start_over_and_pass_over_the_waiting() {
        let pending = Pending::new(10);
        let first = pending.enter(0, None).unwrap();
        pending.lock().last_id = MAX_ID - 1;
        let last = pending.enter(0, None).unwrap();
        assert_eq!(last.id(), u64::from(MAX_ID));
        let next = pending.enter(0, None).unwrap();
        assert_eq!((first.id(), next.id()), (1, 2));
    }

    #[tokio::test]
    async fn closing_fails_all_pending_requests() {
        let pending = Pending::new(10);
        let mut waiting = pending.enter(0, None).unwrap();
        pending.close(&CloseKind::HeartbeatTimeout);
        pending.close(&CloseKind::ClosedByClient);
        let closed = RequestError::Closed(CloseKind::HeartbeatTimeout);
        assert_eq!(waiting.answer().await, Err(closed.clone()));
        assert_eq!(pending.enter(0, None).unwrap_err(), closed);
    }
}
