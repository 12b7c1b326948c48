//! [`Conn`]: the state machine of one connection.

mod deadline;
mod inbound;
mod state;

pub use deadline::TimeoutKind;
pub use state::{ConnState, DropReason, Event, Inbound, ProtocolError, RefuseReason};

use crate::answers::Wanted;
use crate::resume::read_acknowledgement;
use crate::{
    Codec, Dialect, DialectChoice, EncodeError, HandshakeError, HandshakeRequest, Millis, Package,
    PackageReader, PackageType, RejectCode, ResumeGrant, RsaKey,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use bytes::{BufMut, Bytes, BytesMut};
use deadline::Clock;
use serde_json::Value;

/// A complete HEARTBEAT package.
const HEARTBEAT: [u8; 4] = [PackageType::Heartbeat as u8, 0, 0, 0];

/// The state machine of one connection: bytes in, events and bytes out, deadlines as data.
///
/// There are four kinds of methods: getters; [`Conn::poll_event`] for input, called until it returns `None`; [`Conn::accept`],
/// [`Conn::reject`], [`Conn::close`] and [`Conn::touch`] for commands; [`Conn::deadline`] and [`Conn::poll_timeout`] for time. Methods
/// append complete packages to `out`, which must be written in that order.
///
/// | package | INITED | WAIT_ACK | WORKING |
/// | --- | --- | --- | --- |
/// | HANDSHAKE | [`Event::Handshake`] | dropped | dropped |
/// | HANDSHAKE_ACK | dropped | [`Event::Open`], first HEARTBEAT | dropped |
/// | HEARTBEAT | dropped | dropped | answered, if heartbeats are on; counted: [`Event::Heartbeat`] |
/// | DATA | dropped | dropped | [`Event::Message`], [`Event::Refused`], .. |
/// | KICK, unknown type | error | error; counted: an empty KICK is [`Event::Goodbye`] | the same |
///
/// Dropped means [`Event::Dropped`]: no response and no effect; the event is only counted.
///
/// While no package is incomplete, a `Conn` owns no memory apart from a signing key.
#[derive(Debug)]
pub struct Conn {
    codec: Arc<Codec>,
    reader: PackageReader,
    /// The key with which the client signs. Boxed, because most connections have none.
    key: Option<Box<RsaKey>>,
    clock: Clock,
    state: ConnState,
    dialect: Dialect,
    choice: DialectChoice,
    /// The parts that the response must contain when it is sent.
    wanted: Wanted,
    /// Resumption was granted: both ends count DATA packages.
    counted: bool,
    /// The client has said goodbye.
    left: bool,
}

impl Conn {
    /// Creates the state machine of an accepted connection, with the dialects of the codec.
    pub fn new(codec: Arc<Codec>, now: Millis) -> Self {
        let choice = codec.config().dialect;
        Self::with_dialect(codec, choice, now)
    }

    /// Creates the state machine of an accepted connection of a listener with its own choice of dialects.
    pub fn with_dialect(codec: Arc<Codec>, choice: DialectChoice, now: Millis) -> Self {
        Self {
            codec,
            reader: PackageReader::new(),
            key: None,
            clock: Clock::new(now),
            state: ConnState::WaitHandshake,
            dialect: choice.fixed().unwrap_or_default(),
            choice,
            wanted: Wanted::default(),
            counted: false,
            left: false,
        }
    }

    /// Consumes `input` and returns the first event in it. Call it until it returns `None`.
    ///
    /// `None` leaves bytes in `input` only while the handshake waits for its response ([`ConnState::Answering`]). Keep them, and read no
    /// more data from the client until then. A closed connection discards its input.
    ///
    /// # Errors
    ///
    /// The connection must be closed for this reason, without a KICK, after `out` was written. Its state is [`ConnState::Closed`].
    pub fn poll_event(
        &mut self,
        now: Millis,
        input: &mut Bytes,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, ProtocolError> {
        let event = self.advance(now, input, out);
        if event.is_err() {
            self.close();
        }
        if self.state == ConnState::Closed {
            input.clear();
        }
        event
    }

    fn advance(
        &mut self,
        now: Millis,
        input: &mut Bytes,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, ProtocolError> {
        while !matches!(self.state, ConnState::Answering | ConnState::Closed) {
            if input.is_empty() {
                return Ok(None);
            }
            self.clock.touch(now);
            let Some(package) = self.reader.next(input, self.max_body())? else {
                return Ok(None);
            };
            self.clock.package(now);
            if let Some(event) = self.package(now, package, out)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn max_body(&self) -> usize {
        let limits = self.codec.limits();
        match self.state {
            ConnState::WaitHandshake => limits.max_handshake_size.min(limits.max_package_size),
            _ => limits.max_package_size,
        }
    }

    fn package(
        &mut self,
        now: Millis,
        package: Package,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, ProtocolError> {
        let dropped = match (package.kind, self.state) {
            (PackageType::Data, ConnState::Working) => {
                let key = self.key.as_deref();
                return inbound::read(&self.codec, self.dialect, key, package.body).map(Some);
            }
            (PackageType::Heartbeat, ConnState::Working) => {
                if self.counted {
                    let acknowledged = read_acknowledgement(&package.body)
                        .map_err(|_| ProtocolError::Acknowledgement)?;
                    return Ok(Some(Event::Heartbeat { acknowledged }));
                }
                self.put_heartbeat(out);
                return Ok(None);
            }
            (PackageType::Handshake, ConnState::WaitHandshake) => {
                return Ok(Some(self.handshake(now, package.body, out)?));
            }
            (PackageType::HandshakeAck, ConnState::WaitAck) => {
                self.enter(ConnState::Working, now);
                self.put_heartbeat(out);
                return Ok(Some(Event::Open));
            }
            (PackageType::Kick, ConnState::WaitAck | ConnState::Working)
                if self.counted && package.body.is_empty() =>
            {
                self.close();
                self.left = true;
                return Ok(Some(Event::Goodbye));
            }
            (PackageType::Kick, _) => return Err(ProtocolError::Kick),
            (PackageType::Data, _) => DropReason::DataBeforeAck,
            (PackageType::Heartbeat, _) => DropReason::EarlyHeartbeat,
            (PackageType::Handshake, _) => DropReason::SecondHandshake,
            (PackageType::HandshakeAck, _) => DropReason::UnexpectedAck,
        };
        Ok(Some(Event::Dropped(dropped)))
    }

    // Called once per connection; inlining it would slow the message path.
    #[inline(never)]
    fn handshake(
        &mut self,
        now: Millis,
        body: Bytes,
        out: &mut BytesMut,
    ) -> Result<Event, HandshakeError> {
        let request = HandshakeRequest::parse(body, self.choice).and_then(|request| {
            self.dialect = request.dialect;
            self.key = self.client_key(&request)?;
            Ok(request)
        });
        let request = request.inspect_err(|_| {
            self.codec.put_reject(self.dialect, RejectCode::Failed, out);
        })?;
        self.wanted = self.codec.wanted(&request);
        self.enter(ConnState::Answering, now);
        Ok(Event::Handshake(Box::new(request)))
    }

    /// The key with which the client must sign. `rsa: {}` is accepted, as in the original; all messages of that client are then dropped.
    fn client_key(
        &self,
        request: &HandshakeRequest,
    ) -> Result<Option<Box<RsaKey>>, HandshakeError> {
        let config = self.codec.config();
        if config.crypto.is_none() {
            return Ok(None);
        }
        if self.dialect == Dialect::Pitaya {
            // The client chose the dialect, so the dialect must not disable signatures.
            return if config.unsigned_pitaya {
                Ok(None)
            } else {
                Err(HandshakeError::CannotSign)
            };
        }
        let rsa = request.rsa.as_ref().ok_or(HandshakeError::NoKey)?;
        if rsa.is_empty() {
            return Ok(None);
        }
        let modulus = rsa.modulus.as_deref().unwrap_or_default();
        RsaKey::from_handshake(modulus, rsa.exponent.unwrap_or_default())
            .map(|key| Some(Box::new(key)))
            .map_err(|_| HandshakeError::NoKey)
    }

    /// Accepts the handshake with code 200, and with `user` unless it is null, false, 0 or an empty text.
    ///
    /// Has no effect unless a handshake waits for its response. Call [`Conn::poll_event`] again afterwards: an ACK that arrived together
    /// with the HANDSHAKE is still in the input.
    ///
    /// # Errors
    ///
    /// The response is longer than a package can be. Nothing was written; reject the client.
    pub fn accept(
        &mut self,
        now: Millis,
        user: Option<&Value>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.answer(now, user, None, out)
    }

    /// As [`accept`](Self::accept), and grants resumption: from now on the connection is [counted](Self::is_counted).
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_resumable(
        &mut self,
        now: Millis,
        user: Option<&Value>,
        grant: &ResumeGrant,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.answer(now, user, Some(grant), out)
    }

    fn answer(
        &mut self,
        now: Millis,
        user: Option<&Value>,
        grant: Option<&ResumeGrant>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if self.state == ConnState::Answering {
            self.codec
                .put_accept(self.dialect, self.wanted, user, grant, out)?;
            self.counted = grant.is_some();
            self.enter(ConnState::WaitAck, now);
        }
        Ok(())
    }

    /// Whether resumption was granted: DATA packages count ([`Event::is_of_data`]), and heartbeats acknowledge them.
    pub const fn is_counted(&self) -> bool {
        self.counted
    }

    /// Whether the client has sent a [goodbye](Event::Goodbye).
    pub const fn has_left(&self) -> bool {
        self.left
    }

    /// Whether heartbeats are sent to the client.
    pub fn has_heartbeats(&self) -> bool {
        self.codec.heartbeat(self.dialect).is_some()
    }

    /// Rejects the handshake with an error. The caller writes `out`, then closes, without a KICK.
    pub fn reject(&mut self, code: RejectCode, out: &mut BytesMut) {
        if self.state == ConnState::Answering {
            self.codec.put_reject(self.dialect, code, out);
            self.close();
        }
    }

    /// Closes the connection: no further events or deadlines, and no memory.
    pub fn close(&mut self) {
        self.state = ConnState::Closed;
        self.reader = PackageReader::new();
        self.key = None;
    }

    /// Resets the idle timeout, because bytes were written to the client. Other deadlines do not change.
    pub fn touch(&mut self, now: Millis) {
        self.clock.touch(now);
    }

    /// Resets the heartbeat and idle timeouts, because the client is alive although its data were not read.
    pub fn data_received(&mut self, now: Millis) {
        self.clock.touch(now);
        self.clock.package(now);
    }

    /// The latest time at which [`Conn::poll_timeout`] should be called. Input moves it to a later time, except that a completed handshake
    /// may move it to an earlier one: query it after each batch of events. `None` once closed.
    pub fn deadline(&self) -> Option<Millis> {
        self.next_deadline().map(|(at, _)| at)
    }

    /// Returns the deadline that has passed, if any. The state is then [`ConnState::Closed`]; close the connection without a KICK.
    pub fn poll_timeout(&mut self, now: Millis) -> Option<TimeoutKind> {
        let (at, kind) = self.next_deadline()?;
        if now < at {
            return None;
        }
        self.close();
        Some(kind)
    }

    fn next_deadline(&self) -> Option<(Millis, TimeoutKind)> {
        self.clock.next(self.state, self.dialect, &self.codec)
    }

    fn enter(&mut self, state: ConnState, now: Millis) {
        self.state = state;
        self.clock.enter(now);
    }

    fn put_heartbeat(&self, out: &mut BytesMut) {
        if self.has_heartbeats() {
            out.put_slice(&HEARTBEAT);
        }
    }

    /// The dialect; [`Dialect::Pomelo`] while it is not known yet.
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The state of the connection.
    pub const fn state(&self) -> ConnState {
        self.state
    }

    /// Whether a package is incomplete. The end of a stream, or of a WebSocket message, is then an error.
    pub fn is_mid_package(&self) -> bool {
        self.reader.is_mid_package()
    }

    /// The shared codec of this frontend.
    pub const fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100,000 idle clients are 100,000 of these.
    #[test]
    fn is_small() {
        assert!(size_of::<Conn>() <= 160, "{}", size_of::<Conn>());
        assert!(size_of::<Event>() <= 128, "{}", size_of::<Event>());
    }

    /// Defect 20 of the original: the key of a client that never sends a message stays in memory for ever.
    #[test]
    fn defect_20_the_key_goes_with_the_connection() {
        let config = crate::CodecConfig {
            crypto: Some(crate::HashPolicy::Sha2),
            ..crate::CodecConfig::default()
        };
        let mut conn = Conn::new(Arc::new(Codec::new(config)), Millis(0));
        let modulus = "f".repeat(256);
        let hello = alloc::format!(r#"{{"sys":{{"rsa":{{"rsa_n":"{modulus}","rsa_e":3}}}}}}"#);
        let mut input = crate::encode_package(PackageType::Handshake, hello.as_bytes()).unwrap();
        let event = conn.poll_event(Millis(0), &mut input, &mut BytesMut::new());
        assert!(matches!(event, Ok(Some(Event::Handshake(_)))));
        assert!(conn.key.is_some());
        conn.close();
        assert!(conn.key.is_none());
    }

    #[test]
    fn crosses_threads() {
        const fn check<T: Send + Sync>() {}
        check::<Conn>();
        check::<Event>();
        check::<Codec>();
    }
}
