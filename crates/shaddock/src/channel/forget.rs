//! Members of channels leave by themselves when their last session on a frontend is gone.

use std::{
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
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
            tracing::warn!(%error, uid = &**uid, "a member of channels could not be looked after");
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

    /// All members of a frontend that is gone.
    pub(crate) fn forget_frontend(&self, frontend: &ServerId) {
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
                    channel.leave(uid.as_str(), frontend.as_str());
                }
            }
        }
    }
}
