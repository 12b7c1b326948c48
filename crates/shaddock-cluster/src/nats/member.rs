//! The membership of one server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::calls::Target;
use super::capabilities::AUDIENCES;
use super::core::Core;
use super::encode::{RequestParts, SessionParts};
use super::tasks::{Requests, Tasks};
use super::thread::Thread;
use super::wire::{MsgType, RpcType};
use super::{bind, delivery, events, everywhere, ops, servers, to_users};
use crate::clock;
use crate::reply::Limit;
use crate::{
    BindError, Bound, BoxFuture, Context, Delivered, Delivery, ForwardedRequest, Located,
    MemberNotice, Members, Membership, RawSid, Receivers, RemoteCall, RemoteError, Reply, ServerId,
    ServerInfo, SessionAnswer, SessionEvent, SessionOp, Status, Tie,
};
use parking_lot::Mutex;

pub(super) struct NatsMember {
    core: Arc<Core>,
    tasks: Tasks,
    /// Takes requests of others, until that was ended.
    requests: Mutex<Option<Requests>>,
    /// Where the tasks run.
    _thread: Thread,
}

impl NatsMember {
    pub(super) fn new(core: Arc<Core>, tasks: Tasks, requests: Requests, thread: Thread) -> Self {
        Self {
            core,
            tasks,
            requests: Mutex::new(Some(requests)),
            _thread: thread,
        }
    }

    /// `user` is the user of the request, if the number of their claim goes with it.
    fn send(
        &self,
        to: &Arc<Target>,
        payload: Bytes,
        route: Arc<str>,
        timeout: Duration,
        user: Option<Arc<str>>,
    ) -> Reply {
        let limit = Limit {
            timeout,
            route,
            caller: self.core.info.id.clone(),
            target: to.info.id.clone(),
        };
        self.core.calls.call(to, payload, limit, user)
    }

    fn timeout(&self, context: &Context) -> Duration {
        context
            .timeout()
            .unwrap_or(self.core.config.request_timeout)
    }

    fn frontend_id(&self) -> &str {
        if self.core.info.frontend {
            self.core.info.id.as_str()
        } else {
            ""
        }
    }
}

impl Drop for NatsMember {
    fn drop(&mut self) {
        // Requests that still run hold the link; but this server is gone.
        self.core.link.close();
        self.core.calls.fail_all();
    }
}

fn fail<T: Send + 'static>(error: RemoteError) -> BoxFuture<'static, Result<T, RemoteError>> {
    Box::pin(std::future::ready(Err(error)))
}

impl Membership for NatsMember {
    fn info(&self) -> &Arc<ServerInfo> {
        &self.core.info
    }

    fn start_number(&self) -> u16 {
        self.core.start_number
    }

    fn members(&self) -> &Members {
        &self.core.members
    }

    fn departing(&self) -> Vec<Arc<ServerInfo>> {
        servers::departing(&self.core)
    }

    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> Reply {
        let now = clock::now();
        let user = request.session.uid.as_ref();
        if user.is_some() && self.core.is_fenced_at(now) {
            return Reply::ready(Err(RemoteError::fenced()));
        }
        let user = user.filter(|_| self.core.is_unique());
        let claim = user.and_then(|uid| self.core.users.claim(uid));
        let timeout = self.timeout(&request.context);
        let to = self.core.target(to);
        let metadata = if to.is_ours {
            self.core.metadata(&request.context, timeout)
        } else {
            let context = self.core.request_ids.context(&request);
            self.core.metadata(&context, timeout)
        };
        let kind = if request.id.is_some() {
            MsgType::Request
        } else {
            MsgType::Notify
        };
        let payload = RequestParts {
            kind: RpcType::Sys,
            session: Some(SessionParts {
                sid: request.session.sid,
                uid: request.session.uid.as_deref().unwrap_or_default(),
                data: &request.session.data.to_json(),
            }),
            id: request.id.map_or(0, std::num::NonZero::get),
            route: &request.route,
            body: &request.body,
            msg_type: kind,
            frontend: self.frontend_id(),
            metadata: &metadata,
            stamp: to.is_ours.then(|| self.core.stamp(now, claim)),
        };
        let user = claim.and(user).cloned();
        self.send(&to, payload.encode(), request.route, timeout, user)
    }

    fn call(&self, to: &ServerInfo, call: RemoteCall) -> Reply {
        let timeout = self.timeout(&call.context);
        let to = self.core.target(to);
        let payload = RequestParts {
            kind: RpcType::User,
            session: None,
            id: 0,
            route: &call.route,
            body: &call.body,
            msg_type: MsgType::Request,
            frontend: self.frontend_id(),
            metadata: &self.core.metadata(&call.context, timeout),
            stamp: to.is_ours.then(|| self.core.stamp(clock::now(), None)),
        };
        self.send(&to, payload.encode(), call.route, timeout, None)
    }

    fn session_op(
        &self,
        frontend: &ServerId,
        op: SessionOp,
        context: Context,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        match servers::frontend(&self.core, frontend) {
            Ok(frontend) => ops::send(&self.core, &frontend, op, &context),
            Err(error) => fail(error),
        }
    }

    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        match servers::frontend(&self.core, frontend) {
            Ok(frontend) => delivery::send(&self.core, &frontend, &delivery),
            Err(error) => fail(error),
        }
    }

    fn check_delivery(&self, route: &str, body: &Bytes) -> Result<(), RemoteError> {
        delivery::check(&self.core, route, body)
    }

    fn push_timeout(&self) -> Duration {
        self.core.config.push_timeout()
    }

    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError> {
        delivery::send_unconfirmed(
            &self.core,
            &*servers::frontend(&self.core, frontend)?,
            &delivery,
        )
    }

    fn deliver_to_type(
        &self,
        frontend_type: &str,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        match &delivery.to {
            Receivers::Uids(uids) => to_users::send(&self.core, frontend_type, &delivery, uids),
            _ => Box::pin(std::future::ready(Ok(Delivered::default()))),
        }
    }

    fn keeps_audiences(&self, frontend: &ServerId) -> Result<bool, RemoteError> {
        let info = servers::frontend(&self.core, frontend)?;
        if info.frontend {
            Ok(info.can(AUDIENCES))
        } else {
            Err(RemoteError::server_not_found())
        }
    }

    fn hold_topic(&self, topic: &str) -> BoxFuture<'static, Result<Tie, RemoteError>> {
        if self.core.left.load(Ordering::Acquire) {
            return fail(RemoteError::server_not_found());
        }
        self.core.topics.hold(&self.core.link, topic)
    }

    fn deliver_to_topic(
        &self,
        topic: &str,
        delivery: Delivery,
    ) -> Result<BoxFuture<'static, ()>, RemoteError> {
        delivery::publish_to_topic(&self.core, topic, &delivery)?;
        Ok(Box::pin(std::future::ready(())))
    }

    fn notify_member(&self, to: &ServerId, notice: MemberNotice) -> Result<(), RemoteError> {
        let to =
            servers::find(&self.core, to.as_str()).ok_or_else(RemoteError::server_not_found)?;
        events::notify_member(&self.core, &to, &notice)
    }

    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>> {
        everywhere::kick_user(&self.core, &uid, reason)
    }

    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>> {
        everywhere::where_is(&self.core, uid)
    }

    fn bind_user(
        &self,
        uid: Arc<str>,
        sid: RawSid,
    ) -> BoxFuture<'static, Result<Bound, BindError>> {
        if self.core.left.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Err(BindError::Left)));
        }
        Box::pin(bind::bind(Arc::clone(&self.core), uid, sid))
    }

    fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        self.core.users.is_bound(uid, sid)
    }

    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid) {
        self.core.users.unbind(uid, sid);
    }

    fn publish_event(&self, event: SessionEvent) {
        events::publish(&self.core, &event);
    }

    fn is_fenced(&self) -> bool {
        self.core.is_fenced()
    }

    fn trouble(&self) -> Option<String> {
        if self.core.left.load(Ordering::Acquire) {
            return None;
        }
        let full = || {
            let matters = self.core.is_unique() && self.core.etcd_size.is_full();
            matters.then(|| {
                "etcd has reached its quota and accepts no writes, so users cannot log in: compact and defragment it, then `etcdctl alarm disarm`".to_owned()
            })
        };
        self.core.link.trouble().or_else(full)
    }

    fn status(&self) -> Status {
        let left = self.core.left.load(Ordering::Acquire);
        Status {
            connected: !left && self.core.link.is_up(),
            listed: self.core.lease.is_listed(),
            pending_calls: self.core.calls.pending(),
            serving: self.core.serving.now(),
            bound_users: self.core.users.count(),
            subscriptions: if left {
                0
            } else {
                self.core.own_subscriptions
                    + self.core.users.subscriptions()
                    + self.core.topics.count()
            },
            refused_busy: self.core.refused_busy.load(Ordering::Relaxed),
            rejected_calls: self.core.calls.rejected(),
            rejected_sends: self.core.link.rejected(),
            rejected_writes: self.core.batches.rejected(),
            waiting_bytes: self.core.link.waiting_bytes(),
            expired: self.core.link.expired(),
            suspects: self.core.members.suspects().len(),
            suspected: self.core.health.suspected(),
            too_late: self.core.too_late.load(Ordering::Relaxed),
            outdated: self.core.outdated.load(Ordering::Relaxed),
            etcd_bytes: self.core.etcd_size.bytes(),
            etcd_bytes_in_use: self.core.etcd_size.in_use(),
            etcd_full: self.core.etcd_size.is_full(),
            lease_left: Some(self.core.lease.left()),
        }
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.core.lease.is_wanted() {
                events::say_goodbye(&self.core, false);
                // So that it is on its way to all before the list changes.
                self.core
                    .link
                    .round_trip(self.core.config.nats_connect_timeout)
                    .await;
                self.core.lease.withdraw().await;
                self.core.members.remove(self.core.info.id.as_str());
                tokio::time::sleep(self.core.config.shutdown_delay).await;
            }
        })
    }

    fn finish(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let requests = self.requests.lock().take();
            if let Some(requests) = requests {
                requests.end(self.core.config.nats_connect_timeout).await;
            }
            let idle = self.core.serving.idle();
            if tokio::time::timeout(self.core.config.request_timeout, idle)
                .await
                .is_err()
            {
                tracing::warn!(server = %self.core.info.id, "requests that were taken are still not answered");
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.core.left.swap(true, Ordering::AcqRel) {
                return;
            }
            self.withdraw().await;
            self.finish().await;
            self.core.users.forget_all();
            events::say_goodbye(&self.core, true);
            self.core
                .link
                .flush(self.core.config.nats_connect_timeout)
                .await;
            self.core.lease.revoke().await;
            self.tasks.stop();
            self.core.link.close();
            self.core.calls.fail_all();
        })
    }
}
