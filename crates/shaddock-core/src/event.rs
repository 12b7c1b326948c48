//! Events of sessions: their kinds, listeners, and the queue of those that wait for dispatch.

use crate::{CloseReason, Uid};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An event to be dispatched.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Bound(Uid),
    Unbound(Uid),
    Suspended,
    Resumed,
    Closed(CloseReason),
}

impl Event {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Bound(_) => "bound",
            Self::Unbound(_) => "unbound",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed(_) => "closed",
        }
    }
}

/// Identifies a listener of one session, for [`Session::off`](crate::Session::off).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u32);

/// Functions that are called once each, in the order of registration.
pub(crate) struct Listeners<F: ?Sized> {
    list: Vec<(ListenerId, Box<F>)>,
    next: u32,
}

impl<F: ?Sized> Default for Listeners<F> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            next: 0,
        }
    }
}

impl<F: ?Sized> Listeners<F> {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn add(&mut self, listener: Box<F>) -> ListenerId {
        let id = ListenerId(self.next);
        self.next = self.next.wrapping_add(1);
        self.list.push((id, listener));
        id
    }

    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<Box<F>> {
        let at = self.list.iter().position(|(known, _)| *known == id)?;
        Some(self.list.remove(at).1)
    }

    /// Removes all listeners, to be called without a lock.
    pub(crate) fn take_all(&mut self) -> Vec<Box<F>> {
        let all = std::mem::take(&mut self.list);
        all.into_iter().map(|(_, listener)| listener).collect()
    }
}

/// Events of one session that wait for the dispatch of an earlier one.
#[derive(Default)]
pub(crate) struct EventQueue(VecDeque<Event>);

impl EventQueue {
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}

/// Runs foreign code. `Err` is the message of its panic.
pub(crate) fn guarded(call: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| message_of(&*panic))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_text() {
        assert_eq!(guarded(|| ()), Ok(()));
        assert_eq!(guarded(|| panic!("plain")), Err("plain".into()));
        assert_eq!(guarded(|| panic!("with {}", 1)), Err("with 1".into()));
        assert_eq!(
            guarded(|| std::panic::panic_any(5)),
            Err("panic without a text".into())
        );
    }
}
