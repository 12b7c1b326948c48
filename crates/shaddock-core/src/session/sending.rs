//! Messages to the client of a session: each is enqueued in its outbox, and a client that does not read is disconnected.

use super::{MARKED, Session};
use crate::{CloseReason, Offer, PushError, Room, SendError};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// # Sending
impl Session {
    /// Enqueues an encoded package.
    ///
    /// # Errors
    ///
    /// See [`SendError`]. After `SlowClient` the session is closed.
    pub fn send(self: &Arc<Self>, package: Bytes) -> Result<(), SendError> {
        self.offer(package, Offer::default()).map(drop)
    }

    /// As [`send`](Self::send), in the given way, and returns whether there is room for more.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[inline]
    pub fn offer(self: &Arc<Self>, package: Bytes, how: Offer<'_>) -> Result<Room, SendError> {
        self.close_if_slow(self.outbox.offer(package, how))
    }

    /// Encodes one package directly into the queue, see [`Outbox::push_with`](crate::Outbox::push_with).
    ///
    /// # Errors
    ///
    /// As [`Outbox::push_with`](crate::Outbox::push_with). After `SlowClient` the session is closed.
    pub fn send_with<E>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), PushError<E>> {
        match self.outbox.push_with(encode) {
            Err(PushError::Send(error)) => Ok(self.close_if_slow(Err(error)).map(drop)?),
            Err(error) => Err(error),
            Ok(room) => {
                self.note(room);
                Ok(())
            }
        }
    }

    /// Whether the outbox may be above its mark: false means that [`Outbox::is_above_mark`](crate::Outbox::is_above_mark) was false after every send since the last call.
    /// Costs one load, and returns true once after each time that it was above the mark.
    pub fn take_marked(&self) -> bool {
        let marked = self.flags.load(Ordering::Acquire) & MARKED != 0;
        if marked {
            self.flags.fetch_and(!MARKED, Ordering::AcqRel);
        }
        marked
    }

    /// Records that the outbox is above its mark, for [`take_marked`](Self::take_marked).
    #[inline]
    pub(crate) fn note(&self, room: Room) {
        if matches!(room, Room::Pressed | Room::Stalled | Room::Full) {
            self.flags.fetch_or(MARKED, Ordering::AcqRel);
        }
    }

    pub(crate) fn close_if_slow(
        self: &Arc<Self>,
        result: Result<Room, SendError>,
    ) -> Result<Room, SendError> {
        match result {
            Ok(room) => self.note(room),
            Err(SendError::SlowClient) => {
                self.close(CloseReason::SlowClient);
            }
            Err(_) => {}
        }
        result
    }
}
