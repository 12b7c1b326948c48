//! Spare buffers of a thread, so that answering a request allocates nothing once a worker is warm.

use bytes::BytesMut;
use std::cell::RefCell;

/// Buffers kept per thread. With [`MAX_CAPACITY`] this bounds the pool to 256 KiB per thread.
const MAX_BUFFERS: usize = 16;
/// Larger buffers are given back to the allocator.
const MAX_CAPACITY: usize = 16 * 1024;
/// Size of a new buffer: some ten small messages. It grows by doubling.
const FRESH_CAPACITY: usize = 512;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room.
pub(crate) fn take() -> BytesMut {
    // Fails only while the thread ends.
    SPARE
        .try_with(|spare| spare.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| BytesMut::with_capacity(FRESH_CAPACITY))
}

/// Gives a buffer back. Its content is forgotten.
pub(crate) fn put(mut buffer: BytesMut) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_CAPACITY {
        return;
    }
    buffer.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MAX_BUFFERS {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_few() {
        let mut buffer = take();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        put(buffer);
        let again = take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);

        (0..100).for_each(|_| put(BytesMut::with_capacity(64)));
        put(BytesMut::with_capacity(MAX_CAPACITY + 1));
        let kept = SPARE.with(|spare| spare.borrow().len());
        assert_eq!(kept, MAX_BUFFERS);
        assert!(SPARE.with(|spare| spare.borrow().iter().all(|b| b.capacity() <= MAX_CAPACITY)));
    }
}
