//! The record of one client.

mod events;
mod sending;
mod settings;

use crate::claims::KnownClaims;
use crate::event::{Event, EventQueue, Listeners};
use crate::resume::{Ledger, ResumePool};
use crate::sync::Mutex;
use crate::{
    BindError, ClientClaims, ClientInfo, CloseReason, FrontendId, Millis, Outbox, SessionConfig,
    Settings, Sid, TransportKind, Uid, UnbindError, Variant,
};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// The session has a connection.
    Open,
    /// The connection is lost, and the session waits for its client. It keeps its user, its settings and its channel memberships, its
    /// requests continue, and messages to it are kept up to a limit.
    Suspended,
    /// The session has ended.
    Closed,
}

/// A client connection and its state on the server.
///
/// Created by [`SessionService::create`](crate::SessionService::create) when a handshake is complete. A session is more than its socket:
/// the connection's driver only empties the [`outbox`](Self::outbox). If it was created by
/// [`create_resumable`](crate::SessionService::create_resumable), another connection can replace it ([`suspend`](Self::suspend),
/// [`claim`](Self::claim)).
///
/// Handlers receive a view instead (`SessionView` in the crate `shaddock`), with a copy of the settings.
///
/// # Memory
///
/// A record has 240 bytes on 64-bit Linux. An idle unbound session takes 270 bytes of heap, including its share of the index; a bound one
/// about 100 more for its uid and the other index (`tests/memory.rs` checks limits for both). Settings, listeners and queued bytes take
/// memory only while there are any.
pub struct Session {
    id: Sid,
    context: Arc<SessionContext>,
    /// Five bytes, so that it fits into a word with the three following ones.
    connected_at: [u8; 5],
    variant: Variant,
    is_working: AtomicBool,
    /// [`CLOSED`] and [`MARKED`], for checks before each message.
    flags: AtomicU8,
    outbox: Outbox,
    received_messages: AtomicU64,
    received_bytes: AtomicU64,
    record: Mutex<Record>,
}

/// The data that all sessions of a service share; one pointer in each of them.
pub(crate) struct SessionContext {
    pub(crate) frontend_id: FrontendId,
    pub(crate) config: SessionConfig,
    pub(crate) resume: Arc<ResumePool>,
    pub(crate) claims: KnownClaims,
    pub(crate) registry: Weak<dyn Registry>,
}

/// The methods of its service that a session calls. It does not keep the service alive.
pub(crate) trait Registry: Send + Sync {
    /// The session with this sid, if it is not closed.
    fn get(&self, sid: Sid) -> Option<Arc<Session>>;

    /// See [`SessionService::bind`](crate::SessionService::bind).
    fn bind(&self, session: &Arc<Session>, uid: Uid) -> Result<(), BindError>;

    /// See [`SessionService::unbind`](crate::SessionService::unbind).
    fn unbind(&self, session: &Arc<Session>, uid: &Uid) -> Result<(), UnbindError>;

    /// Removes a session whose close has begun from all indexes, and from the audiences of its user.
    fn forget(&self, session: &Session, pending: &PendingClose);

    /// Notifies the receiver of the events of all sessions.
    fn notify(&self, session: &Arc<Session>, event: &Event);

    /// Counts the panic of a listener, and notifies the receiver of it.
    fn report_panic(&self, session: &Arc<Session>, event: &str, message: &str);
}

/// A flag of a session: it is closed, as in `record.state`.
const CLOSED: u8 = 1;
/// A flag of a session: more than a quarter of its outbox's limit was queued after a send.
const MARKED: u8 = 2;

/// The mutable state of a session.
pub(crate) struct Record {
    pub(crate) state: SessionState,
    /// A thread is dispatching events of this session: other threads enqueue theirs.
    dispatching: bool,
    transport: TransportKind,
    /// Without the IPv6 flow and scope of `SocketAddr`, which are twelve bytes of every session.
    address: Option<(IpAddr, u16)>,
    /// The number in [`SessionContext::claims`]; 0: none, or they are in `extra`.
    claims: u8,
    /// Keeps its value after a close.
    pub(crate) uid: Option<Uid>,
    settings: Settings,
    extra: Option<Box<Extra>>,
}

/// A listener for the close of one session.
type ClosedListener = dyn FnOnce(&Arc<Session>, &CloseReason) + Send;

/// State that most sessions never have.
#[derive(Default)]
struct Extra {
    on_closed: Listeners<ClosedListener>,
    events: EventQueue,
    closed: Option<CloseReason>,
    /// Claims that only this client has.
    claims: Option<Arc<ClientClaims>>,
}

/// A started close. Its holder must finish it.
#[must_use = "the session is closed only in part"]
pub(crate) struct PendingClose {
    /// The user of the session when it ended.
    pub(crate) bound_to: Option<Uid>,
    pub(crate) reason: CloseReason,
}

impl Record {
    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The client has a different transport and address now.
    pub(crate) fn moved(&mut self, transport: TransportKind, address: Option<(IpAddr, u16)>) {
        self.transport = transport;
        self.address = address;
    }
}

impl Session {
    pub(crate) fn new(
        id: Sid,
        context: &Arc<SessionContext>,
        info: ClientInfo,
        ledger: Option<Ledger>,
    ) -> Arc<Self> {
        let limit = context.config.outbox_bytes;
        let outbox = match ledger {
            Some(ledger) => Outbox::resumable(limit, ledger),
            None => Outbox::new(limit),
        };
        let record = Record {
            state: SessionState::Open,
            dispatching: false,
            transport: info.transport,
            address: info.address.map(without_scope),
            claims: 0,
            uid: None,
            settings: Settings::default(),
            extra: None,
        };
        Arc::new(Self {
            id,
            context: Arc::clone(context),
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

    /// The session id.
    pub const fn id(&self) -> Sid {
        self.id
    }

    /// The frontend of the session.
    pub fn frontend_id(&self) -> &FrontendId {
        &self.context.frontend_id
    }

    /// The user of the session. Keeps its value after a close.
    pub fn uid(&self) -> Option<Uid> {
        self.record.lock().uid.clone()
    }

    /// The state of the session.
    pub fn state(&self) -> SessionState {
        self.record.lock().state
    }

    /// True after the close. Costs one load, because it is checked before each message: no work may run for a closed session.
    pub fn is_closed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CLOSED != 0
    }

    /// The close reason of a closed session.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.record.lock().extra.as_ref()?.closed.clone()
    }

    /// The encoding of messages to the client.
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// The client and its connection. Keeps its value after a close; a client that resumes can come back with another address and transport.
    pub fn client(&self) -> ClientInfo {
        let record = self.record.lock();
        ClientInfo {
            variant: self.variant,
            transport: record.transport,
            address: record.address.map(SocketAddr::from),
            connected_at: long(self.connected_at),
        }
    }

    /// The handshake data of the client that are kept. Keeps its value after a close.
    pub fn claims(&self) -> Option<Arc<ClientClaims>> {
        let record = self.record.lock();
        if let Some(extra) = &record.extra
            && let Some(claims) = &extra.claims
        {
            return Some(Arc::clone(claims));
        }
        let number = record.claims;
        drop(record);
        self.context.claims.get(number)
    }

    /// Stores the handshake data of the client. Sessions with equal data share them, unless they contain user data.
    pub fn set_claims(&self, claims: Option<ClientClaims>) {
        let number = claims
            .as_ref()
            .and_then(|claims| self.context.claims.number_of(claims));
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

    /// The outbound queue to the client.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Counts data from the client. Called by the connection's driver only, which is one task at a time.
    pub fn count_received(&self, messages: u64, bytes: u64) {
        // There is one writer, so no atomic addition is needed.
        let add = |counter: &AtomicU64, n| {
            counter.store(
                counter.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        };
        add(&self.received_messages, messages);
        add(&self.received_bytes, bytes);
    }

    /// Records whether a message of the session is being served. Called by the connection's driver only.
    pub fn set_working(&self, working: bool) {
        self.is_working.store(working, Ordering::Relaxed);
    }

    /// Whether a message of the session is being served: closing it now would discard the client's response.
    pub fn is_working(&self) -> bool {
        self.is_working.load(Ordering::Relaxed)
    }

    /// The number of messages from the client.
    pub fn received_messages(&self) -> u64 {
        self.received_messages.load(Ordering::Relaxed)
    }

    /// The number of bytes from the client.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

/// # Lifecycle
impl Session {
    /// Binds the session to a user, see [`SessionService::bind`](crate::SessionService::bind).
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(self: &Arc<Self>, uid: Uid) -> Result<(), BindError> {
        let registry = self.registry();
        let registry = registry.ok_or(BindError::SessionClosed { sid: self.id })?;
        registry.bind(self, uid)
    }

    /// Unbinds the session, see [`SessionService::unbind`](crate::SessionService::unbind).
    ///
    /// # Errors
    ///
    /// See [`UnbindError`].
    pub fn unbind(self: &Arc<Self>, uid: &Uid) -> Result<(), UnbindError> {
        let registry = self.registry();
        let registry = registry.ok_or(UnbindError::SessionClosed { sid: self.id })?;
        registry.unbind(self, uid)
    }

    /// Closes the session. Returns true if it was open: later calls have no effect.
    ///
    /// In this order: the outbox is sealed; the session is removed from both indexes; `closed` is dispatched, with uid and settings still
    /// readable; the KICK package is enqueued, if the reason has a text; the connection's driver is woken to flush and to close. If called
    /// from a listener of the same session, the last three happen when that listener returns.
    pub fn close(self: &Arc<Self>, reason: CloseReason) -> bool {
        let Some(pending) = self.begin_close(reason) else {
            return false;
        };
        self.finish_close(self.registry().as_deref(), pending);
        true
    }

    /// The service, while there is one.
    pub(crate) fn registry(&self) -> Option<Arc<dyn Registry>> {
        self.context.registry.upgrade()
    }

    /// The shared state of all resumable sessions of the service.
    pub(crate) fn resume_pool(&self) -> &ResumePool {
        &self.context.resume
    }

    /// For [`binding`](crate::binding), which respects the lock order.
    pub(crate) fn record(&self) -> crate::sync::MutexGuard<'_, Record> {
        self.record.lock()
    }

    /// First step of a close: no other call can close or bind it from now on. `None` if it was already closed.
    pub(crate) fn begin_close(&self, reason: CloseReason) -> Option<PendingClose> {
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return None;
        }
        record.state = SessionState::Closed;
        record.extra().closed = Some(reason.clone());
        self.flags.fetch_or(CLOSED, Ordering::Release);
        Some(PendingClose {
            bound_to: record.uid.clone(),
            reason,
        })
    }

    /// The other steps of a close. No lock is held.
    pub(crate) fn finish_close<R: Registry + ?Sized>(
        self: &Arc<Self>,
        registry: Option<&R>,
        pending: PendingClose,
    ) {
        self.outbox.seal();
        if let Some(registry) = registry {
            registry.forget(self, &pending);
        }
        // Not before: listeners of `closed` must not find the session any more.
        let event = self.record.lock().offer(Event::Closed(pending.reason));
        self.dispatch(registry, event);
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

/// A time in five bytes; a later one than fits becomes the latest.
fn short(time: Millis) -> [u8; 5] {
    let bytes = time.0.min((1 << 40) - 1).to_le_bytes();
    std::array::from_fn(|place| bytes[place])
}

fn long(short: [u8; 5]) -> Millis {
    let mut bytes = [0; 8];
    bytes[..short.len()].copy_from_slice(&short);
    Millis(u64::from_le_bytes(bytes))
}

pub(crate) fn without_scope(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record.lock();
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("frontend_id", &self.context.frontend_id)
            .field("uid", &record.uid)
            .field("state", &record.state)
            .finish_non_exhaustive()
    }
}
