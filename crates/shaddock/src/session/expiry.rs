//! Sessions that end at a time: when the token that their users logged in with expires.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use shaddock_cluster::{RawSid, RemoteError, SessionAnswer};
use shaddock_core::{CloseReason, Session, SessionService, SettingError, Sid};
use tokio::{sync::Notify, time::Instant};

use super::{SessionError, SessionView, view::raw};
use crate::app::AppHandle;

/// The operation that tells a frontend when a session of it expires.
pub(super) const EXPIRE: &str = "shaddock.expire";

/// When sessions of this frontend expire. At most one entry for each open session.
#[derive(Default)]
pub(crate) struct Expiries {
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
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, session: &Session, at: Option<Instant>) {
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
        self.changed.notify_one();
    }

    /// Puts the end of a session off; `None` is for ever. One without an end, and one that ends later, stays as it is.
    fn put_off(&self, sid: Sid, at: Option<Instant>) {
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
}

/// Which session, and in how many milliseconds; none: never.
#[derive(Serialize, Deserialize)]
pub(super) struct Expire {
    sid: RawSid,
    millis: Option<u64>,
}

/// From now; nothing if it is past.
fn until(when: SystemTime) -> Duration {
    when.duration_since(SystemTime::now()).unwrap_or_default()
}

impl SessionView {
    /// The session ends at this time, with the reason [`CloseReason::Expired`], unless it is told another time before: `None` is never. A handler
    /// that gets a fresh token from the client sets the time of that one.
    ///
    /// # Errors
    /// [`SessionError`]: the session is closed, or its frontend cannot be asked or is a Pitaya server.
    pub async fn set_expires_at(&self, when: Option<SystemTime>) -> Result<(), SessionError> {
        if let Some(session) = self.session() {
            return self.app().expire_at(session, when.map(until));
        }
        let millis = when.map(|when| u64::try_from(until(when).as_millis()).unwrap_or(u64::MAX));
        let expire = Expire {
            sid: raw(self.id()),
            millis,
        };
        self.ask_custom(EXPIRE, &expire).await.map(drop)
    }
}

impl AppHandle {
    pub(super) fn serve_expire(
        &self,
        service: &SessionService,
        expire: &Expire,
    ) -> Result<SessionAnswer, RemoteError> {
        let sid = Sid::new(expire.sid.get()).ok_or_else(RemoteError::session_not_found)?;
        let session = service.get(sid);
        let session =
            session.ok_or_else(|| SessionError::from(SettingError::NoSuchSession { sid }))?;
        self.expire_at(&session, expire.millis.map(Duration::from_millis))?;
        Ok(SessionAnswer::Done)
    }

    /// From now on; `None` is never.
    pub(crate) fn expire_at(
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
        let expiries = self.expiries();
        expiries.set(session, at);
        if at.is_some() && !expiries.is_watched.swap(true, Ordering::AcqRel) {
            let (app, stopped) = (self.clone(), self.stopping());
            self.runtime().spawn(async move {
                tokio::select! {
                    () = stopped => {}
                    () = app.close_expired() => {}
                }
            });
        }
        Ok(())
    }

    /// A client has come back with a token that ends at this time.
    pub(crate) fn expire_later(&self, session: &Session, when: SystemTime) {
        let at = Instant::now().checked_add(until(when));
        self.expiries().put_off(session.id(), at);
    }

    async fn close_expired(&self) {
        let expiries = self.expiries();
        loop {
            let next = match expiries.due(Instant::now()) {
                Ok(due) => {
                    for session in due
                        .into_iter()
                        .filter_map(|sid| self.session_service()?.get(sid))
                    {
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
                () = expiries.changed.notified() => {}
            }
        }
    }
}
