//! A node for tests: handlers and remotes by name, and on frontends sessions that remember what they were sent.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use serde_json::{Map, Value};
use shaddock_cluster::{
    AudienceKey, AudiencePart, BoxFuture, Cluster, ClusterError, Context, Delivered, Delivery,
    ForwardedRequest, ForwardedSession, JoinAnswer, JoinOptions, MemberChange, MemberNotice,
    Membership, Node, RawSid, Receivers, RemoteCall, RemoteError, ServerId, ServerInfo,
    SessionAnswer, SessionData, SessionEvent, SessionOp,
};
use tokio::sync::Semaphore;

pub type Block = (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

pub struct TestNode {
    pub state: Mutex<State>,
    /// The gate of handlers named `gate`.
    gate: Semaphore,
    /// The notification of the handler "block", and the event for which it blocks its thread.
    pub block: Mutex<Option<Block>>,
    /// Weak, so that a crash is the end of it.
    membership: OnceLock<Weak<dyn Membership>>,
}

impl Default for TestNode {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            gate: Semaphore::new(0),
            block: Mutex::default(),
            membership: OnceLock::new(),
        }
    }
}

#[derive(Default)]
pub struct State {
    pub sessions: BTreeMap<u64, Session>,
    pub requests: Vec<ForwardedRequest>,
    pub calls: Vec<RemoteCall>,
    pub joined: Vec<String>,
    pub left: Vec<String>,
    pub returned: Vec<String>,
    pub events: Vec<SessionEvent>,
    /// The types of their frontends.
    pub event_types: Vec<String>,
    pub lost: Vec<String>,
    pub fenced: Vec<bool>,
    pub expelled: Vec<String>,
    /// Deliveries to audiences: which, except whom, and the body.
    pub heard: Vec<(AudienceKey, Option<String>, String)>,
    pub notices: Vec<MemberNotice>,
    /// Operations on audiences, as text.
    pub audience_ops: Vec<String>,
    /// Operations that never end.
    pub stuck: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Session {
    pub uid: Option<Arc<str>>,
    pub data: Map<String, Value>,
    pub got: Vec<(String, String)>,
    pub closed: Option<String>,
}

/// A server under test.
pub struct Server {
    pub node: Arc<TestNode>,
    pub member: Arc<dyn Membership>,
}

impl Server {
    pub async fn join(
        cluster: &dyn Cluster,
        id: &str,
        server_type: &str,
        options: JoinOptions,
    ) -> Self {
        let frontend = server_type.starts_with("connector");
        let info = ServerInfo::new(id, server_type, frontend).unwrap();
        let node = Arc::new(TestNode::default());
        let member = cluster
            .join(info, options, Arc::clone(&node) as Arc<dyn Node>)
            .await
            .unwrap();
        let _ = node.membership.set(Arc::downgrade(&member));
        Self { node, member }
    }

    pub fn id(&self) -> ServerId {
        self.member.info().id.clone()
    }

    pub fn info(&self) -> &ServerInfo {
        self.member.info()
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.node.state.lock().unwrap()
    }

    /// Lets the handlers named `gate` answer, those that wait and those that come.
    pub fn open_gate(&self) {
        self.node.gate.close();
    }

    /// Waits until this server has heard of another.
    pub async fn sees(&self, other: &str) {
        super::until(&format!("{} sees {other}", self.id()), || {
            self.member.members().server(other).is_some()
        })
        .await;
    }

    /// Waits until the node of this server was notified of another.
    pub async fn is_told_of(&self, other: &str) {
        super::until(&format!("{} is told of {other}", self.id()), || {
            self.state().joined.iter().any(|id| id == other)
        })
        .await;
    }

    /// A client connects.
    pub fn open(&self, sid: u64) {
        self.state().sessions.insert(sid, Session::default());
    }

    /// A client disconnects.
    pub fn close(&self, sid: u64) {
        let uid = self
            .state()
            .sessions
            .remove(&sid)
            .and_then(|session| session.uid);
        if let Some(uid) = uid {
            self.member.unbind_user(&uid, raw(sid));
        }
    }

    pub async fn bind(&self, sid: u64, uid: &str) -> Result<(), RemoteError> {
        self.node.bind(raw(sid), uid.into()).await
    }

    /// Bodies that a session got.
    pub fn got(&self, sid: u64) -> Vec<String> {
        self.state().sessions[&sid]
            .got
            .iter()
            .map(|(_, body)| body.clone())
            .collect()
    }

    pub fn uid(&self, sid: u64) -> Option<String> {
        self.state()
            .sessions
            .get(&sid)
            .and_then(|session| session.uid.as_ref().map(ToString::to_string))
    }

    pub fn closed(&self, sid: u64) -> Option<String> {
        self.state()
            .sessions
            .get(&sid)
            .and_then(|session| session.closed.clone())
    }

    /// Crashes: no goodbye, the connections just close.
    pub fn crash(self) {}

    pub async fn request(
        &self,
        to: &ServerInfo,
        route: &str,
        body: &str,
    ) -> Result<Bytes, RemoteError> {
        self.member.forward(to, request(route, body)).await
    }
}

/// Requests from one are answered by the other.
pub async fn works(front: &Server, back: &Server) {
    let answer = front.request(back.info(), "chat.room.echo", "on").await;
    assert_eq!(answer.unwrap(), "on");
}

pub fn raw(sid: u64) -> RawSid {
    NonZeroU64::new(sid).unwrap()
}

/// A client's message, from an unbound session 1.
pub fn request(route: &str, body: &str) -> ForwardedRequest {
    ForwardedRequest {
        route: route.into(),
        body: body.to_owned().into(),
        id: NonZeroU64::new(3),
        session: ForwardedSession {
            sid: Some(raw(1)),
            ..ForwardedSession::default()
        },
        context: Context::new(),
    }
}

pub fn call(route: &str, body: &str) -> RemoteCall {
    RemoteCall {
        route: route.into(),
        body: body.to_owned().into(),
        from: None,
        context: Context::new(),
    }
}

pub fn delivery(body: &str, to: Receivers) -> Delivery {
    Delivery {
        route: "onChat".into(),
        body: body.to_owned().into(),
        latest: None,
        to,
    }
}

pub fn uids(uids: &[&str]) -> Receivers {
    Receivers::Uids(uids.iter().map(|uid| Arc::from(*uid)).collect())
}

impl TestNode {
    fn member(&self) -> Arc<dyn Membership> {
        self.membership
            .get()
            .expect("joined")
            .upgrade()
            .expect("still a member")
    }

    /// As a framework does: the cluster first, then the session, then a look whether the user is still ours.
    async fn bind(&self, sid: RawSid, uid: Arc<str>) -> Result<(), RemoteError> {
        match self.state.lock().unwrap().sessions.get(&sid.get()) {
            None => return Err(RemoteError::session_not_found()),
            Some(session) if session.uid.is_some() => {
                return Err(RemoteError::new("", "session is already bound to an uid"));
            }
            Some(_) => {}
        }
        let bound = self.member().bind_user(Arc::clone(&uid), sid).await;
        let bound = bound.map_err(|e| RemoteError::new("", e.to_string()))?;
        match self.state.lock().unwrap().sessions.get_mut(&sid.get()) {
            Some(session) if session.closed.is_none() => session.uid = Some(Arc::clone(&uid)),
            _ => return Err(RemoteError::session_not_found()),
        }
        let is_bound = || {
            let state = self.state.lock().unwrap();
            let session = state.sessions.get(&sid.get());
            session.is_some_and(|session| session.uid.as_ref() == Some(&uid))
        };
        if !bound.keep(is_bound) {
            self.kick(
                |s, session| s == sid.get() && session.uid.is_some(),
                "replaced",
            );
            return Err(RemoteError::new("", "replaced"));
        }
        Ok(())
    }

    fn kick(&self, which: impl Fn(u64, &Session) -> bool, reason: &str) -> u32 {
        let mut closed = Vec::new();
        for (sid, session) in &mut self.state.lock().unwrap().sessions {
            if session.closed.is_none() && which(*sid, session) {
                session.closed = Some(reason.to_owned());
                closed.push((*sid, session.uid.take()));
            }
        }
        for (sid, uid) in &closed {
            if let (Some(uid), Some(member)) = (uid, self.membership.get().and_then(Weak::upgrade))
            {
                member.unbind_user(uid, raw(*sid));
            }
        }
        u32::try_from(closed.len()).unwrap()
    }

    fn export(&self, which: impl Fn(u64, &Session) -> bool) -> SessionAnswer {
        let frontend = self.member().info().id.clone();
        let state = self.state.lock().unwrap();
        let open = state
            .sessions
            .iter()
            .filter(|(sid, session)| session.closed.is_none() && which(**sid, session));
        SessionAnswer::Sessions(
            open.map(|(sid, session)| ForwardedSession {
                frontend: Some(frontend.clone()),
                sid: Some(raw(*sid)),
                uid: session.uid.clone(),
                data: SessionData::from(Arc::new(session.data.clone())),
            })
            .collect(),
        )
    }

    fn write(
        &self,
        sid: RawSid,
        edit: impl FnOnce(&mut Session),
    ) -> Result<SessionAnswer, RemoteError> {
        let mut state = self.state.lock().unwrap();
        let session = state
            .sessions
            .get_mut(&sid.get())
            .filter(|s| s.closed.is_none());
        edit(session.ok_or_else(RemoteError::session_not_found)?);
        Ok(SessionAnswer::Done)
    }

    async fn operate(&self, op: SessionOp) -> Result<SessionAnswer, RemoteError> {
        match op {
            SessionOp::Bind { sid, uid } => self.bind(sid, uid).await.map(|()| SessionAnswer::Done),
            SessionOp::Unbind { sid, uid } => {
                let answer = self.write(sid, |session| session.uid = None);
                self.member().unbind_user(&uid, sid);
                answer
            }
            SessionOp::Merge {
                sid,
                changes,
                removed,
                ..
            } => self.write(sid, |session| {
                session.data.retain(|key, _| !removed.contains(key));
                session
                    .data
                    .extend(changes.iter().map(|(k, v)| (k.clone(), v.clone())));
            }),
            SessionOp::Replace { sid, data } => {
                let map = data
                    .to_map()
                    .map_err(|e| RemoteError::new("PIT-400", e.to_string()))?;
                self.write(sid, |session| {
                    if !data.is_missing() {
                        session.data.clone_from(&map);
                    }
                })
            }
            SessionOp::Kick { sid, reason, .. } => {
                let reason = reason.as_deref().unwrap_or("none");
                Ok(SessionAnswer::Kicked(
                    self.kick(|s, _| s == sid.get(), reason),
                ))
            }
            SessionOp::KickUser { uid, reason } => {
                let reason = reason.as_deref().unwrap_or("none");
                Ok(SessionAnswer::Kicked(self.kick(
                    |_, session| session.uid.as_ref() == Some(&uid),
                    reason,
                )))
            }
            SessionOp::Get { sid } => Ok(self.export(|s, _| s == sid.get())),
            SessionOp::GetByUid { uid } => {
                Ok(self.export(|_, session| session.uid.as_ref() == Some(&uid)))
            }
            SessionOp::ClientAddress { sid } => {
                let known = self.state.lock().unwrap().sessions.contains_key(&sid.get());
                Ok(SessionAnswer::Address(
                    known.then(|| "127.0.0.1:4000".parse().unwrap()),
                ))
            }
            SessionOp::Custom { name, argument } => match &*name {
                "mirror" => Ok(SessionAnswer::Custom(argument)),
                "never" => {
                    self.state.lock().unwrap().stuck += 1;
                    std::future::pending().await
                }
                other => panic!("{other}"),
            },
            of_audiences => Ok(self.operate_audience(of_audiences)),
        }
    }

    /// Notes the operation, and answers with what it can be told apart by.
    fn operate_audience(&self, op: SessionOp) -> SessionAnswer {
        let text = format!("{op:?}");
        self.state.lock().unwrap().audience_ops.push(text);
        match op {
            SessionOp::Join { uid, .. } => SessionAnswer::Joined(match &*uid {
                "new" => JoinAnswer::Joined,
                "known" => JoinAnswer::Already,
                "unbound" => JoinAnswer::NotBound,
                "closed" => JoinAnswer::Closed,
                _ => JoinAnswer::Refused("because".into()),
            }),
            SessionOp::Audiences { prefixes, .. } => SessionAnswer::Audiences {
                parts: prefixes
                    .iter()
                    .map(|prefix| AudiencePart {
                        audience: prefix.as_str().into(),
                        uids: vec!["a".into(), "\u{e4} *".into()],
                        count: 1 << 40,
                    })
                    .collect(),
                more: true,
                notices: u64::MAX,
            },
            SessionOp::Audience { audience, .. } => SessionAnswer::Audiences {
                parts: vec![AudiencePart {
                    audience: audience.shared().clone(),
                    ..AudiencePart::default()
                }],
                more: false,
                notices: 0,
            },
            _ => SessionAnswer::Count(7),
        }
    }

    /// Handlers and remotes, by the last part of the route.
    async fn handle(
        &self,
        route: &str,
        body: Bytes,
        context: Context,
    ) -> Result<Bytes, RemoteError> {
        match route.rsplit('.').next().unwrap() {
            "echo" => Ok(body),
            "who" => Ok(self.member().info().id.as_str().to_owned().into()),
            "fail" => Err(RemoteError::new("E-7", "as asked")
                .with("a", "1")
                .with("b", "2")),
            "panic" => panic!("as asked"),
            "never" => std::future::pending().await,
            "block" => {
                let block = self.block.lock().unwrap().take();
                if let Some((began, until)) = block {
                    began.send(()).unwrap();
                    until.recv().unwrap();
                }
                Ok(body)
            }
            "gate" => {
                // Closed: it is open.
                let _ = self.gate.acquire().await;
                Ok(body)
            }
            "big" => Ok(vec![b'x'; String::from_utf8_lossy(&body).parse().unwrap()].into()),
            "context" => Ok(context
                .get(&String::from_utf8_lossy(&body))
                .map_or_else(Bytes::new, |v| v.to_string().into())),
            "timeout" => Ok(format!("{:?}", context.timeout()).into()),
            _ => Err(RemoteError::handler_not_found(route)),
        }
    }
}

impl Node for TestNode {
    fn serve_request(
        self: Arc<Self>,
        request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        self.state.lock().unwrap().requests.push(request.clone());
        Box::pin(async move {
            self.handle(&request.route, request.body, request.context)
                .await
        })
    }

    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        self.state.lock().unwrap().calls.push(call.clone());
        Box::pin(async move { self.handle(&call.route, call.body, call.context).await })
    }

    fn session_op(
        self: Arc<Self>,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        Box::pin(async move { self.operate(op).await })
    }

    fn deliver(&self, delivery: Delivery) -> Delivered {
        let mut state = self.state.lock().unwrap();
        let mut delivered = Delivered::default();
        let message = (
            delivery.route.to_string(),
            String::from_utf8_lossy(&delivery.body).into_owned(),
        );
        let open = |session: &Session| session.closed.is_none();
        if &*delivery.route == "cannot be written" {
            delivered.refused = Some("because".into());
            return delivered;
        }
        match delivery.to {
            Receivers::Uids(uids) => {
                for uid in uids.iter() {
                    let mut found = false;
                    for session in state.sessions.values_mut() {
                        if open(session) && session.uid.as_ref() == Some(uid) {
                            session.got.push(message.clone());
                            delivered.queued += 1;
                            found = true;
                        }
                    }
                    if !found {
                        delivered.missing_uids.push(Arc::clone(uid));
                    }
                }
            }
            Receivers::Sids(sids) => {
                for sid in sids.iter() {
                    match state
                        .sessions
                        .get_mut(&sid.get())
                        .filter(|session| open(session))
                    {
                        Some(session) => {
                            session.got.push(message.clone());
                            delivered.queued += 1;
                        }
                        None => delivered.missing_sids.push(*sid),
                    }
                }
            }
            Receivers::All { bound_only } => {
                let fenced = self.member().is_fenced();
                for session in state.sessions.values_mut() {
                    let bound = session.uid.is_some();
                    if open(session) && (!bound_only || bound) && !(fenced && bound) {
                        session.got.push(message.clone());
                        delivered.queued += 1;
                    }
                }
            }
            Receivers::Audience {
                key,
                except,
                name_missing,
            } => {
                let except = except.map(|uid| uid.to_string());
                if message.1 == "no member gets it" {
                    delivered.missing_uids =
                        (0..1000).map(|n| format!("{n:0>50}").into()).collect();
                    delivered.missing = 1000;
                    delivered.queued = 3;
                    return delivered;
                }
                state.heard.push((key, except, message.1));
                delivered.queued = 3;
                delivered.missing = 2;
                delivered.no_audience = !name_missing;
                if name_missing {
                    delivered.missing_uids = vec!["x".into(), "y".into()];
                }
            }
            _ => {}
        }
        delivered
    }

    fn member_notice(&self, notice: MemberNotice) {
        self.state.lock().unwrap().notices.push(notice);
    }

    fn bound_elsewhere(&self, uid: &Arc<str>, _owner: Option<&ServerId>) {
        self.state.lock().unwrap().lost.push(uid.to_string());
        self.kick(|_, session| session.uid.as_ref() == Some(uid), "replaced");
    }

    fn fenced(&self, fenced: bool) {
        self.state.lock().unwrap().fenced.push(fenced);
    }

    fn expelled(&self, error: &ClusterError) {
        self.kick(|_, _| true, "expelled");
        self.state.lock().unwrap().expelled.push(error.to_string());
    }

    fn member_changed(&self, change: MemberChange) {
        let mut state = self.state.lock().unwrap();
        match change {
            MemberChange::Joined(info) => state.joined.push(info.id.to_string()),
            MemberChange::Left(info) => state.left.push(info.id.to_string()),
            MemberChange::Returned(info) => state.returned.push(info.id.to_string()),
            _ => {}
        }
    }

    fn session_event(&self, frontend_type: &Arc<str>, event: SessionEvent) {
        let mut state = self.state.lock().unwrap();
        state.events.push(event);
        state.event_types.push(frontend_type.to_string());
    }
}
