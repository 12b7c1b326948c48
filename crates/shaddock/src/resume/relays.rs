//! The relays of a frontend.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use shaddock_cluster::ServerId;
use shaddock_net::{Piece, Pipe};

/// How long the other end may take to make room before it answers that it took nothing.
const ROOM: Duration = Duration::from_secs(1);

/// The relays of this frontend, of both kinds. There are as many as connections, which the listeners bound.
#[derive(Debug, Default)]
pub(crate) struct Relays(Mutex<HashMap<Key, Arc<End>>>);

/// One end of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The frontend with the other end.
    pub(super) other: ServerId,
    /// Chosen at random by the frontend with the socket.
    pub(super) number: u64,
    /// The session is here, and not the socket.
    pub(super) is_home: bool,
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) pipe: Pipe,
    /// Bytes that have come from the other frontend.
    received: Mutex<u64>,
}

impl End {
    pub(super) fn new(pipe: Pipe) -> Arc<Self> {
        let received = Mutex::default();
        Arc::new(Self { pipe, received })
    }
}

impl Relays {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<End>>> {
        self.0.lock()
    }

    pub(super) fn remove(&self, key: &Key) {
        let end = self.lock().remove(key);
        drop(end);
    }

    /// This frontend goes. Sessions that are elsewhere do not: their clients come back to them at other frontends.
    pub(crate) fn cut_sockets(&self) {
        let ends = self.lock();
        let sockets = ends.iter().filter(|(key, _)| !key.is_home);
        let sockets: Vec<_> = sockets.map(|(_, end)| Arc::clone(end)).collect();
        drop(ends);
        for end in sockets {
            end.pipe.cut();
        }
    }

    /// How many sockets here have their session elsewhere, and how many sessions here have their socket elsewhere.
    pub(crate) fn count(&self) -> (usize, usize) {
        let ends = self.lock();
        let homes = ends.keys().filter(|key| key.is_home).count();
        (ends.len() - homes, homes)
    }
}

impl End {
    /// Gives bytes to our driver. None: it is gone, or something is missing before them. Then the relay is broken for our driver too, now and
    /// not when the other direction notices: the session waits for its client from here on, or the old socket closes.
    pub(super) async fn take(&self, place: u64, piece: Piece) -> Option<usize> {
        let taken = self.try_take(place, piece).await;
        if taken.is_none() {
            self.pipe.cut();
        }
        taken
    }

    async fn try_take(&self, place: u64, piece: Piece) -> Option<usize> {
        let bytes = match piece {
            Piece::Finished => {
                self.pipe.finish();
                return Some(0);
            }
            Piece::Broken => return None,
            Piece::Bytes(bytes) => bytes,
        };
        if !bytes.is_empty() {
            match tokio::time::timeout(ROOM, self.pipe.room()).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(_) => return Some(0),
            }
        }
        let mut received = self.received.lock();
        if *received != place || !self.pipe.write(&bytes) {
            return None;
        }
        *received += bytes.len() as u64;
        Some(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_breaks_the_relay() {
        let bytes = |text: &'static str| Piece::Bytes(Bytes::from_static(text.as_bytes()));
        let wrong = [
            (0, bytes("x")),
            (1, bytes("x")),
            (3, bytes("x")),
            (2, Piece::Broken),
        ];
        for (place, piece) in wrong {
            let (ours, drivers) = Pipe::pair();
            let end = End::new(ours);
            assert_eq!(end.take(0, bytes("ab")).await, Some(2));
            assert_eq!(end.take(2, Piece::Bytes(Bytes::new())).await, Some(0));
            assert_eq!(end.take(place, piece).await, None, "{place}");
            // What came before is read, and then the driver knows.
            assert_eq!(drivers.next(9).await, bytes("ab"));
            assert_eq!(drivers.next(9).await, Piece::Broken, "{place}");
            assert_eq!(end.take(2, bytes("c")).await, None);
        }
        let (ours, drivers) = Pipe::pair();
        let end = End::new(ours);
        drop(drivers);
        assert_eq!(end.take(0, bytes("d")).await, None);
    }
}
