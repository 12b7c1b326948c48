//! The two interfaces of the cluster: [`Node`], implemented by a server, and [`Membership`], used by it.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use shaddock_core::SessionsPerUser;
use tokio::runtime::Handle;

use crate::{
    BindError, Bound, BoxFuture, ClusterError, Context, Delivered, Delivery, ForwardedSession,
    Interest, Located, MemberNotice, Members, RawSid, RemoteError, Reply, ServerId, ServerInfo,
    SessionAnswer, SessionEvent, SessionOp, Status, Tie,
};

/// A message of a client that its frontend forwards to another server.
#[derive(Clone, Debug)]
pub struct ForwardedRequest {
    /// The full route as sent by the client: `type.service.method`.
    pub route: Arc<str>,
    /// The body, decompressed and decoded to JSON text, or raw; otherwise unchanged.
    pub body: Bytes,
    /// The client's id of the request. `None` is a notify: the reply is awaited but not sent to the client.
    pub id: Option<NonZeroU64>,
    /// The current state of the session.
    pub session: ForwardedSession,
    /// The caller's timeout, and propagated values.
    pub context: Context,
}

/// A call from server to server (user RPC).
#[derive(Clone, Debug)]
pub struct RemoteCall {
    /// `type.service.method`; the receiver uses `service.method` only.
    pub route: Arc<str>,
    /// The argument: JSON text, or a protobuf message for Pitaya servers. Empty means no argument.
    pub body: Bytes,
    /// The calling server. The cluster sets it; a call that arrives without one has none.
    pub from: Option<ServerId>,
    /// The caller's timeout, and propagated values.
    pub context: Context,
}

/// The interface of a server to the cluster. The framework implements it.
///
/// All methods may be called from any thread, concurrently. None may block. A panic in a future or method results in `PIT-000` and does not
/// affect other requests.
///
/// A future may be dropped before it completes: when its caller is in this process and was dropped, or its deadline passed. Run work that
/// must complete in a separate task.
pub trait Node: Send + Sync + 'static {
    /// Runs the handler for a client message that a frontend forwarded, and returns its result.
    ///
    /// Messages for routes that are known to be fast start in the order in which one frontend sent them; the returned futures may run
    /// concurrently. The first messages of a route, and those of a route that has blocked its thread, start in separate tasks.
    fn serve_request(
        self: Arc<Self>,
        request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>>;

    /// Runs a remote. Calls start as [messages](Self::serve_request) do.
    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>>;

    /// Performs an operation on sessions of this frontend. It must not wait for a pending request of the same session, because the handler
    /// of that request may be the caller.
    fn session_op(
        self: Arc<Self>,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let _ = op;
        Box::pin(async { Err(crate::session::not_a_frontend()) })
    }

    /// Puts a message into the outboxes of its receivers immediately: the order of calls is the order in which clients receive them.
    fn deliver(&self, delivery: Delivery) -> Delivered {
        let _ = delivery;
        Delivered::default()
    }

    /// Waits for the connections to which the last messages were [delivered](Self::deliver), if one of them has so much queued that it
    /// should be offered to its socket before more is delivered. It completes soon, whatever clients do. `None`: no wait is needed.
    fn room(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// The wait until there is room for more in what is kept for these clients, named in [`Delivered::full`]. It ends within a time that the node has for it,
    /// whatever clients do. Only who has sent to them waits.
    fn kept_room(&self, sessions: Vec<RawSid>) -> BoxFuture<'static, ()> {
        let _ = sessions;
        Box::pin(std::future::ready(()))
    }

    /// This user was bound on another frontend of the same type, and sessions are unique: closes the user's sessions here.
    fn bound_elsewhere(&self, uid: &Arc<str>, owner: Option<&ServerId>) {
        let _ = (uid, owner);
    }

    /// This frontend cannot be sure that it still owns its users (`true`), or it is sure again (`false`).
    ///
    /// While fenced, the cluster forwards no request of a bound user with a unique session, and delivers no message that is only for such
    /// users. The node does the same for local work: its own handlers, its own pushes, and the bound receivers of a
    /// [`Receivers::All`](crate::Receivers::All). For users that were lost meanwhile, [`bound_elsewhere`](Self::bound_elsewhere) is called
    /// before `false`.
    fn fenced(&self, fenced: bool) {
        let _ = fenced;
    }

    /// Another server has the id of this one, so this one has permanently left the cluster: it was silent at etcd until its lease ended (it
    /// hung, or was cut off), and was replaced meanwhile. Its messages no longer reach other servers. The node closes its sessions and
    /// exits.
    fn expelled(&self, error: &ClusterError) {
        let _ = error;
    }

    /// Another server joined or left after this one had joined. The list in [`Members`] is already updated.
    fn member_changed(&self, change: MemberChange) {
        let _ = change;
    }

    /// A session event that this server subscribed to when it joined ([`Interest`]). Events of one session arrive in order. Events before
    /// the frontend has this server in its list are not sent.
    fn session_event(&self, frontend_type: &Arc<str>, event: SessionEvent) {
        let _ = (frontend_type, event);
    }

    /// A user has joined or left an audience that this server watches ([`SessionOp::Audiences`]).
    fn member_notice(&self, notice: MemberNotice) {
        let _ = notice;
    }
}

/// A change of the list of servers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MemberChange {
    /// The server has joined and can be called.
    Joined(Arc<ServerInfo>),
    /// The server left with a goodbye, or its lease ended.
    Left(Arc<ServerInfo>),
    /// The server is back, after its [`Joined`](Self::Joined): the same incarnation that was considered dead. It was away for longer than
    /// its lease (it hung, or was cut off), and a frontend still has its sessions. State that was discarded for it must be restored.
    Returned(Arc<ServerInfo>),
}

/// The options of a server that joins.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct JoinOptions {
    /// Frontends: the number of sessions that a user may have.
    pub sessions_per_user: SessionsPerUser,
    /// The events for which [`Node::session_event`] is called. A hidden server can subscribe only to its own events, because the others do
    /// not know it.
    pub session_events: Interest,
    /// Joins without being listed: the server can call others, but no request is routed to it. For tools of operators.
    pub hidden: bool,
    /// The runtime that serves the connection to the others. Default: that of the [`background`](Self::background) work.
    pub connection: Option<Handle>,
    /// The runtime that keeps the lease and follows the list of servers. Default: a separate thread, which blocking code of the application
    /// does not stop.
    pub background: Option<Handle>,
}

impl JoinOptions {
    /// A listed server whose users may have any number of sessions, without subscriptions to events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of sessions that a user may have.
    #[must_use]
    pub fn sessions_per_user(mut self, sessions: SessionsPerUser) -> Self {
        self.sessions_per_user = sessions;
        self
    }

    /// Subscribes to these events of sessions, in addition to earlier ones.
    #[must_use]
    pub fn with_events_of(mut self, interest: Interest) -> Self {
        self.session_events = self.session_events.or(interest);
        self
    }

    /// Joins without being listed.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Serves the connection to the others on this runtime: calls from there, and their replies, wake no other thread.
    ///
    /// Only the cluster's own processing of messages runs there, and the first step of requests, calls and session operations that are
    /// served. The runtime must live until the server has left.
    #[must_use]
    pub fn connection_on(mut self, runtime: Handle) -> Self {
        self.connection = Some(runtime);
        self
    }

    /// Runs the cluster's own work on this runtime instead of a separate thread. For many servers in one process; while code blocks the
    /// threads of that runtime, others may consider this server dead.
    #[must_use]
    pub fn background_on(mut self, runtime: Handle) -> Self {
        self.background = Some(runtime);
        self
    }
}

/// Servers that can find and call each other.
pub trait Cluster: Send + Sync + 'static {
    /// Lists a server and serves it from now on. When the future completes, others can call it.
    ///
    /// # Errors
    /// [`ClusterError`] if the id is taken or the other servers cannot be reached.
    fn join(
        &self,
        info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>>;
}

/// The membership of one server in the cluster.
///
/// Returned futures own all their data. Dropping one ends the wait: no state remains here, and a request that was sent may still be
/// executed.
///
/// Dropping the last `Arc` leaves without a goodbye; call [`leave`](Self::leave).
pub trait Membership: Send + Sync + 'static {
    /// The server's own entry in the list.
    fn info(&self) -> &Arc<ServerInfo>;

    /// Frontends: a number for this start of the server, which becomes part of its session ids. All starts of frontends in the cluster are
    /// counted, and this is the count modulo 65,536, so it repeats after 65,536 starts. 0 for other servers.
    fn start_number(&self) -> u16;

    /// The list of servers, including this one.
    fn members(&self) -> &Members;

    /// Servers that have left the list and are not gone yet: they serve their pending requests. A server that joined after their goodbye
    /// does not know them.
    fn departing(&self) -> Vec<Arc<ServerInfo>>;

    /// Forwards a client's message. It is sent (in one process: passed to the node) when this returns, before the future is polled:
    /// messages of one sender to one server arrive in the order of these calls.
    ///
    /// # Errors
    /// In the reply: the handler's own error, or the reason why there is no reply ([`RemoteErrorKind`](crate::RemoteErrorKind)). A request
    /// is never sent twice.
    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> Reply;

    /// Calls a remote. It is sent when this returns, as by [`forward`](Self::forward).
    ///
    /// # Errors
    /// As for [`forward`](Self::forward).
    fn call(&self, to: &ServerInfo, call: RemoteCall) -> Reply;

    /// Performs an operation on a session of a frontend.
    ///
    /// # Errors
    /// The frontend's error, or [`NoServer`](crate::RemoteErrorKind::NoServer) if it is not listed, or
    /// [`Refused`](crate::RemoteErrorKind::Refused) if it is a Pitaya server without this operation.
    fn session_op(
        &self,
        frontend: &ServerId,
        op: SessionOp,
        context: Context,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

    /// Sends one message to clients of a frontend. It is sent when this returns: messages of one sender reach a session in the order of
    /// these calls, whether or not the futures are awaited.
    ///
    /// # Errors
    /// As for [`session_op`](Self::session_op); then no receiver, or an unknown part of them, has the message.
    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>>;

    /// Checks whether a message can be sent to other servers: it may be too long for NATS.
    ///
    /// # Errors
    /// [`Refused`](crate::RemoteErrorKind::Refused). [`deliver`](Self::deliver) would fail in the same way for every frontend except this
    /// one.
    fn check_delivery(&self, route: &str, body: &Bytes) -> Result<(), RemoteError> {
        let _ = (route, body);
        Ok(())
    }

    /// How long a push to another frontend waits for the reply.
    fn push_timeout(&self) -> std::time::Duration {
        std::time::Duration::MAX
    }

    /// As [`deliver`](Self::deliver), without a reply: half the messages between servers, and missing receivers are not reported.
    ///
    /// # Errors
    /// The frontend is not listed, or the link is down.
    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError>;

    /// Sends a message to users ([`Receivers::Uids`](crate::Receivers::Uids)) whose frontend type, but not frontend, is known. In order as
    /// [`deliver`](Self::deliver). Frontends that fail or do not reply in time are named in the result; the others have the message.
    ///
    /// # Errors
    /// It cannot be sent to any other server because it is too long.
    fn deliver_to_type(
        &self,
        frontend_type: &str,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>>;

    /// [`deliver_to_type`](Self::deliver_to_type) of a message without a key.
    ///
    /// # Errors
    /// As there.
    fn deliver_to_users(
        &self,
        frontend_type: &str,
        route: Arc<str>,
        body: Bytes,
        uids: Arc<[Arc<str>]>,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        let delivery = Delivery {
            route,
            body,
            latest: None,
            to: crate::Receivers::Uids(uids),
        };
        self.deliver_to_type(frontend_type, delivery)
    }

    /// Whether a frontend stores audiences. A frontend that does not (a Pitaya server) receives the uids of members with every push.
    ///
    /// # Errors
    /// There is no such server, or it is no frontend.
    fn keeps_audiences(&self, frontend: &ServerId) -> Result<bool, RemoteError> {
        let _ = frontend;
        Ok(true)
    }

    /// Frontends, before the first member of a topic joins: subscribes to the topic. After the future completes, every later push, from any
    /// server, arrives here until the value is dropped.
    ///
    /// # Errors
    /// The link is down.
    fn hold_topic(&self, topic: &str) -> BoxFuture<'static, Result<Tie, RemoteError>> {
        let _ = topic;
        Box::pin(std::future::ready(Ok(Arc::new(()) as Tie)))
    }

    /// Sends a message to the members of a topic ([`Receivers::Audience`](crate::Receivers::Audience)), on all frontends. It is sent when
    /// this returns: messages of one sender to one topic arrive in the order of these calls. The future completes when more can be sent;
    /// receivers are not reported.
    ///
    /// # Errors
    /// It cannot be sent: it is too long, or the link is down.
    fn deliver_to_topic(
        &self,
        topic: &str,
        delivery: Delivery,
    ) -> Result<BoxFuture<'static, ()>, RemoteError> {
        let _ = (topic, delivery);
        Ok(Box::pin(std::future::ready(())))
    }

    /// Frontends: notifies a server that subscribed to it of a join or leave. In order.
    ///
    /// # Errors
    /// The server is not listed, or the link is down.
    fn notify_member(&self, to: &ServerId, notice: MemberNotice) -> Result<(), RemoteError> {
        let _ = (to, notice);
        Ok(())
    }

    /// Closes every session of the user on every frontend; returns how many are known to be closed (a Pitaya frontend does not report
    /// this).
    ///
    /// # Errors
    /// A frontend that might have the user did not reply.
    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>>;

    /// The frontends on which a user is connected.
    ///
    /// # Errors
    /// A frontend that might have the user did not reply.
    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>>;

    /// Frontends, before they bind a session: makes the user reachable here and, if sessions are unique, claims the user. After the future
    /// completes, pushes to the user arrive here. The caller then
    /// 1. binds the session; if that fails it drops the value, which reverts the changes of this call, and nothing else;
    /// 2. calls [`Bound::keep`], and closes the session if it returns false: another frontend claimed the user between this call and the
    ///    bind, when [`Node::bound_elsewhere`] could not yet find the session;
    /// 3. calls [`unbind_user`](Self::unbind_user) once when the session is unbound or closed.
    ///
    /// Dropping the future reverts its changes.
    ///
    /// # Errors
    /// [`BindError`]; nothing has changed.
    fn bind_user(&self, uid: Arc<str>, sid: RawSid)
    -> BoxFuture<'static, Result<Bound, BindError>>;

    /// Whether this session of the user is still bound here in the cluster: true from the end of [`bind_user`](Self::bind_user) until
    /// [`unbind_user`](Self::unbind_user), or until another frontend claims the user.
    fn is_bound(&self, uid: &str, sid: RawSid) -> bool;

    /// Removes one session of the user. Returns immediately; calls for sessions that are not bound have no effect.
    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid);

    /// Frontends: sends an event of a session to the servers that subscribed to it; to this server too, before the call returns, if it
    /// subscribed.
    fn publish_event(&self, event: SessionEvent);

    /// Whether this frontend currently cannot be sure that it owns its users ([`Node::fenced`]).
    fn is_fenced(&self) -> bool;

    /// Why this server cannot do its work although it is running and connected, as text for an operator: NATS denies a subject, etcd is
    /// full.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Numbers for metrics and tests.
    fn status(&self) -> Status;

    /// Leaves the list, so that no requests are routed here any more, and continues serving. First step of draining.
    fn withdraw(&self) -> BoxFuture<'_, ()>;

    /// Accepts no more requests of others, and waits until accepted ones are finished (up to the request timeout). Second step of a stop;
    /// this server's own calls, and session operations, continue.
    fn finish(&self) -> BoxFuture<'_, ()>;

    /// Leaves: withdraws, finishes accepted requests (up to the request timeout), and releases everything. A second call has no effect.
    fn leave(&self) -> BoxFuture<'_, ()>;
}
