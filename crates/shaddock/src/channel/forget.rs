//! Members of channels leave by themselves when their last session on a frontend is gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use shaddock_cluster::{
    Context, ForwardedSession, ServerId, SessionAnswer, SessionEvent, SessionOp,
};
use shaddock_core::{FrontendId, MemberStamp, Uid};

use crate::app::AppHandle;

impl AppHandle {
    /// Something happened to a session somewhere.
    pub(crate) fn forget_members(&self, event: SessionEvent) {
        match event {
            SessionEvent::Unbound { session, uid } => self.forget_user(session.frontend, &uid),
            SessionEvent::Closed {
                session:
                    ForwardedSession {
                        frontend,
                        uid: Some(uid),
                        ..
                    },
                ..
            } => self.forget_user(frontend, &uid),
            SessionEvent::FrontendLost(frontend) => self.forget_frontend(&frontend),
            _ => {}
        }
    }

    /// Takes a user out of all channels, unless another of his sessions is on that frontend.
    fn forget_user(&self, frontend: Option<ServerId>, uid: &Arc<str>) {
        let Some(frontend) = frontend else { return };
        let (Ok(user), Ok(place)) = (
            Uid::new(Arc::clone(uid)),
            FrontendId::new(frontend.as_str()),
        ) else {
            return;
        };
        // A user who comes back between the question and its answer has another stamp, and stays.
        let Some(stamp) = self.channel_data().stamp(user.as_str(), place.as_str()) else {
            return;
        };
        let Ok(membership) = self.membership() else {
            return;
        };
        let _runtime = self.runtime().enter();
        let op = SessionOp::GetByUid {
            uid: Arc::clone(uid),
        };
        let mut asked = membership.session_op(
            &frontend,
            op,
            Context::with_timeout(self.config().rpc_timeout),
        );
        // In one process the answer is there at once, and the member is gone before the close is over.
        if let Poll::Ready(answer) = asked
            .as_mut()
            .poll(&mut TaskContext::from_waker(Waker::noop()))
        {
            self.forget_unless_there(&user, &place, stamp, answer.ok());
            return;
        }
        let app = self.clone();
        let spawned = self.tasks().spawn("forget member", async move {
            let answer = asked.await.ok();
            app.forget_unless_there(&user, &place, stamp, answer);
        });
        if let Err(error) = spawned {
            shaddock_net::quiet!(warn, "a member of channels could not be looked after", %error, uid = &**uid);
        }
    }

    /// A frontend that does not answer keeps its members: if it is gone, that is told as its own event.
    fn forget_unless_there(
        &self,
        uid: &Uid,
        frontend: &FrontendId,
        stamp: MemberStamp,
        answer: Option<SessionAnswer>,
    ) {
        if matches!(answer, Some(SessionAnswer::Sessions(sessions)) if sessions.is_empty()) {
            self.channel_data()
                .remove_member_since(uid.as_str(), frontend.as_str(), stamp);
        }
    }

    /// All members of a frontend that is gone. It may have been cut off only, and come back.
    pub(crate) fn forget_frontend(&self, frontend: &ServerId) {
        let mut forgotten = Vec::new();
        for name in self.channel_data().names() {
            let Some(channel) = self.channel_data().channel(&name) else {
                continue;
            };
            let plan = channel.members_by_frontend();
            for group in plan
                .groups()
                .iter()
                .filter(|group| group.frontend == *frontend.as_str())
            {
                for uid in &group.uids {
                    if channel.leave(uid.as_str(), frontend.as_str()) {
                        forgotten.push((uid.clone(), name.clone()));
                    }
                }
            }
        }
        self.forgotten().put(frontend, forgotten);
    }

    /// A frontend that was forgotten is back, with its sessions: members whose sessions are still there are members again.
    pub(crate) fn remember_frontend(&self, frontend: &ServerId) {
        let members = self.forgotten().take(frontend);
        let (false, Ok(place)) = (members.is_empty(), FrontendId::new(frontend.as_str())) else {
            return;
        };
        tracing::info!(%frontend, memberships = members.len(), "a frontend is back; its members return to their channels");
        let (app, frontend) = (self.clone(), frontend.clone());
        let spawned = self.tasks().spawn("remember members", async move {
            let mut members = members.into_iter().peekable();
            while members.peek().is_some() {
                let some: Vec<_> = members.by_ref().take(ASKED_AT_ONCE).collect();
                app.remember(&frontend, &place, some).await;
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "members of a frontend that is back stay out of their channels");
        }
    }

    /// First they are members, and then their frontend is asked whether they are there: whoever closes in between is found by one of the two.
    async fn remember(&self, frontend: &ServerId, place: &FrontendId, members: Memberships) {
        let Ok(membership) = self.membership() else {
            return;
        };
        let mut asked = Vec::new();
        for (uid, name) in members {
            let Some(channel) = self.channel_data().channel(&name) else {
                continue;
            };
            if !channel.add(&uid, place) {
                continue;
            }
            let op = SessionOp::GetByUid {
                uid: Arc::clone(uid.shared()),
            };
            let time = Context::with_timeout(self.config().rpc_timeout);
            let stamp = self.channel_data().stamp(uid.as_str(), place.as_str());
            asked.push((uid, stamp, membership.session_op(frontend, op, time)));
        }
        for (uid, stamp, answer) in asked {
            let answer = answer.await.ok();
            if let Some(stamp) = stamp {
                self.forget_unless_there(&uid, place, stamp, answer);
            }
        }
    }
}

/// Questions to a frontend at the same time.
const ASKED_AT_ONCE: usize = 64;

/// Memberships that are remembered. Of a frontend with more than that some members stay out of their channels when it comes back.
const FORGOTTEN: usize = 262_144;

/// For how long.
const FORGOTTEN_FOR: Duration = Duration::from_secs(3600);

/// Members that left channels because their frontend was taken for gone.
#[derive(Debug, Default)]
pub(crate) struct Forgotten(Mutex<HashMap<ServerId, (Instant, Memberships)>>);

/// Users and the names of their channels.
type Memberships = Vec<(Uid, Arc<str>)>;

impl Forgotten {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, (Instant, Memberships)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, frontend: &ServerId, mut members: Memberships) {
        if members.is_empty() {
            return;
        }
        let mut all = self.lock();
        all.retain(|_, (since, _)| since.elapsed() < FORGOTTEN_FOR);
        let there: usize = all.values().map(|(_, members)| members.len()).sum();
        members.truncate(FORGOTTEN.saturating_sub(there));
        all.entry(frontend.clone())
            .or_insert_with(|| (Instant::now(), Vec::new()))
            .1
            .append(&mut members);
    }

    fn take(&self, frontend: &ServerId) -> Memberships {
        self.lock()
            .remove(frontend)
            .map(|(_, members)| members)
            .unwrap_or_default()
    }
}
