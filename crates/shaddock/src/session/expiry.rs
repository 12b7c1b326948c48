//! Sessions that end at a time: when the token that their users logged in with expires.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use shaddock_cluster::{RawSid, RemoteError, SessionAnswer};
use shaddock_core::{CloseReason, Session, SessionService, SettingError, Sid};
use tokio::{sync::Notify, time::Instant};

use super::SessionError;
use crate::app::Tasks;

/// The operation that tells a frontend when a session of it expires.
pub(super) const EXPIRE: &str = "shaddock.expire";

/// When sessions of this frontend expire. At most one entry for each open session.
pub(crate) struct Expiries(Arc<Shared>);

struct Shared {
    sessions: Option<SessionService>,
    tasks: Tasks,
    entries: Mutex<Entries>,
    changed: Notify,
    is_watched: AtomicBool,
}

#[derive(Default)]
struct Entries {
    by_sid: HashMap<Sid, Instant>,
    by_time: BTreeSet<(Instant, Sid)>,
}

impl Entries {
    fn remove(&mut self, sid: Sid) {
        if let Some(at) = self.by_sid.remove(&sid) {
            self.by_time.remove(&(at, sid));
        }
    }
}

impl Expiries {
    /// Expiries of the sessions of `sessions`; they are watched while `tasks` run.
    pub(crate) fn new(sessions: Option<SessionService>, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            sessions,
            tasks,
            entries: Mutex::default(),
            changed: Notify::new(),
            is_watched: AtomicBool::new(false),
        }))
    }

    /// Does what another server requests.
    pub(super) fn serve(&self, expire: &Expire) -> Result<SessionAnswer, RemoteError> {
        let sid = Sid::new(expire.sid.get()).ok_or_else(RemoteError::session_not_found)?;
        let session = self.session(sid);
        let session =
            session.ok_or_else(|| SessionError::from(SettingError::NoSuchSession { sid }))?;
        self.set(&session, expire.millis.map(Duration::from_millis))?;
        Ok(SessionAnswer::Done)
    }

    fn session(&self, sid: Sid) -> Option<Arc<Session>> {
        self.0.sessions.as_ref()?.get(sid)
    }

    /// Ends a session after this time from now; `None` is never.
    pub(crate) fn set(
        &self,
        session: &Arc<Session>,
        after: Option<Duration>,
    ) -> Result<(), SessionError> {
        let sid = session.id();
        if session.is_closed() {
            return Err(SettingError::NoSuchSession { sid }.into());
        }
        // A time that is too far away to be told is never.
        let at = after.and_then(|after| Instant::now().checked_add(after));
        self.note(session, at);
        if at.is_some() && !self.0.is_watched.swap(true, Ordering::AcqRel) {
            let (all, stopped) = (Self(Arc::clone(&self.0)), self.0.tasks.stopped());
            self.0.tasks.runtime().spawn(async move {
                tokio::select! {
                    () = stopped => {}
                    () = all.close_expired() => {}
                }
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock()
    }

    fn note(&self, session: &Session, at: Option<Instant>) {
        let sid = session.id();
        let mut entries = self.lock();
        entries.remove(sid);
        if let Some(at) = at {
            entries.by_sid.insert(sid, at);
            entries.by_time.insert((at, sid));
        }
        drop(entries);
        // A close forgets it after the session is seen to be closed: one of the two looks sees it.
        if session.is_closed() {
            self.forget(sid);
        }
        self.0.changed.notify_one();
    }

    /// Puts the end of a session off until this time. One without an end, and one that ends later, stays as it is.
    pub(crate) fn put_off(&self, session: &Session, when: SystemTime) {
        let (sid, at) = (session.id(), Instant::now().checked_add(until(when)));
        let mut entries = self.lock();
        let is_later = |known: &Instant| at.is_none_or(|at| at > *known);
        if !entries.by_sid.get(&sid).is_some_and(is_later) {
            return;
        }
        entries.remove(sid);
        if let Some(at) = at {
            entries.by_sid.insert(sid, at);
            entries.by_time.insert((at, sid));
        }
        // Who waits for the end that was known finds the later one.
    }

    /// The session is closed.
    pub(crate) fn forget(&self, sid: Sid) {
        self.lock().remove(sid);
    }

    /// Takes those that are due; otherwise says when the next one is.
    fn due(&self, now: Instant) -> Result<Vec<Sid>, Option<Instant>> {
        let mut entries = self.lock();
        let mut due = Vec::new();
        while let Some((at, sid)) = entries.by_time.first().copied() {
            if at > now {
                return if due.is_empty() {
                    Err(Some(at))
                } else {
                    Ok(due)
                };
            }
            entries.remove(sid);
            due.push(sid);
        }
        if due.is_empty() { Err(None) } else { Ok(due) }
    }

    async fn close_expired(&self) {
        loop {
            let next = match self.due(Instant::now()) {
                Ok(due) => {
                    for session in due.into_iter().filter_map(|sid| self.session(sid)) {
                        session.close(CloseReason::Expired);
                    }
                    continue;
                }
                Err(next) => next,
            };
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.0.changed.notified() => {}
            }
        }
    }
}

/// Which session, and in how many milliseconds; none: never.
#[derive(Serialize, Deserialize)]
pub(super) struct Expire {
    pub(super) sid: RawSid,
    pub(super) millis: Option<u64>,
}

/// From now; nothing if it is past.
pub(super) fn until(when: SystemTime) -> Duration {
    when.duration_since(SystemTime::now()).unwrap_or_default()
}
