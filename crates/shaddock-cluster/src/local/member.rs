//! The membership of one server in a local cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;

use super::shared::{Seat, Shared};
use crate::reply::{Limit, guarded, panicked};
use crate::{
    BindError, Bound, BoxFuture, Context, Delivered, Delivery, ForwardedRequest, Located,
    MemberNotice, Members, Membership, Node, RawSid, Receivers, RemoteCall, RemoteError,
    RemoteErrorKind, Reply, ServerId, ServerInfo, SessionAnswer, SessionEvent, SessionOp, Status,
    code,
};

/// The membership of one server.
pub(super) struct LocalMember {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    start_number: u16,
    left: AtomicBool,
}

impl LocalMember {
    pub(super) fn new(shared: Arc<Shared>, seat: Arc<Seat>, start_number: u16) -> Self {
        Self {
            shared,
            seat,
            start_number,
            left: AtomicBool::new(false),
        }
    }

    /// Starts a request on its target, unless that is gone.
    fn ask(
        &self,
        to: &ServerInfo,
        route: Arc<str>,
        context: &Context,
        start: impl FnOnce(Arc<dyn Node>) -> BoxFuture<'static, Result<Bytes, RemoteError>>,
    ) -> Reply {
        let seats = self.shared.seats.load();
        let Some(seat) = seats.get(&to.id) else {
            return Reply::ready(Err(no_responder()));
        };
        let limit = Limit {
            timeout: context.timeout().unwrap_or(self.shared.request_timeout),
            route,
            caller: self.seat.info.id.clone(),
            target: to.id.clone(),
        };
        let serving = seat.serving.enter();
        match guarded("serve", || Some(start(Arc::clone(&seat.node)))) {
            Some(answer) => Reply::of_node(answer, limit, serving),
            None => Reply::ready(Err(panicked())),
        }
    }

    /// Performs a session operation on a frontend, within the request timeout.
    fn operate(&self, seat: &Seat, op: SessionOp, context: &Context) -> Answering {
        let timeout = context.timeout().unwrap_or(self.shared.request_timeout);
        let limit = Limit {
            timeout,
            route: "sys".into(),
            caller: self.seat.info.id.clone(),
            target: seat.info.id.clone(),
        };
        let serving = seat.serving.enter();
        let node = Arc::clone(&seat.node);
        let Some(answer) = guarded("session_op", || Some(node.session_op(op))) else {
            return Box::pin(std::future::ready(Err(panicked())));
        };
        Box::pin(async move {
            let _serving = serving;
            let answer = std::panic::AssertUnwindSafe(answer).catch_unwind();
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_panic)) => Err(panicked()),
                Err(_late) => Err(limit.error()),
            }
        })
    }

    fn frontends(&self) -> Vec<Arc<Seat>> {
        self.shared
            .seats
            .load()
            .values()
            .filter(|seat| seat.info.frontend)
            .cloned()
            .collect()
    }
}

type Answering = BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

fn no_responder() -> RemoteError {
    RemoteError::of(
        RemoteErrorKind::NoResponder,
        code::UNKNOWN,
        "no responders available for request",
    )
}

impl Membership for LocalMember {
    fn info(&self) -> &Arc<ServerInfo> {
        &self.seat.info
    }

    fn start_number(&self) -> u16 {
        self.start_number
    }

    fn members(&self) -> &Members {
        &self.shared.members
    }

    fn departing(&self) -> Vec<Arc<ServerInfo>> {
        let seats = self.shared.seats.load();
        let unlisted = seats.values().filter(|seat| {
            !seat.options.hidden && self.shared.members.server(seat.info.id.as_str()).is_none()
        });
        unlisted.map(|seat| Arc::clone(&seat.info)).collect()
    }

    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> Reply {
        self.ask(
            to,
            Arc::clone(&request.route),
            &request.context.clone(),
            |node| node.serve_request(request),
        )
    }

    fn call(&self, to: &ServerInfo, mut call: RemoteCall) -> Reply {
        call.from = Some(self.seat.info.id.clone());
        self.ask(to, Arc::clone(&call.route), &call.context.clone(), |node| {
            node.serve_call(call)
        })
    }

    fn session_op(&self, frontend: &ServerId, op: SessionOp, context: Context) -> Answering {
        match self.shared.seat(frontend.as_str()) {
            Some(seat) => self.operate(&seat, op, &context),
            None => Box::pin(std::future::ready(Err(RemoteError::server_not_found()))),
        }
    }

    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        let Some(seat) = self.shared.seat(frontend.as_str()) else {
            return Box::pin(std::future::ready(Err(RemoteError::server_not_found())));
        };
        let mut delivered = guarded("deliver", || seat.node.deliver(delivery));
        Box::pin(async move {
            if let Some(room) = seat.node.room() {
                room.await;
            }
            if !delivered.full.is_empty() {
                seat.node
                    .kept_room(std::mem::take(&mut delivered.full))
                    .await;
            }
            Ok(delivered)
        })
    }

    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError> {
        let seat = self
            .shared
            .seat(frontend.as_str())
            .ok_or_else(RemoteError::server_not_found)?;
        guarded("deliver", || seat.node.deliver(delivery));
        Ok(())
    }

    fn deliver_to_type(
        &self,
        frontend_type: &str,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        let Receivers::Uids(uids) = &delivery.to else {
            return Box::pin(std::future::ready(Ok(Delivered::default())));
        };
        let (by_frontend, missing) = self.shared.users.group(frontend_type, uids);
        let mut delivered = Delivered {
            missing_uids: missing,
            ..Delivered::default()
        };
        let mut waits = Vec::new();
        for (frontend, uids) in by_frontend {
            let to = Receivers::Uids(uids.clone().into());
            match self.shared.seat(frontend.as_str()) {
                Some(seat) => {
                    let delivery = Delivery {
                        to,
                        ..delivery.clone()
                    };
                    let mut here = guarded("deliver", || seat.node.deliver(delivery));
                    let full = std::mem::take(&mut here.full);
                    if !full.is_empty() {
                        waits.push(seat.node.kept_room(full));
                    }
                    delivered.merge(here);
                }
                None => delivered.missing_uids.extend(uids),
            }
        }
        Box::pin(async move {
            futures_util::future::join_all(waits).await;
            Ok(delivered)
        })
    }

    fn keeps_audiences(&self, frontend: &ServerId) -> Result<bool, RemoteError> {
        let seat = self.shared.seat(frontend.as_str());
        seat.filter(|seat| seat.info.frontend)
            .map(|_| true)
            .ok_or_else(RemoteError::server_not_found)
    }

    fn deliver_to_topic(
        &self,
        _topic: &str,
        delivery: Delivery,
    ) -> Result<BoxFuture<'static, ()>, RemoteError> {
        let frontends = self.frontends();
        for seat in &frontends {
            guarded("deliver", || seat.node.deliver(delivery.clone()));
        }
        Ok(Box::pin(async move {
            for seat in frontends {
                if let Some(room) = seat.node.room() {
                    room.await;
                }
            }
        }))
    }

    fn notify_member(&self, to: &ServerId, notice: MemberNotice) -> Result<(), RemoteError> {
        let seat = self.shared.seat(to.as_str());
        let seat = seat.ok_or_else(RemoteError::server_not_found)?;
        guarded("member_notice", || seat.node.member_notice(notice));
        Ok(())
    }

    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>> {
        let context = Context::new();
        let kicks: Vec<_> = self
            .frontends()
            .iter()
            .map(|seat| {
                let op = SessionOp::KickUser {
                    uid: Arc::clone(&uid),
                    reason: reason.clone(),
                };
                self.operate(seat, op, &context)
            })
            .collect();
        Box::pin(async move {
            let mut closed = 0;
            for answer in futures_util::future::join_all(kicks).await {
                if let SessionAnswer::Kicked(n) = answer? {
                    closed += n;
                }
            }
            Ok(closed)
        })
    }

    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>> {
        Box::pin(std::future::ready(Ok(self.shared.users.find(&uid))))
    }

    fn bind_user(
        &self,
        uid: Arc<str>,
        sid: RawSid,
    ) -> BoxFuture<'static, Result<Bound, BindError>> {
        if self.left.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Err(BindError::Left)));
        }
        let info = &self.seat.info;
        let bound = self
            .shared
            .users
            .bind(&uid, sid, info, self.seat.options.sessions_per_user);
        let result = bound.map(|(hold, replaced)| {
            for id in replaced {
                if let Some(seat) = self.shared.seat(id.as_str()) {
                    guarded("bound_elsewhere", || {
                        seat.node.bound_elsewhere(&uid, Some(&info.id));
                    });
                }
            }
            let (shared, info) = (Arc::clone(&self.shared), Arc::clone(info));
            Bound::new(move |is_bound| shared.users.end(&info, &uid, &hold, is_bound))
        });
        Box::pin(std::future::ready(result))
    }

    fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        self.shared.users.is_bound(&self.seat.info, uid, sid)
    }

    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid) {
        self.shared.users.unbind(&self.seat.info, uid, sid);
    }

    fn publish_event(&self, event: SessionEvent) {
        self.shared
            .publish_to_others(&self.seat.info.server_type, &event);
    }

    fn is_fenced(&self) -> bool {
        false
    }

    fn status(&self) -> Status {
        let listed = self
            .shared
            .members
            .server(self.seat.info.id.as_str())
            .is_some();
        Status {
            connected: !self.left.load(Ordering::Acquire),
            listed,
            serving: self.seat.serving.now(),
            bound_users: self.shared.users.count(&self.seat.info.id),
            ..Status::default()
        }
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.shared.unlist(&self.seat.info.id);
        Box::pin(std::future::ready(()))
    }

    fn finish(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let idle = self.seat.serving.idle();
            if tokio::time::timeout(self.shared.request_timeout, idle)
                .await
                .is_err()
            {
                tracing::warn!(server = %self.seat.info.id, "requests that were taken are still not answered");
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.left.swap(true, Ordering::AcqRel) {
                return;
            }
            self.shared.unlist(&self.seat.info.id);
            self.shared.remove_seat(&self.seat.info.id);
            self.shared.users.forget(&self.seat.info.id);
            self.finish().await;
        })
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        if !*self.left.get_mut() {
            let id = &self.seat.info.id;
            self.shared.unlist(id);
            self.shared.remove_seat(id);
            self.shared.users.forget(id);
            if self.seat.info.frontend {
                let lost = SessionEvent::FrontendLost(Arc::clone(&self.seat.info));
                self.shared
                    .publish_to_others(&self.seat.info.server_type, &lost);
            }
        }
    }
}
