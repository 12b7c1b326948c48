//! A cluster in one process in which one operation between servers meets what a network does to it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use shaddock_cluster::{
    BindError, Bound, BoxFuture, Cluster, ClusterError, Context, Delivered, Delivery,
    ForwardedRequest, JoinOptions, LocalCluster, Located, MemberNotice, Members, Membership, Node,
    RawSid, RemoteCall, RemoteError, RemoteErrorKind, Reply, ServerId, ServerInfo, SessionAnswer,
    SessionEvent, SessionOp, Status, Tie, code,
};

/// What becomes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// After so many milliseconds.
    Late(u64),
    /// It is refused, and nothing was done.
    Busy,
    /// The message does not arrive, and there is no reply.
    Lost,
    /// It arrives, and the answer does not.
    AnswerLost,
    /// The caller has given it up, and then it arrives.
    TooLate,
    /// It arrives twice; the caller hears the second answer.
    Twice,
}

/// The operation, and what happens to it the first time, the second time, and so on.
pub(crate) struct Fates {
    pub(crate) operation: &'static str,
    pub(crate) of: Box<dyn Fn(u64) -> Fate + Send + Sync>,
    pub(crate) count: AtomicU64,
}

impl Fates {
    pub(crate) fn new(
        operation: &'static str,
        of: impl Fn(u64) -> Fate + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            operation,
            of: Box::new(of),
            count: AtomicU64::new(0),
        })
    }
}

pub(crate) struct Unreliable(pub(crate) LocalCluster, pub(crate) Arc<Fates>);

struct Place(Arc<dyn Membership>, Arc<Fates>);

impl Cluster for Unreliable {
    fn join(
        &self,
        info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>> {
        Box::pin(async move {
            let place = self.0.join(info, options, node).await?;
            Ok(Arc::new(Place(place, Arc::clone(&self.1))) as Arc<dyn Membership>)
        })
    }
}

type Answering = BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

fn error(kind: RemoteErrorKind) -> RemoteError {
    RemoteError::of(kind, code::UNKNOWN, "a fault of the test")
}

impl Place {
    fn meet(&self, fate: Fate, to: &ServerId, op: SessionOp, context: Context) -> Answering {
        let (place, to) = (Arc::clone(&self.0), to.clone());
        Box::pin(async move {
            let send = |op| place.session_op(&to, op, context.clone());
            match fate {
                Fate::Arrives => send(op).await,
                Fate::Late(millis) => {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    send(op).await
                }
                Fate::Busy => Err(error(RemoteErrorKind::Busy)),
                Fate::Lost => Err(error(RemoteErrorKind::Timeout)),
                Fate::AnswerLost => {
                    let _ = send(op).await;
                    Err(error(RemoteErrorKind::Timeout))
                }
                Fate::TooLate => {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        let _ = place.session_op(&to, op, context).await;
                    });
                    Err(error(RemoteErrorKind::Timeout))
                }
                Fate::Twice => {
                    let _ = send(op.clone()).await;
                    send(op).await
                }
            }
        })
    }
}

impl Membership for Place {
    fn session_op(&self, to: &ServerId, op: SessionOp, context: Context) -> Answering {
        let fates = &self.1;
        let meets = matches!(&op, SessionOp::Custom { name, .. } if **name == *fates.operation);
        if !meets {
            return self.0.session_op(to, op, context);
        }
        let fate = (fates.of)(fates.count.fetch_add(1, Ordering::Relaxed));
        self.meet(fate, to, op, context)
    }

    fn info(&self) -> &Arc<ServerInfo> {
        self.0.info()
    }
    fn start_number(&self) -> u16 {
        self.0.start_number()
    }
    fn members(&self) -> &Members {
        self.0.members()
    }
    fn departing(&self) -> Vec<Arc<ServerInfo>> {
        self.0.departing()
    }
    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> Reply {
        self.0.forward(to, request)
    }
    fn call(&self, to: &ServerInfo, call: RemoteCall) -> Reply {
        self.0.call(to, call)
    }
    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        self.0.deliver(frontend, delivery)
    }
    fn check_delivery(&self, route: &str, body: &Bytes) -> Result<(), RemoteError> {
        self.0.check_delivery(route, body)
    }
    fn push_timeout(&self) -> Duration {
        self.0.push_timeout()
    }
    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError> {
        self.0.deliver_unconfirmed(frontend, delivery)
    }
    fn deliver_to_type(
        &self,
        frontend_type: &str,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        self.0.deliver_to_type(frontend_type, delivery)
    }
    fn keeps_audiences(&self, frontend: &ServerId) -> Result<bool, RemoteError> {
        self.0.keeps_audiences(frontend)
    }
    fn hold_topic(&self, topic: &str) -> BoxFuture<'static, Result<Tie, RemoteError>> {
        self.0.hold_topic(topic)
    }
    fn deliver_to_topic(
        &self,
        topic: &str,
        delivery: Delivery,
    ) -> Result<BoxFuture<'static, ()>, RemoteError> {
        self.0.deliver_to_topic(topic, delivery)
    }
    fn notify_member(&self, to: &ServerId, notice: MemberNotice) -> Result<(), RemoteError> {
        self.0.notify_member(to, notice)
    }
    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>> {
        self.0.kick_user(uid, reason)
    }
    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>> {
        self.0.where_is(uid)
    }
    fn bind_user(
        &self,
        uid: Arc<str>,
        sid: RawSid,
    ) -> BoxFuture<'static, Result<Bound, BindError>> {
        self.0.bind_user(uid, sid)
    }
    fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        self.0.is_bound(uid, sid)
    }
    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid) {
        self.0.unbind_user(uid, sid);
    }
    fn publish_event(&self, event: SessionEvent) {
        self.0.publish_event(event);
    }
    fn is_fenced(&self) -> bool {
        self.0.is_fenced()
    }
    fn trouble(&self) -> Option<String> {
        self.0.trouble()
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.0.withdraw()
    }
    fn finish(&self) -> BoxFuture<'_, ()> {
        self.0.finish()
    }
    fn leave(&self) -> BoxFuture<'_, ()> {
        self.0.leave()
    }
}
