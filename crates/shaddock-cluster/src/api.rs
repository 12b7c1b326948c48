//! The two sides of the cluster: what a server gives to it, and what it gets.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    BindError, BoxFuture, ClusterError, Context, Delivered, Delivery, ForwardedSession, Interest,
    Located, MemberNotice, Members, RawSid, RemoteError, Reply, ServerId, ServerInfo,
    SessionAnswer, SessionEvent, SessionOp, Tie,
};

/// A message of a client that its frontend forwards to another server.
#[derive(Clone, Debug)]
pub struct ForwardedRequest {
    /// The full route as the client gave it: `type.service.method`.
    pub route: Arc<str>,
    /// The body, decompressed and decoded to JSON text, or raw. Otherwise untouched.
    pub body: Bytes,
    /// The client's number of the request. `None` is a notify: the answer is awaited but nothing of it reaches the client.
    pub id: Option<NonZeroU64>,
    /// The session as it is now.
    pub session: ForwardedSession,
    /// How long the frontend waits, and values that travel.
    pub context: Context,
}

/// A call from server to server (user RPC).
#[derive(Clone, Debug)]
pub struct RemoteCall {
    /// `type.service.method`; the receiver looks at `service.method` only.
    pub route: Arc<str>,
    /// The argument: JSON text, or a protobuf message for Pitaya servers. Empty is no argument.
    pub body: Bytes,
    /// The calling server. The cluster fills it in; a call that arrives without one has none.
    pub from: Option<ServerId>,
    /// How long the caller waits, and values that travel.
    pub context: Context,
}

/// What one server gives to the cluster. The framework implements it.
///
/// All methods may be called from any thread, at the same time. None may block. A panic in a future or method is answered
/// with `PIT-000` and harms nobody else.
///
/// A future may be dropped before it is done: when its caller is in this process and went away, or its deadline passed.
/// What must be finished belongs into a task of its own.
pub trait Node: Send + Sync + 'static {
    /// Runs the handler for a client message that a frontend forwarded, and answers with its result.
    ///
    /// Messages for routes that are known to be quick begin in the order in which one frontend sent them; what this returns may run at the same
    /// time. The first ones of a route, and those of one that has blocked its thread, begin in tasks of their own.
    fn serve_request(
        self: Arc<Self>,
        request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>>;

    /// Runs a remote. Calls begin as [messages](Self::serve_request) do.
    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>>;

    /// Does something to sessions of this frontend. It must not wait for a request of the same session that is still
    /// being answered: the handler may be the one who asks.
    fn session_op(
        self: Arc<Self>,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let _ = op;
        Box::pin(async { Err(crate::session::not_a_frontend()) })
    }

    /// Puts a message into the outboxes of its receivers, now: the order of calls is the order in which clients get them.
    fn deliver(&self, delivery: Delivery) -> Delivered {
        let _ = delivery;
        Delivered::default()
    }

    /// The wait for the connections that the last messages were [delivered](Self::deliver) to, if so much waits for one of them that it should
    /// have its turn before more is delivered. It ends soon, whatever clients do. `None`: no need to wait.
    fn room(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// This user was bound at another frontend of the same type, and sessions are unique: close the user's sessions here.
    fn bound_elsewhere(&self, uid: &Arc<str>, owner: Option<&ServerId>) {
        let _ = (uid, owner);
    }

    /// For a while this frontend cannot be sure that it still owns its users (`true`), or it is sure again (`false`).
    ///
    /// While it is not, the cluster forwards nothing in the name of a bound user whose session is unique, and hands over
    /// no message that is only for such users. The node does the same with what never leaves this server: its own
    /// handlers, its own pushes, and the bound receivers of a [`Receivers::All`](crate::Receivers::All). Those who were lost
    /// meanwhile come by [`bound_elsewhere`](Self::bound_elsewhere) before `false`.
    fn fenced(&self, fenced: bool) {
        let _ = fenced;
    }

    /// Another server has the id of this one, so this one is out of the cluster, for good: it was silent at etcd until its lease ended (it hung, or was cut
    /// off), and was replaced meanwhile. Nothing of it reaches others any more. The node closes its sessions and ends.
    fn expelled(&self, error: &ClusterError) {
        let _ = error;
    }

    /// Another server came or left after this one had joined. The list in [`Members`] is already the new one.
    fn member_changed(&self, change: MemberChange) {
        let _ = change;
    }

    /// Something happened to a session of a frontend of this type that this server asked for when it joined ([`Interest`]). Events of one
    /// session arrive in order. What happens before the frontend has this server in its list is not told.
    fn session_event(&self, frontend_type: &Arc<str>, event: SessionEvent) {
        let _ = (frontend_type, event);
    }

    /// Somebody has joined or left an audience that this server watches ([`SessionOp::Audiences`]).
    fn member_notice(&self, notice: MemberNotice) {
        let _ = notice;
    }
}

/// A server came or left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MemberChange {
    /// It is there and can be called.
    Joined(Arc<ServerInfo>),
    /// It said goodbye, or its lease ended.
    Left(Arc<ServerInfo>),
    /// It is back, after [`Joined`](Self::Joined) of it: the same life of a server that had counted as gone. It was away for longer than its lease (it
    /// hung, or was cut off), and a frontend still has its sessions. What was forgotten of it is to be remembered.
    Returned(Arc<ServerInfo>),
}

/// Whether a user may have several sessions on frontends of one type, across all of them. All servers of a type must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unique {
    /// They may.
    #[default]
    No,
    /// A second bind is refused.
    RejectNew,
    /// The older session is closed.
    ReplaceOld,
}

/// How a server takes part.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct JoinOptions {
    /// Frontends: whether sessions of a user are unique.
    pub unique: Unique,
    /// Which events [`Node::session_event`] is called with. A hidden server can ask for none but its own: the others do not know of it.
    pub session_events: Interest,
    /// Takes part without being listed: it can call, but nobody routes to it. For tools of operators.
    pub hidden: bool,
    /// Where the connection to the others is served. Default: where [`background`](Self::background) work runs.
    pub connection: Option<Handle>,
    /// Where the lease is kept and the list of servers is followed. Default: a thread of its own, which blocked code of the application does not stop.
    pub background: Option<Handle>,
}

impl JoinOptions {
    /// A listed server without unique sessions that asks for no events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether sessions are unique.
    #[must_use]
    pub fn unique(mut self, unique: Unique) -> Self {
        self.unique = unique;
        self
    }

    /// Asks for these events of sessions, besides what was asked for before.
    #[must_use]
    pub fn with_events_of(mut self, interest: Interest) -> Self {
        self.session_events = self.session_events.or(interest);
        self
    }

    /// Takes part without being listed.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Serves the connection to the others on this runtime: what is called from there, and what comes for it, wakes no other thread.
    ///
    /// Only what the cluster itself does with messages runs there, and the first step of requests, calls and session operations that
    /// are served. The runtime must live until the server has left.
    #[must_use]
    pub fn connection_on(mut self, runtime: Handle) -> Self {
        self.connection = Some(runtime);
        self
    }

    /// Does the cluster's own work on this runtime, and not on a thread of its own. For many servers in one process; while code blocks the threads
    /// of that runtime, others may take this server for dead.
    #[must_use]
    pub fn background_on(mut self, runtime: Handle) -> Self {
        self.background = Some(runtime);
        self
    }
}

/// A bind that counts in the cluster already. Dropped, it takes away what it has added, and nothing else: not the same session's seat if another bind
/// of it was kept.
#[must_use]
pub struct Bound(Option<End>);

type End = Box<dyn FnOnce(Option<&dyn Fn() -> bool>) -> bool + Send>;

impl Bound {
    /// `end` is called once: with a question when the bind is kept, and without one when it is undone. It says whether the user is still
    /// this frontend's.
    pub fn new(end: impl FnOnce(Option<&dyn Fn() -> bool>) -> bool + Send + 'static) -> Self {
        Self(Some(Box::new(end)))
    }

    /// Keeps the bind if the session is bound to the user at this moment; it may have closed since. The question is asked under a lock: it only
    /// looks at the session. False if another frontend has taken the user since the bind was made: then the session is to be closed.
    pub fn keep(mut self, is_bound: impl Fn() -> bool) -> bool {
        self.0.take().is_some_and(|end| end(Some(&is_bound)))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end(None);
        }
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

/// Servers that can find and call each other.
pub trait Cluster: Send + Sync + 'static {
    /// Lists a server and serves it from now on. When the future is done others can call it.
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

/// The place of one server in the cluster.
///
/// Futures that are returned own all they need. To drop one is to stop waiting: nothing is left behind here, and a request
/// that was sent may still be carried out.
///
/// Dropping the last `Arc` is leaving without a goodbye; call [`leave`](Self::leave).
pub trait Membership: Send + Sync + 'static {
    /// Who this server is, as others see it.
    fn info(&self) -> &Arc<ServerInfo>;

    /// Frontends: a number for this start of the server, to be a part of its session ids. Starts of frontends are counted, for
    /// all of the cluster, and this is the count modulo 65,536: it comes again 65,536 starts later. 0 for other servers.
    fn start_number(&self) -> u16;

    /// The servers that are there, this one included.
    fn members(&self) -> &Members;

    /// Servers that have left the list and are not gone yet: they serve what they have. As far as this server has heard; one
    /// that joined after their goodbye has not.
    fn departing(&self) -> Vec<Arc<ServerInfo>>;

    /// Forwards a client's message. It was sent (in one process: handed to the node) when this returns, before the future
    /// is polled: messages of one sender to one server arrive in the order of these calls.
    ///
    /// # Errors
    /// Of the answer: the handler's own, or one that says why there is none ([`RemoteErrorKind`](crate::RemoteErrorKind)). Nothing is tried twice.
    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> Reply;

    /// Calls a remote. It was sent when this returns, as by [`forward`](Self::forward).
    ///
    /// # Errors
    /// As for [`forward`](Self::forward).
    fn call(&self, to: &ServerInfo, call: RemoteCall) -> Reply;

    /// Asks a frontend to do something to a session.
    ///
    /// # Errors
    /// The frontend's, or [`NoServer`](crate::RemoteErrorKind::NoServer) if it is not there, or [`Refused`](crate::RemoteErrorKind::Refused) if it is a
    /// Pitaya server that has no such operation.
    fn session_op(
        &self,
        frontend: &ServerId,
        op: SessionOp,
        context: Context,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>>;

    /// Sends one message to clients of a frontend. It is on its way when this returns: messages of one sender reach a
    /// session in the order of these calls, whether or not the futures are awaited.
    ///
    /// # Errors
    /// As for [`session_op`](Self::session_op); then nobody or an unknown part got it.
    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>>;

    /// Whether a message can be sent to other servers: it may be too long for what carries it.
    ///
    /// # Errors
    /// [`Refused`](crate::RemoteErrorKind::Refused). [`deliver`](Self::deliver) would answer the same for every frontend but this one.
    fn check_delivery(&self, route: &str, body: &Bytes) -> Result<(), RemoteError> {
        let _ = (route, body);
        Ok(())
    }

    /// How long a push to another frontend waits for the answer.
    fn push_timeout(&self) -> std::time::Duration {
        std::time::Duration::MAX
    }

    /// As [`deliver`](Self::deliver), without an answer: half the messages between servers, and nobody says who was not
    /// there.
    ///
    /// # Errors
    /// The frontend is not there, or the link is down.
    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError>;

    /// Sends a message to users of whom only the type of their frontend is known. In order as [`deliver`](Self::deliver). Frontends that
    /// fail or do not answer in time are named in the result, and the others have it.
    ///
    /// # Errors
    /// It can be sent to no other server: it is too long.
    fn deliver_to_users(
        &self,
        frontend_type: &str,
        route: Arc<str>,
        body: Bytes,
        uids: Arc<[Arc<str>]>,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>>;

    /// Whether a frontend keeps audiences. One that does not (a Pitaya server) is sent the uids of members with every push.
    ///
    /// # Errors
    /// There is no such server, or it is no frontend.
    fn keeps_audiences(&self, frontend: &ServerId) -> Result<bool, RemoteError> {
        let _ = frontend;
        Ok(true)
    }

    /// Frontends, before the first member of a topic joins: lets pushes to the topic come here. When it is done, whatever is pushed later, by
    /// whichever server, comes here, until the value is dropped.
    ///
    /// # Errors
    /// The link is down.
    fn hold_topic(&self, topic: &str) -> BoxFuture<'static, Result<Tie, RemoteError>> {
        let _ = topic;
        Box::pin(std::future::ready(Ok(Arc::new(()) as Tie)))
    }

    /// Sends a message to the members of a topic ([`Receivers::Audience`](crate::Receivers::Audience)), on whichever frontends they are. It is on
    /// its way when this returns: messages of one sender to one topic arrive in the order of these calls. The future is done when
    /// more can be sent; nobody says who got it.
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

    /// Frontends: tells a server that asked for it who has joined or left. In order.
    ///
    /// # Errors
    /// The server is not there, or the link is down.
    fn tell_member(&self, to: &ServerId, notice: MemberNotice) -> Result<(), RemoteError> {
        let _ = (to, notice);
        Ok(())
    }

    /// Closes every session of the user on every frontend; the result is how many are known to be closed (a Pitaya
    /// frontend does not say).
    ///
    /// # Errors
    /// A frontend that might have the user did not answer.
    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>>;

    /// Where a user is connected now.
    ///
    /// # Errors
    /// A frontend that might have the user did not answer.
    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>>;

    /// Frontends, before they bind a session: makes the user reachable here and, if sessions are unique, settles who
    /// owns the user. When it is done, pushes to the user come here. The caller then
    /// 1. binds the session; if that failed it drops the value, which undoes what this call has added, and nothing else;
    /// 2. calls [`Bound::keep`], and closes the session if the answer is false: another frontend took the user between this
    ///    call and the bind, when [`Node::bound_elsewhere`] could not yet find the session;
    /// 3. calls [`unbind_user`](Self::unbind_user) once when the session is unbound or closed.
    ///
    /// Dropping the future is giving up: it undoes itself.
    ///
    /// # Errors
    /// [`BindError`]; then nothing has changed.
    fn bind_user(&self, uid: Arc<str>, sid: RawSid)
    -> BoxFuture<'static, Result<Bound, BindError>>;

    /// Whether this session of the user is still bound here, as far as the cluster knows: true from the end of
    /// [`bind_user`](Self::bind_user) until [`unbind_user`](Self::unbind_user), or until another frontend took the user.
    fn is_bound(&self, uid: &str, sid: RawSid) -> bool;

    /// Takes one session of the user away. Returns at once; calls for sessions that are not bound do nothing.
    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid);

    /// Frontends: tells the servers that asked for it what happened to a session. This server too, before the call returns, if it asked.
    fn publish_event(&self, event: SessionEvent);

    /// Whether this frontend cannot be sure now that it still owns its users ([`Node::fenced`]).
    fn is_fenced(&self) -> bool;

    /// Why this server cannot do its work although it runs and is connected, in words for an operator: NATS does not allow a subject, etcd is full.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Numbers for metrics and tests.
    fn status(&self) -> Status;

    /// Leaves the list, so that nobody routes here any more, and goes on serving what comes. First step of draining.
    fn withdraw(&self) -> BoxFuture<'_, ()>;

    /// Takes no more requests of others, and waits until those that were taken are answered (up to the request timeout). Second
    /// step of a stop; what this server asks of others, and session operations, go on.
    fn finish(&self) -> BoxFuture<'_, ()>;

    /// Leaves: withdraws, finishes what was taken (up to the request timeout), and lets go of everything. A second call
    /// does nothing.
    fn leave(&self) -> BoxFuture<'_, ()>;
}

/// What a membership holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The link for calls is up.
    pub connected: bool,
    /// The server is listed with a lease that is alive (in one process: has not left).
    pub listed: bool,
    /// Calls that wait for an answer.
    pub pending_calls: usize,
    /// Requests of others that are being served.
    pub serving: usize,
    /// Users bound here.
    pub bound_users: usize,
    /// Subscriptions held at NATS.
    pub subscriptions: usize,
    /// Requests answered with "busy" because too many were waiting.
    pub refused_busy: u64,
    /// Bytes that wait to be sent to others, because what carries them does not take them.
    pub waiting_bytes: usize,
    /// Messages that waited for longer than they were worth and were not sent.
    pub expired: u64,
    /// Servers that do not answer, as far as this one has seen.
    pub suspects: usize,
    /// How often a server was suspected.
    pub suspected: u64,
    /// Requests of others that were not run, because by the time their turn came their caller had given up.
    pub too_late: u64,
    /// Requests of others that were not run, because another frontend has come to own their user.
    pub outdated: u64,
    /// Bytes of the database of etcd, of the member that answered last. 0: none has.
    pub etcd_bytes: u64,
    /// How many of them are in use; the rest is free after a defragmentation.
    pub etcd_bytes_in_use: u64,
    /// etcd has reached its quota and takes no writes.
    pub etcd_full: bool,
    /// How long etcd surely keeps the lease of this server if it is not asked again; nothing in one process. Renewals begin at two thirds of
    /// the lease.
    pub lease_left: Option<std::time::Duration>,
}
