//! The data that a driver took from an outbox and is about to write.

use crate::outbox::{Insert, More};
use crate::pool;
use bytes::{Buf, Bytes, BytesMut};
use std::io::IoSlice;

/// Bytes on their way from an [`Outbox`](crate::Outbox) to a socket.
///
/// One per worker is enough: it is filled by [`Outbox::take`](crate::Outbox::take), which discards remaining data of another session, read
/// through [`Buf`] (also vectored), and keeps its memory for the next session. A connection whose socket is full keeps the rest with
/// `std::mem::take`.
#[derive(Debug, Default)]
pub struct Drained {
    own: BytesMut,
    /// Bytes of `own` that were consumed.
    own_done: usize,
    inserts: Vec<Insert>,
    /// Inserts that were consumed.
    inserts_done: usize,
    remaining: usize,
}

impl Drained {
    /// Whether everything was written.
    pub const fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Discards the rest, and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        // If nothing remains, `advance` has already cleared the consumed part.
        if self.remaining > 0 || !self.inserts.is_empty() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.own.clear();
        self.own_done = 0;
        self.inserts.clear();
        self.inserts_done = 0;
        self.remaining = 0;
    }

    /// Takes over the queued data, replacing all previous data.
    pub(crate) fn fill(&mut self, first: Option<Bytes>, own: BytesMut, more: Option<Box<More>>) {
        self.remaining = own.len();
        if let Some(bytes) = first {
            self.remaining += bytes.len();
            self.inserts.push(Insert { at: 0, bytes });
        }
        if let Some(mut more) = more {
            let added = &mut more.inserts;
            self.remaining += added.iter().map(|insert| insert.bytes.len()).sum::<usize>();
            self.inserts.append(added);
        }
        pool::put(std::mem::replace(&mut self.own, own));
    }

    /// The remaining bytes, one slice per call.
    fn slice_after<'a>(&'a self, own_done: &mut usize, inserts_done: &mut usize) -> &'a [u8] {
        match self.inserts.get(*inserts_done) {
            Some(insert) if insert.at <= *own_done => {
                *inserts_done += 1;
                &insert.bytes
            }
            next => {
                let end = next.map_or(self.own.len(), |insert| insert.at);
                let slice = &self.own[*own_done..end];
                *own_done = end;
                slice
            }
        }
    }
}

impl Buf for Drained {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        let (mut own, mut inserts) = (self.own_done, self.inserts_done);
        self.slice_after(&mut own, &mut inserts)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut own, mut inserts) = (self.own_done, self.inserts_done);
        let mut filled = 0;
        while filled < slices.len() {
            let slice = self.slice_after(&mut own, &mut inserts);
            if slice.is_empty() {
                break;
            }
            slices[filled] = IoSlice::new(slice);
            filled += 1;
        }
        filled
    }

    /// # Panics
    ///
    /// If `count` exceeds the remaining bytes, as [`Buf`] requires.
    fn advance(&mut self, mut count: usize) {
        assert!(
            count <= self.remaining,
            "advanced past the end of what was drained"
        );
        self.remaining -= count;
        if self.remaining == 0 {
            self.forget();
            return;
        }
        while count > 0 {
            match self.inserts.get_mut(self.inserts_done) {
                Some(insert) if insert.at <= self.own_done => {
                    let step = count.min(insert.bytes.len());
                    insert.bytes.advance(step);
                    count -= step;
                    if insert.bytes.is_empty() {
                        self.inserts_done += 1;
                    }
                }
                next => {
                    let end = next.map_or(self.own.len(), |insert| insert.at);
                    let step = count.min(end - self.own_done);
                    self.own_done += step;
                    count -= step;
                }
            }
        }
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        pool::put(std::mem::take(&mut self.own));
    }
}
