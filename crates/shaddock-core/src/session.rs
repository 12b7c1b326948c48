//! The record of one client.

mod events;

use crate::error::SettingError;
use crate::event::{Event, EventQueue, Listeners};
use crate::resume::Ledger;
use crate::service::{Home, Inner};
use crate::sync::Mutex;
use crate::{
    BindError, ClientClaims, ClientInfo, CloseReason, Dialect, FrontendId, FrontendSession, Millis,
    Outbox, PushError, Room, SendError, Settings, Sid, TransportKind, Uid, UnbindError, Variant,
};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Whether a session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// It has a connection.
    Open,
    /// Its connection is gone, and it waits for the client to come back. It keeps its user, its settings and its place in
    /// channels, what its client has asked for goes on, and what is sent to it is kept up to a bound.
    Suspended,
    /// It is over.
    Closed,
}

/// One client connection, and what the server remembers of it.
///
/// Made by [`SessionService::create`](crate::SessionService::create) when a handshake is complete. A session is more than
/// its socket: the connection's driver only empties the [`outbox`](Self::outbox). If it was made by
/// [`create_resumable`](crate::SessionService::create_resumable), another one can take its place ([`suspend`](Self::suspend),
/// [`claim`](Self::claim)).
///
/// Handlers get a [`FrontendSession`] instead, whose settings are a copy.
///
/// # Memory
///
/// A record has 240 bytes on 64-bit Linux. An idle unbound session takes 270 bytes of heap, its share of the index included; a
/// bound one about 140 more for its uid and the other index (`tests/memory.rs` holds both to a bound). Settings, listeners
/// and queued bytes take memory only while there are any.
pub struct Session {
    id: Sid,
    home: Arc<Home>,
    /// Five bytes of it, so that it fits into a word with the three that follow.
    connected_at: [u8; 5],
    variant: Variant,
    is_working: AtomicBool,
    /// [`CLOSED`] and [`MARKED`], for those who ask before each message.
    flags: AtomicU8,
    outbox: Outbox,
    received_messages: AtomicU64,
    received_bytes: AtomicU64,
    record: Mutex<Record>,
}

/// A flag of a session: it is closed, as `record.state` says.
const CLOSED: u8 = 1;
/// A flag of a session: more than a quarter of its outbox's bound waited after something was sent.
const MARKED: u8 = 2;

/// What changes in the life of a session.
pub(crate) struct Record {
    pub(crate) state: SessionState,
    /// Somebody tells events of this session: others queue theirs.
    telling: bool,
    transport: TransportKind,
    /// Without what `SocketAddr` has besides for IPv6 (flow and scope), which is twelve bytes of every session.
    address: Option<(IpAddr, u16)>,
    /// Their number in [`Home::claims`]; 0: none, or they are in `extra`.
    claims: u8,
    /// Keeps its value after a close.
    pub(crate) uid: Option<Uid>,
    settings: Settings,
    extra: Option<Box<Extra>>,
}

/// What most sessions never have.
#[derive(Default)]
struct Extra {
    listeners: Listeners,
    events: EventQueue,
    closed: Option<CloseReason>,
    /// What only this client said.
    claims: Option<Arc<ClientClaims>>,
}

/// A close that has begun. Whoever got it finishes it.
#[must_use = "the session is closed only in part"]
pub(crate) struct Ending {
    /// The user the session was bound to when it ended.
    pub(crate) bound_to: Option<Uid>,
    pub(crate) reason: CloseReason,
}

impl Record {
    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The client comes from elsewhere now.
    pub(crate) fn moved(&mut self, transport: TransportKind, address: Option<(IpAddr, u16)>) {
        self.transport = transport;
        self.address = address;
    }
}

impl Session {
    pub(crate) fn new(
        id: Sid,
        service: &Inner,
        info: ClientInfo,
        ledger: Option<Ledger>,
    ) -> Arc<Self> {
        let limit = service.config.outbox_bytes;
        let outbox = match ledger {
            Some(ledger) => Outbox::resumable(limit, ledger),
            None => Outbox::new(limit),
        };
        let record = Record {
            state: SessionState::Open,
            telling: false,
            transport: info.transport,
            address: info.address.map(without_scope),
            claims: 0,
            uid: None,
            settings: Settings::new(),
            extra: None,
        };
        Arc::new(Self {
            id,
            home: Arc::clone(&service.home),
            connected_at: short(info.connected_at),
            variant: info.variant,
            is_working: AtomicBool::new(false),
            flags: AtomicU8::new(0),
            outbox,
            received_messages: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            record: Mutex::new(record),
        })
    }

    /// Its number.
    pub const fn id(&self) -> Sid {
        self.id
    }

    /// The frontend it is on.
    pub fn frontend_id(&self) -> &FrontendId {
        &self.home.frontend_id
    }

    /// The user it is bound to. Keeps its value after a close.
    pub fn uid(&self) -> Option<Uid> {
        self.record.lock().uid.clone()
    }

    /// Whether it lives.
    pub fn state(&self) -> SessionState {
        self.record.lock().state
    }

    /// Whether it is closed. Costs one load: nothing may run for a session that is closed, so this is asked before each message.
    pub fn is_closed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Why it was closed, once it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.record.lock().extra.as_ref()?.closed.clone()
    }

    /// How messages to it are encoded.
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// The dialect that its client speaks.
    pub const fn dialect(&self) -> Dialect {
        self.variant.dialect()
    }

    /// What it is connected by.
    pub fn transport(&self) -> TransportKind {
        self.record.lock().transport
    }

    /// Where the client comes from, if it comes from the network. Keeps its value after a close.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.record.lock().address.map(SocketAddr::from)
    }

    /// What the client said of itself in its handshake, as far as it is kept. Keeps its value after a close.
    pub fn claims(&self) -> Option<Arc<ClientClaims>> {
        let record = self.record.lock();
        if let Some(extra) = &record.extra
            && let Some(claims) = &extra.claims
        {
            return Some(Arc::clone(claims));
        }
        let number = record.claims;
        drop(record);
        self.home.claims.get(number)
    }

    /// Keeps what the client said of itself. Sessions that say the same share it, unless there is user data in it.
    pub fn set_claims(&self, claims: Option<ClientClaims>) {
        let number = claims
            .as_ref()
            .and_then(|claims| self.home.claims.number_of(claims));
        let own = claims.filter(|_| number.is_none()).map(Arc::new);
        let mut record = self.record.lock();
        record.claims = number.unwrap_or_default();
        let old = if own.is_some() {
            std::mem::replace(&mut record.extra().claims, own)
        } else {
            record.extra.as_mut().and_then(|extra| extra.claims.take())
        };
        drop(record);
        drop(old);
    }

    /// When it was created: at most 2^40 milliseconds (34 years) after the zero point of the clock.
    pub fn connected_at(&self) -> Millis {
        let mut bytes = [0; 8];
        bytes[..self.connected_at.len()].copy_from_slice(&self.connected_at);
        Millis(u64::from_le_bytes(bytes))
    }

    /// The queue to the client.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Counts what came from the client. Called by the connection's driver only, which is one task at a time.
    pub fn count_received(&self, messages: u64, bytes: u64) {
        // One writer, so no atomic addition is needed.
        let add = |counter: &AtomicU64, n| {
            counter.store(
                counter.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        };
        add(&self.received_messages, messages);
        add(&self.received_bytes, bytes);
    }

    /// Notes whether one of its messages is being served and is not done yet. Called by the connection's driver only.
    pub fn set_working(&self, working: bool) {
        self.is_working.store(working, Ordering::Relaxed);
    }

    /// Whether one of its messages is being served: who closes it now takes the answer from the client.
    pub fn is_working(&self) -> bool {
        self.is_working.load(Ordering::Relaxed)
    }

    /// Messages that came from the client.
    pub fn received_messages(&self) -> u64 {
        self.received_messages.load(Ordering::Relaxed)
    }

    /// Bytes that came from the client.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

/// # Sending
impl Session {
    /// Queues an encoded package.
    ///
    /// # Errors
    ///
    /// See [`SendError`]. With `SlowClient` the session has been closed.
    pub fn send(self: &Arc<Self>, package: Bytes) -> Result<(), SendError> {
        self.offer(package).map(drop)
    }

    /// As [`send`](Self::send), and says whether there is room for more.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn offer(self: &Arc<Self>, package: Bytes) -> Result<Room, SendError> {
        self.judge(self.outbox.offer(package))
    }

    /// Queues several encoded packages; nothing of others gets between them.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_batch(
        self: &Arc<Self>,
        packages: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), SendError> {
        self.judge(self.outbox.offer_batch(packages)).map(drop)
    }

    /// Encodes one package straight into the queue, see [`Outbox::push_with`].
    ///
    /// # Errors
    ///
    /// As [`Outbox::push_with`]. With `SlowClient` the session has been closed.
    pub fn send_with<E>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), PushError<E>> {
        match self.outbox.offer_with(encode) {
            Err(PushError::Send(error)) => Ok(self.judge(Err(error)).map(drop)?),
            Err(error) => Err(error),
            Ok(room) => {
                self.note(room);
                Ok(())
            }
        }
    }

    /// Queues an encoded package without waking the connection, see [`Outbox::push_buffered`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_buffered(self: &Arc<Self>, package: Bytes) -> Result<(), SendError> {
        self.judge(self.outbox.offer_buffered(package)).map(drop)
    }

    /// Whether much may wait in the outbox: false means that [`Outbox::is_above_mark`] was false after everything that was sent since this was
    /// asked last. Costs one load, and says true once after each time that much did wait.
    pub fn take_marked(&self) -> bool {
        let marked = self.flags.load(Ordering::Acquire) & MARKED != 0;
        if marked {
            self.flags.fetch_and(!MARKED, Ordering::AcqRel);
        }
        marked
    }

    /// Remembers that much waits, for [`take_marked`](Self::take_marked).
    #[inline]
    pub(crate) fn note(&self, room: Room) {
        if matches!(room, Room::Pressed | Room::Stalled) {
            self.flags.fetch_or(MARKED, Ordering::AcqRel);
        }
    }

    pub(crate) fn judge(
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

/// # Settings
impl Session {
    /// All settings, as they are now. Shares the memory.
    pub fn settings(&self) -> Settings {
        self.record.lock().settings.clone()
    }

    /// The value of one setting.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.record.lock().settings.get(key).cloned()
    }

    /// Sets one.
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many settings.
    pub fn set(&self, key: &str, value: impl Into<Value>) -> Result<(), SettingError> {
        self.set_all([(key.to_owned(), value.into())])
    }

    /// Sets every member of `values` and keeps the others. All or none.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn set_all(
        &self,
        values: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<(), SettingError> {
        self.change_settings(values, &[])
    }

    /// Takes the settings `removed` away, sets every member of `values`, and keeps the others. All or none; only what comes of it
    /// is held to the bound.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn change_settings(
        &self,
        values: impl IntoIterator<Item = (String, Value)>,
        removed: &[String],
    ) -> Result<(), SettingError> {
        let values: Map<String, Value> = values.into_iter().collect();
        self.write_settings(
            values,
            |settings, values| settings.len_after(values, removed),
            |settings, values| {
                for key in removed {
                    settings.remove(key);
                }
                settings.set_all(values);
            },
        )
    }

    /// Puts these settings into the place of all that there are. All or none.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn replace_settings(&self, values: impl Into<Settings>) -> Result<(), SettingError> {
        let values = values.into();
        let put = |settings: &mut Settings, values| *settings = values;
        self.write_settings(values, |_, values| values.len(), put)
    }

    /// Every write of settings that may fail: looked at first, then done, under one lock. Both closures are ours and do neither more nor less.
    fn write_settings<T>(
        &self,
        values: T,
        len_after: impl FnOnce(&Settings, &T) -> usize,
        write: impl FnOnce(&mut Settings, T),
    ) -> Result<(), SettingError> {
        let limit = self
            .home
            .service
            .upgrade()
            .map_or(usize::MAX, |s| s.config.max_settings);
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return Err(SettingError::NoSuchSession { sid: self.id });
        }
        if len_after(&record.settings, &values) > limit {
            return Err(SettingError::TooMany { limit });
        }
        write(&mut record.settings, values);
        Ok(())
    }

    /// Takes one away, and returns what it was. (Pomelo deleted a member of the session object instead.)
    pub fn remove(&self, key: &str) -> Option<Value> {
        self.record.lock().settings.remove(key)
    }
}

/// # Life
impl Session {
    /// Binds it to a user, see [`SessionService::bind`](crate::SessionService::bind).
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(self: &Arc<Self>, uid: Uid) -> Result<(), BindError> {
        let service = self
            .home
            .service
            .upgrade()
            .ok_or(BindError::SessionClosed { sid: self.id })?;
        service.bind(self, uid)
    }

    /// Unbinds it, see [`SessionService::unbind`](crate::SessionService::unbind).
    ///
    /// # Errors
    ///
    /// See [`UnbindError`].
    pub fn unbind(self: &Arc<Self>, uid: &Uid) -> Result<(), UnbindError> {
        let service = self
            .home
            .service
            .upgrade()
            .ok_or(UnbindError::SessionClosed { sid: self.id })?;
        service.unbind(self, uid)
    }

    /// Closes it. True if it was open: the second and later calls do nothing.
    ///
    /// In this order: nothing is accepted for the client any more; the session is taken out of both indexes; `closed` is
    /// told, with uid and settings still readable; the KICK package is queued, if the reason has a text; the connection's
    /// driver is woken to flush and to close. Called from a listener of the same session, the last three happen when that
    /// listener returns.
    pub fn close(self: &Arc<Self>, reason: CloseReason) -> bool {
        let Some(ending) = self.begin_close(reason) else {
            return false;
        };
        self.finish_close(self.home.service.upgrade().as_deref(), ending);
        true
    }

    /// A view with the present values, for one request.
    pub fn to_frontend_session(self: &Arc<Self>) -> FrontendSession {
        let record = self.record.lock();
        FrontendSession::new(
            Arc::clone(self),
            record.uid.clone(),
            record.settings.clone(),
        )
    }

    pub(crate) fn service(&self) -> Option<Arc<Inner>> {
        self.home.service.upgrade()
    }

    /// For [`binding`](crate::binding), which takes the lock in its place in the order.
    pub(crate) fn record(&self) -> crate::sync::MutexGuard<'_, Record> {
        self.record.lock()
    }

    /// First step of a close: nobody else can close or bind it from now on. `None` if somebody did before.
    pub(crate) fn begin_close(&self, reason: CloseReason) -> Option<Ending> {
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return None;
        }
        record.state = SessionState::Closed;
        record.extra().closed = Some(reason.clone());
        self.flags.fetch_or(CLOSED, Ordering::Release);
        Some(Ending {
            bound_to: record.uid.clone(),
            reason,
        })
    }

    /// The other steps of a close. No lock is held.
    pub(crate) fn finish_close(self: &Arc<Self>, service: Option<&Inner>, ending: Ending) {
        self.outbox.seal();
        if let Some(service) = service {
            service.forget(self, &ending);
        }
        // Not before: who hears of `closed` must not find the session any more.
        let event = self.record.lock().offer(Event::Closed(ending.reason));
        self.tell(service, event);
    }

    /// After all listeners of `closed`.
    fn end_outbox(&self, reason: &CloseReason) {
        if reason.flushes() {
            self.outbox.close_after(reason.kick_package());
        } else {
            self.outbox.abort();
        }
    }
}

/// A time in five bytes; a later one than they hold becomes the latest.
fn short(time: Millis) -> [u8; 5] {
    let bytes = time.0.min((1 << 40) - 1).to_le_bytes();
    std::array::from_fn(|place| bytes[place])
}

pub(crate) fn without_scope(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record.lock();
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("frontend_id", &self.home.frontend_id)
            .field("uid", &record.uid)
            .field("state", &record.state)
            .finish_non_exhaustive()
    }
}
