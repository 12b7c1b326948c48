//! Clients that come back to another frontend than the one that has their session.
//!
//! The session stays where it is, and the frontend with the socket relays: it asks the other one, which its token names, and from then on both move
//! bytes. At the session's frontend the relay is a connection as any other ([`Relayed`]), which claims the session, is acknowledged, and can be lost.
//! So everything else is unaffected: order, counts, users, channels, fencing and all senders to the session work as before.
//!
//! Each direction is a row of operations, one at a time, each with its place in the stream; the answer says how much was taken, which is also
//! the back-pressure. Whatever is not certain (an answer that does not come, a place that does not fit) breaks the relay, and then the connection is lost:
//! the session waits, and the client comes back. A relay that has nothing to move says so every [`QUIET`], so that each end learns of the end of the other one.

mod away;
mod home;
mod wire;

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use shaddock_cluster::{
    BoxFuture, RemoteError, RemoteErrorKind, ServerId, SessionAnswer, SessionOp, code,
};
use shaddock_net::{Piece, Pipe};

use self::wire::Moved;
pub(crate) use self::{away::SocketSide, home::SessionSide};
use super::relays::{End, Key};
use crate::{
    app::AppHandle,
    session::{SessionCalls, SessionError},
};

/// The operation that asks a frontend for a session of it.
pub(crate) const OPEN: &str = "shaddock.relay.open";
/// The operation that moves bytes, in both directions.
pub(crate) const BYTES: &str = "shaddock.relay.bytes";

/// Bytes of one operation, at most: far below what NATS carries.
const PIECE: usize = 32 * 1024;
/// How often a relay with nothing to move says that it is there.
const QUIET: Duration = Duration::from_secs(10);
/// How often bytes are offered to a frontend that is too busy to take them, and how long to wait in between. Then the relay is broken.
const BUSY: (u32, Duration) = (100, Duration::from_millis(50));

/// An end that is in the table until it is kept or dropped.
struct Listed {
    app: AppHandle,
    key: Key,
    end: Option<Arc<End>>,
}

impl Listed {
    fn new(app: &AppHandle, key: Key, pipe: Pipe) -> Self {
        let end = End::new(pipe);
        app.relays().lock().insert(key.clone(), Arc::clone(&end));
        Self {
            app: app.clone(),
            key,
            end: Some(end),
        }
    }

    /// The relay is there: bytes move until one end is gone.
    fn begin(mut self) {
        if let Some(end) = self.end.take() {
            let (app, key) = (self.app.clone(), self.key.clone());
            self.app.runtime().spawn(async move {
                Mover::of(&app).move_bytes(&key, &end.pipe).await;
                app.relays().remove(&key);
            });
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.app.relays().remove(&self.key);
        }
    }
}

fn broken() -> RemoteError {
    RemoteError::new(code::NOT_FOUND, "there is no such relay")
}

/// Moves the bytes of relays, at both ends.
#[derive(Clone, Copy)]
pub(crate) struct Mover<'a> {
    app: &'a AppHandle,
}

impl<'a> Mover<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Moves what our driver writes to the other frontend, until one of them has ended.
    async fn move_bytes(self, key: &Key, pipe: &Pipe) {
        let Ok(from) = ServerId::new(self.app.id()) else {
            return;
        };
        let mut place = 0;
        loop {
            let piece = tokio::time::timeout(QUIET, pipe.next(PIECE)).await;
            let mut piece = piece.unwrap_or(Piece::Bytes(Bytes::new()));
            loop {
                let moved = Moved {
                    from: from.clone(),
                    number: key.number,
                    from_home: key.is_home,
                    place,
                    piece: piece.clone(),
                };
                let Some(taken) = self.send_bytes(key, &moved).await else {
                    return;
                };
                let Piece::Bytes(left) = &mut piece else {
                    return;
                };
                if taken > left.len() {
                    return;
                }
                left.advance(taken);
                place += taken as u64;
                if left.is_empty() {
                    break;
                }
            }
        }
    }

    /// How many bytes were taken. None: the relay is broken.
    async fn send_bytes(self, key: &Key, moved: &Moved) -> Option<usize> {
        let argument = moved.to_bytes();
        let (mut tries, pause) = BUSY;
        loop {
            let op = SessionOp::Custom {
                name: BYTES.into(),
                argument: argument.clone(),
            };
            match SessionCalls::of(self.app).ask(&key.other, op).await {
                Ok(SessionAnswer::Custom(mut answer)) => {
                    return usize::try_from(answer.try_get_u32().ok()?).ok();
                }
                Ok(_) => return None,
                // Nothing was done: the same bytes may come again.
                Err(SessionError::Remote(error))
                    if error.kind() == RemoteErrorKind::Busy && tries > 0 =>
                {
                    tries -= 1;
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    tracing::debug!(frontend = %key.other, %error, "a relay has ended");
                    return None;
                }
            }
        }
    }

    /// Bytes from the other end of a relay.
    pub(crate) fn serve_relay_bytes(
        self,
        argument: Bytes,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let app = self.app.clone();
        Box::pin(async move {
            let moved = Moved::read(argument).ok_or_else(broken)?;
            let key = Key {
                other: moved.from,
                number: moved.number,
                is_home: !moved.from_home,
            };
            let end = app.relays().lock().get(&key).cloned().ok_or_else(broken)?;
            let taken = end.take(moved.place, moved.piece).await;
            let Some(taken) = taken else {
                app.relays().remove(&key);
                return Err(broken());
            };
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            Ok(SessionAnswer::Custom(Bytes::copy_from_slice(
                &taken.to_be_bytes(),
            )))
        })
    }
}
