//! The sessions of one frontend.

use crate::audience::Audiences;
use crate::claims::KnownClaims;
use crate::event::guarded;
use crate::index::{SidIndex, UidIndex};
use crate::resume::{Ledger, ResumePool};
use crate::session::{Registry, SessionContext};
use crate::{
    BindError, ClientInfo, CloseReason, FrontendId, Session, SessionConfig, SessionEvents, Sid,
    SidAllocator, Uid, UnbindError,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// All sessions of one frontend server, by sid and by user. A clone is a handle to the same service.
///
/// Pomelo's `SessionService`, with its checks in its order and its error texts. Calls are synchronous; there are no callbacks.
#[derive(Clone)]
pub struct SessionService {
    pub(crate) inner: Arc<Inner>,
}

/// The state shared by all handles.
pub(crate) struct Inner {
    pub(crate) context: Arc<SessionContext>,
    pub(crate) config: SessionConfig,
    pub(crate) by_sid: SidIndex,
    pub(crate) by_uid: UidIndex,
    pub(crate) audiences: Audiences,
    sids: SidAllocator,
    events: OnceLock<Arc<dyn SessionEvents>>,
    created: AtomicU64,
    closed: [AtomicU64; CloseReason::NAMES.len()],
    listener_panics: AtomicU64,
}

/// Counts of a [`SessionService`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStatistics {
    /// Sessions that are not closed, bound or not.
    pub sessions: usize,
    /// Users with at least one session.
    pub users: usize,
    /// Sessions created since the start.
    pub created: u64,
    /// Sessions closed since the start, by [reason](CloseReason::NAMES). Contains all reasons, also with 0.
    pub closed: Vec<(&'static str, u64)>,
    /// Listeners that panicked since the start.
    pub listener_panics: u64,
}

impl SessionService {
    /// Creates a service without sessions.
    pub fn new(frontend_id: FrontendId, sids: SidAllocator, config: SessionConfig) -> Self {
        let inner = Arc::new_cyclic(|service: &Weak<Inner>| Inner {
            context: Arc::new(SessionContext {
                frontend_id,
                config: config.clone(),
                resume: Arc::new(ResumePool::new(config.resume.clone())),
                claims: KnownClaims::default(),
                registry: service.clone(),
            }),
            config,
            by_sid: SidIndex::default(),
            by_uid: UidIndex::default(),
            audiences: Audiences::default(),
            sids,
            events: OnceLock::new(),
            created: AtomicU64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            listener_panics: AtomicU64::new(0),
        });
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn resume_pool(&self) -> &Arc<ResumePool> {
        &self.inner.context.resume
    }

    /// Sets the receiver of the events of all sessions. Call it once, before the first session; returns false if a receiver is already set.
    ///
    /// The service keeps `events` alive: if `events` holds the service, neither is ever freed.
    pub fn set_events(&self, events: Arc<dyn SessionEvents>) -> bool {
        self.inner.events.set(events).is_ok()
    }

    /// Sets the node of later sids ([`Sid::node`]). Call it before the first session, with the node from the cluster.
    pub fn set_node(&self, node: u16) {
        self.inner.sids.set_node(node);
    }

    /// The frontend.
    pub(crate) fn frontend_id(&self) -> &FrontendId {
        &self.inner.context.frontend_id
    }

    /// The effective policies and limits.
    pub fn config(&self) -> &SessionConfig {
        &self.inner.config
    }

    /// Creates an unbound session for a client with a complete handshake, and registers it.
    pub fn create(&self, info: ClientInfo) -> Arc<Session> {
        self.register(info, None)
    }

    pub(crate) fn register(&self, info: ClientInfo, ledger: Option<Ledger>) -> Arc<Session> {
        let session = Session::new(
            self.inner.sids.allocate(),
            &self.inner.context,
            info,
            ledger,
        );
        self.inner.created.fetch_add(1, Ordering::Relaxed);
        self.inner.by_sid.insert(&session);
        session
    }

    /// The session with this sid.
    pub fn get(&self, sid: Sid) -> Option<Arc<Session>> {
        self.inner.by_sid.get(sid)
    }

    /// The sessions of a user, in the order of binding, as a new list.
    pub fn get_by_uid(&self, uid: &str) -> Vec<Arc<Session>> {
        self.inner.by_uid.lock(uid).sessions(uid).to_vec()
    }

    /// Binds a session to a user.
    ///
    /// If the session is already bound to the same user: `Ok`, and no event. If a user may have
    /// [one session](crate::SessionsPerUser::One) only, another session of the same user makes it fail or is closed, according to the policy. If two sessions bind
    /// concurrently, one of them stays.
    ///
    /// # Errors
    ///
    /// See [`BindError`]. Nothing changed.
    pub fn bind(&self, sid: Sid, uid: Uid) -> Result<(), BindError> {
        let session = self.get(sid).ok_or(BindError::NoSuchSession { sid })?;
        self.inner.bind(&session, uid)
    }

    /// Unbinds a session from this user. The connection stays open.
    ///
    /// # Errors
    ///
    /// See [`UnbindError`]. Nothing changed.
    pub fn unbind(&self, sid: Sid, uid: &Uid) -> Result<(), UnbindError> {
        let session = self.get(sid).ok_or(UnbindError::NoSuchSession { sid })?;
        self.inner.unbind(&session, uid)
    }

    /// Closes every session of a user on this frontend, and returns their number. Each client receives a KICK package with the reason, by
    /// default `kick`.
    pub fn kick(&self, uid: &str, reason: Option<&str>) -> usize {
        self.close_by_uid(uid, &CloseReason::kicked(reason.unwrap_or(DEFAULT_KICK)))
    }

    /// Closes one session, bound or not, like [`kick`](Self::kick). Returns false if there is no such session.
    pub fn kick_by_session_id(&self, sid: Sid, reason: Option<&str>) -> bool {
        let reason = CloseReason::kicked(reason.unwrap_or(DEFAULT_KICK));
        self.get(sid).is_some_and(|session| session.close(reason))
    }

    /// Closes every session of a user, and returns how many were closed by this call.
    pub fn close_by_uid(&self, uid: &str, reason: &CloseReason) -> usize {
        let sessions = self.get_by_uid(uid);
        sessions
            .iter()
            .filter(|session| session.close((*reason).clone()))
            .count()
    }

    /// Closes every existing session, ascending, and returns how many were closed by this call.
    pub fn close_all(&self, reason: &CloseReason) -> usize {
        let sessions = self.inner.by_sid.sorted();
        sessions
            .iter()
            .filter(|session| session.close((*reason).clone()))
            .count()
    }

    /// Calls `f` for all sessions, ascending by sid. No lock is held: `f` may close them.
    pub fn for_each_session(&self, f: impl FnMut(&Arc<Session>)) {
        self.inner.by_sid.sorted().iter().for_each(f);
    }

    /// Calls `f` for all sessions in memory order, which is the fastest; [`for_each_session`](Self::for_each_session) has a meaningful
    /// order. No lock is held. Sessions that are created or closed meanwhile are visited once or not at all.
    pub fn visit_sessions(&self, f: impl FnMut(&Arc<Session>)) {
        self.inner.by_sid.visit(f);
    }

    /// Calls `f` for all bound sessions, in memory order like [`visit_sessions`](Self::visit_sessions). No lock is held.
    pub fn for_each_bound_session(&self, f: impl FnMut(&Arc<Session>)) {
        self.inner.by_uid.visit(f);
    }

    /// Calls `f` for the sessions of one user in the order of binding, and returns their number. No lock is held.
    pub fn for_each_session_of(&self, uid: &str, f: impl FnMut(&Arc<Session>)) -> usize {
        self.inner.by_uid.visit_user(uid, f)
    }

    /// The number of sessions, bound or not.
    pub fn session_count(&self) -> usize {
        self.inner.by_sid.len()
    }

    /// Counts, for metrics and operators.
    pub fn statistics(&self) -> SessionStatistics {
        let inner = &self.inner;
        let closed = CloseReason::NAMES.into_iter().zip(&inner.closed);
        SessionStatistics {
            sessions: inner.by_sid.len(),
            users: inner.by_uid.users(),
            created: inner.created.load(Ordering::Relaxed),
            closed: closed
                .map(|(name, n)| (name, n.load(Ordering::Relaxed)))
                .collect(),
            listener_panics: inner.listener_panics.load(Ordering::Relaxed),
        }
    }
}

/// The reason of a kick without a reason.
const DEFAULT_KICK: &str = "kick";

impl Inner {
    pub(crate) fn count_closed(&self, reason: &CloseReason) {
        self.closed[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls the receiver of events, if there is one. `Err` is the message of its panic.
    pub(crate) fn call_hook(&self, call: impl FnOnce(&dyn SessionEvents)) -> Result<(), String> {
        let Some(events) = self.events.get() else {
            return Ok(());
        };
        guarded(|| call(&**events))
    }

    pub(crate) fn count_panic(&self) {
        self.listener_panics.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for SessionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService")
            .field("frontend_id", self.frontend_id())
            .field("sessions", &self.session_count())
            .finish_non_exhaustive()
    }
}
