//! The shared packages of a queue, beside the bytes that were encoded for its client alone.

use bytes::Bytes;
use std::sync::Arc;

/// Pushes with a key in one queue. More are queued as if they had none: a pointer to a short package costs more than its bytes.
pub(super) const MAX_KEYS: usize = 256;

/// A shared package, and the number of the queue's own bytes before it.
#[derive(Debug)]
pub(crate) struct Insert {
    pub(crate) at: usize,
    pub(crate) bytes: Bytes,
}

/// Shared packages between the bytes of a queue, in order.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) inserts: Vec<Insert>,
    /// The places of those that have a key, in order.
    keys: Vec<(usize, Arc<str>)>,
}

impl More {
    pub(super) fn push(&mut self, at: usize, bytes: Bytes) {
        self.inserts.push(Insert { at, bytes });
    }

    pub(super) fn push_latest(&mut self, key: &Arc<str>, at: usize, bytes: Bytes) {
        self.keys.push((self.inserts.len(), Arc::clone(key)));
        self.push(at, bytes);
    }

    /// Whether a package with this key is queued.
    pub(super) fn has(&self, key: &str) -> bool {
        self.place(key).is_some()
    }

    /// Whether a package with this key can be queued.
    pub(super) fn has_room(&self, key: &str) -> bool {
        self.keys.len() < MAX_KEYS || self.has(key)
    }

    fn place(&self, key: &str) -> Option<usize> {
        self.keys.iter().rposition(|(_, known)| **known == *key)
    }

    pub(super) fn length_of(&self, key: &str) -> usize {
        self.place(key)
            .map_or(0, |place| self.inserts[self.keys[place].0].bytes.len())
    }

    /// Takes the newest package of this key out.
    pub(super) fn take_back(&mut self, key: &str) -> Option<Bytes> {
        let place = self.place(key)?;
        let (insert, _) = self.keys.remove(place);
        for (later, _) in &mut self.keys[place..] {
            *later -= 1;
        }
        Some(self.inserts.remove(insert).bytes)
    }
}
