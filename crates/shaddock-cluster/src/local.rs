//! A cluster of servers in one process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;

use crate::reply::{Limit, ServingCount, guarded, panicked};
use crate::{
    BindError, Bound, BoxFuture, Cluster, ClusterError, Context, Delivered, Delivery,
    ForwardedRequest, JoinOptions, Located, MemberChange, MemberNotice, Members, Membership, Node,
    RawSid, Receivers, RemoteCall, RemoteError, RemoteErrorKind, Reply, ServerId, ServerInfo,
    SessionAnswer, SessionEvent, SessionOp, Status, code,
};

mod users;
use users::Users;

/// The timeout of callers that do not set one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster of servers that share a process. Cheap to clone; every clone is the same cluster.
///
/// A call is the target's own future, polled by the task that awaits the [`Reply`]: no task is started, nothing is serialised. A deadline
/// costs a timer only if the target does not complete immediately. Several clusters in one process are independent.
#[derive(Clone, Debug)]
pub struct LocalCluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Members,
    /// Replaced as a whole when a server joins or leaves, so that calls take no lock.
    seats: ArcSwap<HashMap<ServerId, Arc<Seat>>>,
    writer: Mutex<()>,
    users: Users,
    request_timeout: Duration,
    /// Starts of frontends.
    starts: AtomicU16,
}

struct Seat {
    info: Arc<ServerInfo>,
    options: JoinOptions,
    node: Arc<dyn Node>,
    serving: Arc<ServingCount>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("info", &self.info)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Default for LocalCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalCluster {
    /// Creates a cluster without servers. Callers without a timeout wait 5 s.
    pub fn new() -> Self {
        Self::with_request_timeout(REQUEST_TIMEOUT)
    }

    /// Creates a cluster with a different timeout for callers that do not set one.
    pub fn with_request_timeout(request_timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            members: Members::new(),
            seats: ArcSwap::default(),
            writer: Mutex::new(()),
            users: Users::default(),
            request_timeout,
            starts: AtomicU16::default(),
        }))
    }
}

impl Cluster for LocalCluster {
    fn join(
        &self,
        mut info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>> {
        let start_number = if info.frontend {
            let before = self.0.starts.fetch_add(1, Ordering::Relaxed);
            before.wrapping_add(1)
        } else {
            0
        };
        info.announce_node(start_number);
        let seat = Arc::new(Seat {
            info: Arc::new(info),
            options,
            node,
            serving: Arc::default(),
        });
        let joined = self.0.enter(&seat).map(|()| {
            let member = LocalMember {
                shared: Arc::clone(&self.0),
                seat,
                start_number,
                left: AtomicBool::new(false),
            };
            Arc::new(member) as Arc<dyn Membership>
        });
        Box::pin(std::future::ready(joined))
    }
}

impl Shared {
    fn enter(&self, seat: &Arc<Seat>) -> Result<(), ClusterError> {
        {
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut seats = HashMap::clone(&self.seats.load());
            if seats.contains_key(&seat.info.id) {
                return Err(ClusterError::IdTaken(seat.info.id.clone()));
            }
            seats.insert(seat.info.id.clone(), Arc::clone(seat));
            self.seats.store(Arc::new(seats));
        }
        if !seat.options.hidden && self.members.add(Arc::clone(&seat.info)) {
            self.notify_others(&seat.info.id, &MemberChange::Joined(Arc::clone(&seat.info)));
        }
        Ok(())
    }

    fn seat(&self, id: &str) -> Option<Arc<Seat>> {
        self.seats.load().get(id).cloned()
    }

    fn notify_others(&self, about: &ServerId, change: &MemberChange) {
        for (id, seat) in self.seats.load().iter() {
            if id != about {
                guarded("member_changed", || {
                    seat.node.member_changed(change.clone());
                });
            }
        }
    }

    fn publish_to_others(&self, frontend_type: &Arc<str>, event: &SessionEvent) {
        for seat in self.seats.load().values() {
            if seat
                .options
                .session_events
                .wants_event(frontend_type, event)
            {
                guarded("session_event", || {
                    seat.node.session_event(frontend_type, event.clone());
                });
            }
        }
    }

    /// Removes a server from the list; true the first time.
    fn unlist(&self, id: &ServerId) -> bool {
        let Some(info) = self.members.remove(id.as_str()) else {
            return false;
        };
        self.notify_others(id, &MemberChange::Left(info));
        true
    }

    fn remove_seat(&self, id: &ServerId) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seats = HashMap::clone(&self.seats.load());
        seats.remove(id);
        self.seats.store(Arc::new(seats));
    }
}

struct LocalMember {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    start_number: u16,
    left: AtomicBool,
}

impl LocalMember {
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
            .bind(&uid, sid, info, self.seat.options.unique);
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
