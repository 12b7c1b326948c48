//! Clients that come back to another frontend than the one that has their session.
//!
//! The session stays where it is, and the frontend with the socket relays: it asks the other one, which its token names, and from then on both move
//! bytes. At the session's frontend the relay is a connection as any other ([`Relayed`]), which claims the session, is acknowledged, and can be lost.
//! So everything else is unaffected: order, counts, users, channels, fencing and all senders to the session work as before.
//!
//! Each direction is a row of operations, one at a time, each with its place in the stream; the answer says how much was taken, which is also
//! the back-pressure. Whatever is not certain (an answer that does not come, a place that does not fit) breaks the relay, and then the connection is lost:
//! the session waits, and the client comes back. A relay that has nothing to move says so every [`QUIET`], so that each end learns of the end of the other one.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shaddock_cluster::{
    BoxFuture, RemoteError, RemoteErrorKind, ServerId, ServerInfo, SessionAnswer, SessionOp, code,
};
use shaddock_core::{ResumeRefusal, Sid, TransportKind};
use shaddock_net::{Carried, Peer, Piece, Pipe, RelayAnswer, Relayed, clock};
use shaddock_protocol::{
    HandshakeRequest, PackageType, ResumeRequest, ReturningClient, encode_package,
};
use tokio::sync::oneshot;

use crate::{app::AppHandle, handshake::Login, session::SessionError};

/// The operation that asks a frontend for a session of it.
pub(crate) const OPEN: &str = "shaddock.relay.open";
/// The operation that moves bytes, in both directions.
pub(crate) const BYTES: &str = "shaddock.relay.bytes";

/// Bytes of one operation, at most: far below what NATS carries.
const PIECE: usize = 32 * 1024;
/// How long the other end may take to make room before it answers that it took nothing.
const ROOM: Duration = Duration::from_secs(1);
/// How often a relay with nothing to move says that it is there.
const QUIET: Duration = Duration::from_secs(10);
/// How often bytes are offered to a frontend that is too busy to take them, and how long to wait in between. Then the relay is broken.
const BUSY: (u32, Duration) = (100, Duration::from_millis(50));

/// The relays of this frontend, of both kinds. There are as many as connections, which the listeners bound.
#[derive(Debug, Default)]
pub(crate) struct Relays(Mutex<HashMap<Key, Arc<End>>>);

/// One end of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The frontend with the other end.
    other: ServerId,
    /// Chosen at random by the frontend with the socket.
    number: u64,
    /// The session is here, and not the socket.
    is_home: bool,
}

#[derive(Debug)]
struct End {
    pipe: Pipe,
    /// Bytes that have come from the other frontend.
    received: Mutex<u64>,
}

impl End {
    fn new(pipe: Pipe) -> Arc<Self> {
        let received = Mutex::default();
        Arc::new(Self { pipe, received })
    }
}

impl Relays {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<End>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &Key) {
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
                app.move_bytes(&key, &end.pipe).await;
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

/// What the frontend with the socket says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Open {
    from: String,
    number: u64,
    /// The body of the client's HANDSHAKE.
    handshake: Box<RawValue>,
    /// What its application has for the client.
    #[serde(default)]
    user: Option<Value>,
    /// What that says of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login: Option<Login>,
    address: SocketAddr,
    is_tls: bool,
    is_websocket: bool,
}

/// What the frontend with the session answers.
#[derive(Serialize, Deserialize)]
enum Opened {
    /// The client gets its session.
    Yes,
    /// It does not, for the reason of this name.
    Refused(String),
    /// It has come back on a later connection.
    Elsewhere,
}

/// Some bytes, at their place in the stream.
struct Moved {
    from: ServerId,
    number: u64,
    from_home: bool,
    place: u64,
    piece: Piece,
}

impl Moved {
    fn to_bytes(&self) -> Bytes {
        let payload = match &self.piece {
            Piece::Bytes(bytes) => &bytes[..],
            _ => &[],
        };
        let kind = match self.piece {
            Piece::Bytes(_) => 0,
            Piece::Finished => 1,
            Piece::Broken => 2,
        };
        let from = self.from.as_str().as_bytes();
        let mut out = BytesMut::with_capacity(20 + from.len() + payload.len());
        out.put_u8(kind);
        out.put_u8(u8::from(self.from_home));
        out.put_u64(self.number);
        out.put_u64(self.place);
        out.put_u16(u16::try_from(from.len()).unwrap_or(u16::MAX));
        out.put_slice(from);
        out.put_slice(payload);
        out.freeze()
    }

    fn read(mut bytes: Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        let from_home = bytes.try_get_u8().ok()? == 1;
        let number = bytes.try_get_u64().ok()?;
        let place = bytes.try_get_u64().ok()?;
        let length = usize::from(bytes.try_get_u16().ok()?);
        if bytes.len() < length {
            return None;
        }
        let from = bytes.split_to(length);
        let piece = match kind {
            0 => Piece::Bytes(bytes),
            1 => Piece::Finished,
            2 => Piece::Broken,
            _ => return None,
        };
        Some(Self {
            from: ServerId::new(std::str::from_utf8(&from).ok()?).ok()?,
            number,
            from_home,
            place,
            piece,
        })
    }
}

/// A number that was not used before, by this start of the server or by an earlier one.
fn new_number() -> u64 {
    std::hash::RandomState::new().hash_one(std::process::id())
}

fn broken() -> RemoteError {
    RemoteError::new(code::NOT_FOUND, "there is no such relay")
}

/// # The frontend with the socket
impl AppHandle {
    /// The frontend that has the session of a client which comes back, if it is another one of the type.
    fn home_of(&self, back: &ReturningClient) -> Option<Arc<ServerInfo>> {
        if !self.resume_policy().other_frontends {
            return None;
        }
        let node = Sid::of_token(&back.token)?.node();
        let membership = self.membership().ok()?;
        if node == membership.start_number() {
            return None;
        }
        let mut servers = membership.departing();
        servers.extend(
            membership
                .members()
                .servers_of(self.server_type())
                .iter()
                .cloned(),
        );
        servers.into_iter().find(|server| {
            server.frontend
                && *server.server_type == *self.server_type()
                && server.id.as_str() != self.id()
                && server.announces_node(node)
        })
    }

    /// As [`Frontend::find_elsewhere`](shaddock_net::Frontend::find_elsewhere).
    pub(crate) fn find_elsewhere(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        user: Option<&Value>,
        login: Option<&Login>,
    ) -> Option<BoxFuture<'static, Result<Option<Pipe>, ResumeRefusal>>> {
        let ResumeRequest::Back(back) = &request.resume else {
            return None;
        };
        let home = self.home_of(back)?;
        let (address, now) = (peer.address.ip().to_canonical(), clock::now());
        if !self.returns().comes(address, now, self.resume_policy()) {
            if let Some(service) = self.session_service() {
                service.count_resume_refused(ResumeRefusal::Busy);
            }
            return Some(Box::pin(std::future::ready(Err(ResumeRefusal::Busy))));
        }
        let app = self.clone();
        let text = std::str::from_utf8(&request.raw).ok()?.to_owned();
        let open = Open {
            from: self.id().to_owned(),
            number: new_number(),
            handshake: RawValue::from_string(text).ok()?,
            user: user.cloned(),
            login: login.cloned(),
            address: peer.address,
            is_tls: matches!(
                peer.transport,
                TransportKind::Tls | TransportKind::WebSocketTls
            ),
            is_websocket: matches!(
                peer.transport,
                TransportKind::WebSocket | TransportKind::WebSocketTls
            ),
        };
        Some(Box::pin(async move { app.open_relay(&home, open).await }))
    }

    /// Whether a frontend that did not answer the request for a session may still have the session. A slow frontend has it: with many clients that
    /// come back at once, not all are answered in time. A [suspected](shaddock_cluster::Members::is_suspect) frontend may have died.
    fn may_still_be_there(&self, home: &ServerId, error: &SessionError) -> bool {
        let SessionError::Remote(error) = error else {
            return false;
        };
        match error.kind() {
            RemoteErrorKind::Busy | RemoteErrorKind::Disconnected => true,
            RemoteErrorKind::Timeout => {
                let membership = self.membership();
                membership.is_ok_and(|it| !it.members().is_suspect(home.as_str()))
            }
            _ => false,
        }
    }

    async fn open_relay(
        &self,
        home: &ServerInfo,
        open: Open,
    ) -> Result<Option<Pipe>, ResumeRefusal> {
        let key = Key {
            other: home.id.clone(),
            number: open.number,
            is_home: false,
        };
        let (ours, drivers) = Pipe::pair();
        // Before it is asked: what the session says may come before the answer.
        let listed = Listed::new(self, key, ours);
        let op = SessionOp::Custom {
            name: OPEN.into(),
            argument: serde_json::to_vec(&open).unwrap_or_default().into(),
        };
        let answer = self.ask_frontend(&home.id, op).await;
        // The session lives: the connection is lost, and its client tries again.
        let is_passing = matches!(&answer, Err(error) if self.may_still_be_there(&home.id, error));
        let opened = match answer {
            Ok(SessionAnswer::Custom(answer)) => serde_json::from_slice(&answer).ok(),
            Ok(_) => None,
            Err(error) => {
                shaddock_net::quiet!(warn, "a client resumes a session of a frontend that does not reply", frontend = %home.id, %error);
                None
            }
        };
        match opened {
            Some(Opened::Yes) => {
                listed.begin();
                Ok(Some(drivers))
            }
            Some(Opened::Elsewhere) => Ok(None),
            None if is_passing => Ok(None),
            Some(Opened::Refused(why)) => {
                // Only a frontend that was asked can say that a client showed what it does not have.
                let address = open.address.ip().to_canonical();
                self.returns().refused(address, clock::now());
                let mut all = ResumeRefusal::ALL.iter();
                let known = all.find(|known| known.name() == why);
                Err(known.copied().unwrap_or(ResumeRefusal::Unknown))
            }
            None => {
                if let Some(service) = self.session_service() {
                    service.count_resume_refused(ResumeRefusal::Unknown);
                }
                Err(ResumeRefusal::Unknown)
            }
        }
    }
}

/// # The frontend with the session
impl AppHandle {
    /// Whether clients can come back to their sessions here through a frontend that is none of `but`.
    pub(crate) fn is_relayed_by_others(&self, but: &[Self]) -> bool {
        let (policy, Ok(membership)) = (self.resume_policy(), self.membership()) else {
            return false;
        };
        let relays = |server: &Arc<ServerInfo>| {
            let is_ours = but.iter().any(|app| app.id() == server.id.as_str());
            server.frontend && !is_ours && server.announces_any_node()
        };
        let others = membership.members().servers_of(self.server_type());
        policy.enabled && policy.other_frontends && others.iter().any(relays)
    }

    /// Another frontend has the socket of a client that comes back.
    pub(crate) fn serve_relay(
        &self,
        open: Open,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let app = self.clone();
        Box::pin(async move {
            let opened = app.take_in_relay(open).await?;
            let answer = serde_json::to_vec(&opened).unwrap_or_default();
            Ok(SessionAnswer::Custom(answer.into()))
        })
    }

    async fn take_in_relay(&self, open: Open) -> Result<Opened, RemoteError> {
        let bad =
            |error: &dyn std::fmt::Display| RemoteError::new(code::BAD_REQUEST, error.to_string());
        let key = Key {
            other: ServerId::new(open.from).map_err(|error| bad(&error))?,
            number: open.number,
            is_home: true,
        };
        let hello = encode_package(PackageType::Handshake, open.handshake.get().as_bytes());
        let hello = hello.map_err(|error| bad(&error))?;
        let (ours, drivers) = Pipe::pair();
        ours.write(&hello);
        let listed = Listed::new(self, key, ours);
        let (answer, judged) = oneshot::channel();
        let transport = match (open.is_websocket, open.is_tls) {
            (false, false) => TransportKind::Tcp,
            (false, true) => TransportKind::Tls,
            (true, false) => TransportKind::WebSocket,
            (true, true) => TransportKind::WebSocketTls,
        };
        let relayed = Box::new(Relayed {
            peer: Peer {
                address: open.address,
                transport,
            },
            user: open.user,
            carried: open.login.map(|login| Box::new(login) as Carried),
            pipe: drivers,
            answer,
        });
        if !self.take_in(relayed) {
            return Ok(Opened::Refused(ResumeRefusal::Unknown.name().to_owned()));
        }
        Ok(match judged.await {
            Ok(RelayAnswer::Accepted) => {
                listed.begin();
                Opened::Yes
            }
            Ok(RelayAnswer::Superseded) => Opened::Elsewhere,
            Ok(RelayAnswer::Refused(why)) => Opened::Refused(why.name().to_owned()),
            // The handshake was refused, or this frontend stops.
            Err(_) => Opened::Refused(ResumeRefusal::Unknown.name().to_owned()),
        })
    }
}

/// # Both
impl AppHandle {
    /// Moves what our driver writes to the other frontend, until one of them has ended.
    async fn move_bytes(&self, key: &Key, pipe: &Pipe) {
        let Ok(from) = ServerId::new(self.id()) else {
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
    async fn send_bytes(&self, key: &Key, moved: &Moved) -> Option<usize> {
        let argument = moved.to_bytes();
        let (mut tries, pause) = BUSY;
        loop {
            let op = SessionOp::Custom {
                name: BYTES.into(),
                argument: argument.clone(),
            };
            match self.ask_frontend(&key.other, op).await {
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
        &self,
        argument: Bytes,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let app = self.clone();
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

impl End {
    /// Gives bytes to our driver. None: it is gone, or something is missing before them. Then the relay is broken for our driver too, now and
    /// not when the other direction notices: the session waits for its client from here on, or the old socket closes.
    async fn take(&self, place: u64, piece: Piece) -> Option<usize> {
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
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        if *received != place || !self.pipe.write(&bytes) {
            return None;
        }
        *received += bytes.len() as u64;
        Some(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_with_their_place() {
        for piece in [
            Piece::Bytes(Bytes::from_static(b"hello")),
            Piece::Bytes(Bytes::new()),
            Piece::Finished,
            Piece::Broken,
        ] {
            let moved = Moved {
                from: ServerId::new("connector-1").unwrap(),
                number: u64::MAX,
                from_home: true,
                place: 1 << 40,
                piece,
            };
            let bytes = moved.to_bytes();
            let read = Moved::read(bytes.clone()).unwrap();
            assert_eq!(
                (
                    read.from,
                    read.number,
                    read.from_home,
                    read.place,
                    read.piece
                ),
                (moved.from, moved.number, true, moved.place, moved.piece)
            );
            let head = bytes.len().min(20 + "connector-1".len());
            for length in 0..head {
                assert!(Moved::read(bytes.slice(..length)).is_none(), "{length}");
            }
        }
    }

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
