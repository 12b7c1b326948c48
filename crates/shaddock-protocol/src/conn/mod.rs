//! [`Conn`]: the state machine of one connection.

mod deadline;
mod state;

pub use deadline::TimeoutKind;
pub use state::{ConnState, DropReason, Event, Inbound, ProtocolError, RefuseReason};

use crate::codec::Wanted;
use crate::{
    Codec, Dialect, DialectChoice, EncodeError, HandshakeRequest, Millis, PackageReader,
    PackageType, RejectCode,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// The state machine of one connection: bytes in, events and bytes out, deadlines as data.
///
/// Four kinds of method: getters; [`Conn::poll_event`] for input, called until it gives `None`; [`Conn::accept`],
/// [`Conn::reject`], [`Conn::close`] and [`Conn::touch`] for commands; [`Conn::deadline`] and [`Conn::poll_timeout`] for time.
/// Whatever a method appends to `out` is complete packages to be written in that order.
///
/// While no package is cut short a `Conn` owns no memory of its own, apart from a signing key if there is one.
#[derive(Debug)]
pub struct Conn {
    codec: Arc<Codec>,
    reader: PackageReader,
    state: ConnState,
    dialect: Dialect,
    choice: DialectChoice,
    since: Millis,
}

impl Conn {
    /// An accepted connection, of the dialects that the codec is configured for.
    pub fn new(codec: Arc<Codec>, now: Millis) -> Self {
        let choice = codec.config().dialect;
        Self::with_dialect(codec, choice, now)
    }

    /// An accepted connection of a listener that has its own choice of dialects.
    pub fn with_dialect(codec: Arc<Codec>, choice: DialectChoice, now: Millis) -> Self {
        Self {
            codec,
            reader: PackageReader::new(),
            state: ConnState::Inited,
            dialect: choice.fixed().unwrap_or_default(),
            choice,
            since: now,
        }
    }

    /// Takes what it can from `input` and returns the first event in it; call until `None`.
    ///
    /// `None` leaves bytes in `input` only while the handshake waits for its answer. Keep them, and read no more from the
    /// client until then.
    ///
    /// # Errors
    ///
    /// The connection must be closed for this reason, without a KICK, after `out` was written. It is [`ConnState::Closed`].
    pub fn poll_event(
        &mut self,
        now: Millis,
        input: &mut Bytes,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, ProtocolError> {
        let limits = self.codec.limits();
        let Some(package) = self.reader.next(input, limits.max_package_size)? else {
            return Ok(None);
        };
        match (package.kind, self.state) {
            (PackageType::Handshake, ConnState::Inited) => {
                let request = HandshakeRequest::parse(package.body, self.choice)?;
                self.dialect = request.dialect;
                self.state = ConnState::Answering;
                self.since = now;
                Ok(Some(Event::Handshake(Box::new(request))))
            }
            (PackageType::HandshakeAck, ConnState::WaitAck) => {
                self.state = ConnState::Working;
                out.put_slice(b"\x03\x00\x00\x00");
                Ok(Some(Event::Open))
            }
            _ => Ok(None),
        }
    }

    /// Answers the handshake: 200, with what `user` says if that is something.
    ///
    /// Does nothing unless a handshake waits for its answer.
    ///
    /// # Errors
    ///
    /// The answer is longer than a package can be. Nothing was written; reject the client.
    pub fn accept(
        &mut self,
        now: Millis,
        user: Option<&Value>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if self.state == ConnState::Answering {
            let wanted = Wanted {
                dialect: self.dialect,
                dictionary: true,
                protos: true,
            };
            self.codec.put_answer(wanted, user, out)?;
            self.state = ConnState::WaitAck;
            self.since = now;
        }
        Ok(())
    }

    /// Answers the handshake with an error. The caller writes `out`, then closes, without a KICK.
    pub fn reject(&mut self, code: RejectCode, out: &mut BytesMut) {
        if self.state == ConnState::Answering {
            self.codec.put_reject(code, self.dialect, out);
            self.close();
        }
    }

    /// Ends the connection: no more events, no more deadlines.
    pub fn close(&mut self) {
        self.state = ConnState::Closed;
        self.reader = PackageReader::new();
    }

    /// Bytes were written to the client: the idle time starts again.
    pub fn touch(&mut self, now: Millis) {
        self.since = now;
    }

    /// When [`Conn::poll_timeout`] should be called at the latest. Later events may move it in both directions.
    pub fn deadline(&self) -> Option<Millis> {
        None
    }

    /// Which deadline has passed, if one has; the connection is then [`ConnState::Closed`] and must be closed, without a KICK.
    pub fn poll_timeout(&mut self, now: Millis) -> Option<TimeoutKind> {
        let _ = now;
        None
    }

    /// The dialect; [`Dialect::Pomelo`] while it is not known yet.
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where the connection is.
    pub const fn state(&self) -> ConnState {
        self.state
    }

    /// Whether a package was begun and is not complete. The end of a stream, or of a WebSocket message, is an error then.
    pub fn is_mid_package(&self) -> bool {
        self.reader.is_mid_package()
    }

    /// What all connections of this frontend share.
    pub const fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }
}
