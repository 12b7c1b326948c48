//! Spare buffers of a thread, so that responding to a request allocates nothing once a worker is warm.

use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

/// Buffers kept per thread. With [`MAX_CAPACITY`] this limits the pool to 256 KiB per thread.
const MAX_BUFFERS: usize = 16;
/// Larger buffers are returned to the allocator.
pub(crate) const MAX_CAPACITY: usize = 16 * 1024;
/// Size of a new buffer: some ten small messages. It grows by doubling.
const FRESH_CAPACITY: usize = 512;

thread_local! {
    static SPARE: Spare = const { Spare { next: Cell::new(None), rest: RefCell::new(Vec::new()) } };
}

/// Buffers of one thread that are not on loan.
struct Spare {
    /// The buffer that is lent next: encoding one message after another takes and returns it, and touches nothing else.
    next: Cell<Option<BytesMut>>,
    rest: RefCell<Vec<BytesMut>>,
}

impl Spare {
    #[inline]
    fn pop(&self) -> Option<BytesMut> {
        self.next.take().or_else(|| self.rest.borrow_mut().pop())
    }

    #[inline]
    fn push(&self, buffer: BytesMut) {
        let Some(other) = self.next.replace(Some(buffer)) else {
            return;
        };
        let mut rest = self.rest.borrow_mut();
        if rest.len() < MAX_BUFFERS - 1 {
            rest.push(other);
        }
    }
}

/// A buffer of this thread on loan: empty when it is lent, and cleared and returned when the loan ends in any way.
pub(crate) struct Lent(BytesMut);

/// Lends an empty buffer with room.
#[inline]
pub(crate) fn lend() -> Lent {
    // Fails only while the thread exits.
    let spare = SPARE.try_with(Spare::pop).ok().flatten();
    debug_assert!(spare.as_ref().is_none_or(BytesMut::is_empty));
    Lent(spare.unwrap_or_else(|| BytesMut::with_capacity(FRESH_CAPACITY)))
}

impl Lent {
    /// Ends the loan without returning the buffer: an outbox keeps it with its content, and the code that takes it from there
    /// [returns](put) it.
    pub(crate) fn keep(&mut self) -> BytesMut {
        std::mem::take(&mut self.0)
    }
}

impl Deref for Lent {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        put(std::mem::take(&mut self.0));
    }
}

/// Returns a buffer. Its content is discarded.
#[inline]
pub(crate) fn put(mut buffer: BytesMut) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_CAPACITY {
        return;
    }
    buffer.clear();
    let _ = SPARE.try_with(|spare| spare.push(buffer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_few() {
        let mut buffer = lend();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        drop(buffer);
        let again = lend();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);

        // A loan that ends by a panic is a loan that ends.
        let panicked = std::panic::catch_unwind(|| {
            let mut buffer = lend();
            buffer.extend_from_slice(b"secret");
            panic!("expected in this test");
        });
        assert!(panicked.is_err());
        assert!(lend().is_empty());
        (0..100).for_each(|_| put(BytesMut::with_capacity(64)));
        put(BytesMut::with_capacity(MAX_CAPACITY + 1));
        let kept = std::iter::from_fn(|| SPARE.with(Spare::pop));
        let capacities: Vec<usize> = kept.map(|buffer| buffer.capacity()).collect();
        assert_eq!(capacities.len(), MAX_BUFFERS);
        assert!(capacities.iter().all(|capacity| *capacity <= MAX_CAPACITY));
    }
}
