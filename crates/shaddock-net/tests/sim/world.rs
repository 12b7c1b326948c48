//! The server: a listener in memory, and handlers that do what the test tells them.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use shaddock_core::{
    ClientInfo, CloseReason, Credentials, FrontendId, ResumeConfig, ResumeRefusal, SendError,
    Session, SessionConfig, SessionService, Sid, SidAllocator,
};
use shaddock_net::{
    BoxFuture, Carried, Frontend, ListenConfig, Listener, MaybeReady, Opened, Peer, Pipe,
    RelayAnswer, Relayed, ResumeTerms, TlsReloader, Verdict, Workers,
    memory::{Connector, timers_in_use},
};
use shaddock_protocol::{
    Codec, CodecConfig, Dialect, HandshakeRequest, Inbound, PackageType, RefuseReason, RejectCode,
    ResumeRequest, Route, encode_package,
};
use tokio::{runtime::Builder, sync::oneshot};

use crate::client::Client;

/// The action of a waiting handler when it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Answer,
    Panic,
}

/// A handler that waits for the test.
pub struct Gate {
    pub client: SocketAddr,
    open: oneshot::Sender<Then>,
}

/// The events and actions of the server.
#[derive(Default)]
pub struct Log {
    /// The messages that were accepted for each client, in order: bodies of DATA packages.
    pub accepted: HashMap<SocketAddr, Vec<Bytes>>,
    /// Requests given to a handler, by client.
    pub dispatched: HashMap<SocketAddr, Vec<u64>>,
    pub closed: HashMap<SocketAddr, Vec<CloseReason>>,
    pub sessions: Vec<Weak<Session>>,
    /// Sessions that have begun as their handshakes were accepted.
    begun: HashSet<Sid>,
    /// Handlers that wait, oldest first.
    pub gates: Vec<Gate>,
    /// Handlers that have ended by themselves.
    pub finished: usize,
    /// Bytes of memory that bodies of messages kept beyond their length.
    pub pinned: usize,
    /// Violations.
    pub violations: Vec<String>,
}

pub struct Script {
    pub codec: Arc<Codec>,
    pub sessions: SessionService,
    log: Arc<Mutex<Log>>,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Script {
    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Queues a push for one session, and notes what was accepted.
    pub fn push(&self, session: &Arc<Session>, body: &str) -> Result<(), SendError> {
        let package = self
            .codec
            .encode_push(session.variant().dialect(), "onPush", body.as_bytes())
            .unwrap();
        let address = session.client().address.unwrap();
        let result = session.send(package.clone());
        if result.is_ok() {
            self.accept(address, package.slice(4..));
        }
        result
    }

    fn accept(&self, address: SocketAddr, body: Bytes) {
        self.log().accepted.entry(address).or_default().push(body);
    }

    fn answer(self: &Arc<Self>, session: &Arc<Session>, id: u64, body: &[u8]) {
        let mut copy = Bytes::new();
        let sent = session.send_with(|out| {
            let begin = out.len();
            let encoded = self.codec.encode_response(
                session.variant().dialect(),
                id,
                "a.b.c",
                body,
                false,
                out,
            );
            copy = Bytes::copy_from_slice(&out[begin + 4..]);
            encoded
        });
        if sent.is_ok() {
            self.accept(session.client().address.unwrap(), copy);
        }
    }

    fn gate(&self, session: &Arc<Session>) -> oneshot::Receiver<Then> {
        let (open, wait) = oneshot::channel();
        let client = session.client().address.unwrap();
        self.log().gates.push(Gate { client, open });
        wait
    }
}

/// A value of the application whose destructor panics.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "expected: a destructor that panics"
        );
    }
}

/// A handler that panics when it is polled the second time.
struct PanicsLater(bool, Option<PanicsInDrop>);

impl Future for PanicsLater {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(!self.0, "expected: a handler that panics");
        self.0 = true;
        self.1 = Some(PanicsInDrop);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Sessions that can be resumed begin with something.
fn accept(request: &HandshakeRequest) -> Verdict {
    match request.resume {
        ResumeRequest::No => Verdict::Accept(None),
        _ => Verdict::AcceptWith(None, Box::new(())),
    }
}

/// The shared script that listeners call.
pub struct Front(pub Arc<Script>);

impl Frontend for Front {
    fn codec(&self) -> Arc<Codec> {
        self.0.codec.clone()
    }

    fn handshake(&self, _: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        match request.version.as_deref() {
            Some("late") => {
                let verdict = accept(request);
                MaybeReady::later(async {
                    pass(50).await;
                    verdict
                })
            }
            Some("long") => MaybeReady::Now(Verdict::Accept(Some("x".repeat(200_000).into()))),
            Some("no") => MaybeReady::Now(Verdict::Reject(RejectCode::Failed)),
            _ => MaybeReady::Now(accept(request)),
        }
    }

    fn begin(&self, session: &Arc<Session>, _: Carried) -> MaybeReady<()> {
        let mut log = self.0.log();
        if !log.begun.insert(session.id()) {
            log.violations.push(format!("{} began twice", session.id()));
        }
        MaybeReady::Now(())
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        if opened.handshake.version.as_deref() == Some("draining") {
            return Err(CloseReason::Draining);
        }
        let address = opened.peer.address;
        let info = ClientInfo {
            variant: opened.dialect.into(),
            transport: opened.peer.transport,
            address: Some(address),
            connected_at: shaddock_net::now(),
        };
        let session = match &opened.resume {
            Some(secret) => self.0.sessions.create_resumable(info, secret),
            None => self.0.sessions.create(info),
        };
        let log = self.0.log.clone();
        session
            .on_closed(move |_, reason| {
                let mut log = lock(&log);
                log.closed.entry(address).or_default().push(reason.clone());
            })
            .unwrap();
        self.0.log().sessions.push(Arc::downgrade(&session));
        Ok(session)
    }

    fn resume_terms(&self, _: &Peer, request: &HandshakeRequest) -> Option<ResumeTerms> {
        let config = &self.0.sessions.config().resume;
        if request.version.as_deref() == Some("no resume") {
            return None;
        }
        Some(ResumeTerms {
            window: config.window,
            ack: config.ack,
            address: None,
        })
    }

    fn resume_window(&self) -> Duration {
        self.0.sessions.config().resume.window
    }

    fn next_claim(&self) -> u64 {
        self.0.sessions.next_claim()
    }

    fn find_resumable(
        &self,
        _: &Peer,
        shown: &Credentials,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        self.0.sessions.find_resumable(shown, dialect)
    }

    fn before_resume(
        &self,
        _: &Arc<Session>,
        _: &Peer,
        request: &Arc<HandshakeRequest>,
        _: Option<&Carried>,
    ) -> MaybeReady<Result<(), ResumeRefusal>> {
        match request.version.as_deref() {
            Some("banned") => MaybeReady::Now(Err(ResumeRefusal::Denied)),
            Some("late") => MaybeReady::later(async {
                pass(50).await;
                Ok(())
            }),
            _ => MaybeReady::Now(Ok(())),
        }
    }

    fn resume_refused(&self, why: ResumeRefusal) {
        self.0.sessions.count_resume_refused(why);
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        let script = self.0.clone();
        let session = session.clone();
        let address = session.client().address.unwrap();
        if session.is_closed() {
            let line = format!("{address}: a message was served after the close");
            script.log().violations.push(line);
        }
        if session.resumable().is_some() && !script.log().begun.contains(&session.id()) {
            let line = format!("{address}: a message was served before its session began");
            script.log().violations.push(line);
        }
        let Inbound { id, route, body } = message;
        let id = id.map_or(0, std::num::NonZero::get);
        script.log().dispatched.entry(address).or_default().push(id);
        let text = format!(r#"{{"for":"{address}","id":{id}}}"#);
        let method = route.method().unwrap_or_default().to_owned();
        drop(route);
        let length = body.len();
        if let Ok(own) = body.try_into_mut() {
            script.log().pinned += own.capacity() - length;
        }
        match method.as_str() {
            "big" => {
                let filler = "x".repeat(16 * 1024);
                let text = format!(r#"{{"for":"{address}","id":{id},"x":"{filler}"}}"#);
                script.answer(&session, id, text.as_bytes());
                MaybeReady::Now(())
            }
            "wait" => {
                let wait = script.gate(&session);
                MaybeReady::later(async move {
                    match wait.await {
                        Ok(Then::Panic) => panic!("expected: a handler that panics"),
                        _ => script.answer(&session, id, text.as_bytes()),
                    }
                    script.log().finished += 1;
                })
            }
            "panic" => MaybeReady::later(PanicsLater(false, None)),
            "pushes" => {
                // A handler that pushes and waits, a part before and a part after.
                let wait = script.gate(&session);
                MaybeReady::later(async move {
                    let _ = script.push(&session, &text);
                    let _ = wait.await;
                    let _ = script.push(&session, &text);
                    script.answer(&session, id, text.as_bytes());
                    script.log().finished += 1;
                })
            }
            "kick" => {
                session.close(CloseReason::kicked("told to"));
                MaybeReady::Now(())
            }
            _ => {
                script.answer(&session, id, text.as_bytes());
                MaybeReady::Now(())
            }
        }
    }

    fn refused(
        &self,
        session: &Arc<Session>,
        id: std::num::NonZeroU64,
        _: Option<Route>,
        _: RefuseReason,
    ) {
        self.0.answer(session, id.get(), br#"{"code":500}"#);
    }
}

/// A server with its clients.
pub struct World {
    pub script: Arc<Script>,
    pub listener: Arc<Mutex<Option<Listener>>>,
    pub connector: Connector,
    /// Another frontend, which asks the first one for sessions.
    pub door: Option<(Listener, Connector)>,
    workers: Workers,
    /// Of both frontends.
    tls: Option<Arc<TlsReloader>>,
    clients: u16,
}

impl World {
    pub fn new(configure: impl FnOnce(&mut ListenConfig, &mut CodecConfig)) -> Self {
        let mut codec = CodecConfig::default().heartbeat(Duration::from_secs(3));
        let mut config = ListenConfig::new("127.0.0.1:3010".parse().unwrap());
        configure(&mut config, &mut codec);
        let sessions = SessionConfig::default().outbox_bytes(256 * 1024);
        Self::with_sessions(config, codec, sessions)
    }

    /// Sessions that outlive their sockets, with these bounds.
    pub fn resumable(resume: ResumeConfig, heartbeat: Option<Duration>) -> Self {
        Self::resumable_over(None, resume, heartbeat)
    }

    /// As [`resumable`](Self::resumable), over TLS if there is a certificate.
    pub fn resumable_over(
        tls: Option<Arc<TlsReloader>>,
        resume: ResumeConfig,
        heartbeat: Option<Duration>,
    ) -> Self {
        Self::resumable_with(resume, heartbeat, |config| config.tls = tls)
    }

    pub fn resumable_with(
        resume: ResumeConfig,
        heartbeat: Option<Duration>,
        configure: impl FnOnce(&mut ListenConfig),
    ) -> Self {
        let codec = CodecConfig::default().heartbeat(heartbeat);
        let mut config = ListenConfig::new("127.0.0.1:3010".parse().unwrap());
        config.limits.waiting_messages = 5;
        configure(&mut config);
        let sessions = SessionConfig::default()
            .outbox_bytes(256 * 1024)
            .resume(resume);
        Self::with_sessions(config, codec, sessions)
    }

    fn with_sessions(config: ListenConfig, codec: CodecConfig, sessions: SessionConfig) -> Self {
        let script = Arc::new(Script {
            codec: Arc::new(Codec::new(codec)),
            sessions: SessionService::new(
                FrontendId::new("front-1").unwrap(),
                SidAllocator::new(1, 1),
                sessions,
            ),
            log: Arc::default(),
        });
        let workers = Workers::on_this_thread(2);
        let tls = config.tls.clone();
        let front = Arc::new(Front(script.clone()));
        let (listener, connector) = Listener::in_memory(&workers, config, front).unwrap();
        Self {
            script,
            listener: Arc::new(Mutex::new(Some(listener))),
            connector,
            door: None,
            workers,
            tls,
            clients: 0,
        }
    }

    /// Opens another frontend of the same kind, which has no sessions.
    pub fn with_door(mut self) -> Self {
        let script = Arc::new(Script {
            codec: Arc::clone(&self.script.codec),
            sessions: SessionService::new(
                FrontendId::new("front-2").unwrap(),
                SidAllocator::new(2, 1),
                self.script.sessions.config().clone(),
            ),
            log: Arc::default(),
        });
        let door = Door {
            front: Front(script),
            home: Arc::clone(&self.listener),
        };
        let mut config = ListenConfig::new("127.0.0.1:3011".parse().unwrap());
        config.tls.clone_from(&self.tls);
        let door = Listener::in_memory(&self.workers, config, Arc::new(door)).unwrap();
        self.door = Some(door);
        self
    }

    pub fn plain() -> Self {
        Self::new(|_, _| ())
    }

    /// A client of its own address, connected.
    pub fn connect(&mut self, websocket: bool) -> Client {
        self.clients += 1;
        let n = self.clients;
        let [high, low] = n.to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 4000));
        let (socket, faults) = self.connector.connect(usize::from(n), address);
        Client::new(address, socket, faults, websocket)
    }

    /// A client with a session.
    pub async fn joined(&mut self, websocket: bool) -> Client {
        let mut client = self.connect(websocket);
        client.join("1");
        settle().await;
        client.read();
        settle().await;
        assert!(self.session(&client).is_some(), "{:?}", client.packages);
        client
    }

    pub fn session(&self, client: &Client) -> Option<Arc<Session>> {
        let mut found = None;
        self.script.sessions.for_each_session(|session| {
            if session.client().address == Some(client.address) {
                found = Some(session.clone());
            }
        });
        found
    }

    pub fn open_connections(&self) -> usize {
        let listener = lock_any(&self.listener);
        listener.as_ref().unwrap().open_connections()
    }

    pub fn closed(&self, client: &Client) -> Vec<CloseReason> {
        let log = self.script.log();
        log.closed.get(&client.address).cloned().unwrap_or_default()
    }

    pub fn dispatched(&self, client: &Client) -> Vec<u64> {
        let log = self.script.log();
        let ids = log.dispatched.get(&client.address).cloned();
        ids.unwrap_or_default()
    }

    /// Lets a handler that waits go on. False if there is none with that number.
    pub fn release(&self, number: usize, then: Then) -> bool {
        let mut log = self.script.log();
        if number >= log.gates.len() {
            return false;
        }
        let gate = log.gates.remove(number);
        drop(log);
        let _ = gate.open.send(then);
        true
    }

    /// Everything that must hold whenever the server has come to rest.
    pub fn check(&self, client: &mut Client) -> Result<(), String> {
        let log = self.script.log();
        if let Some(line) = log.violations.first() {
            return Err(line.clone());
        }
        let accepted = log.accepted.get(&client.address);
        client.check(accepted.map_or(&[], Vec::as_slice))?;
        if log.closed.get(&client.address).map_or(0, Vec::len) > 1 {
            return Err(format!("{}: closed twice", client.address));
        }
        Ok(())
    }

    /// Ends the simulation: after all clients have left, everything must have been released.
    pub async fn finish(mut self, clients: Vec<Client>) -> Result<(), String> {
        drop(clients);
        settle().await;
        while self.release(0, Then::Answer) {
            settle().await;
        }
        // Timers that wake the last ones.
        pass(30_000).await;
        if let Some((door, _)) = self.door.take() {
            let left = door.open_connections();
            if left > 0 {
                return Err(format!("{left} connections are left at the door"));
            }
            let ended = tokio::time::timeout(Duration::from_secs(60), door.closed()).await;
            ended.map_err(|_| "a connection at the door never ended")?;
        }
        let listener = lock_any(&self.listener).take().unwrap();
        let left = (
            listener.open_connections(),
            self.script.sessions.session_count(),
        );
        if left != (0, 0) {
            return Err(format!(
                "{} connections and {} sessions are left",
                left.0, left.1
            ));
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), listener.closed()).await;
        let log = self.script.log();
        if ended.is_err() {
            let gates: Vec<_> = log.gates.iter().map(|gate| gate.client).collect();
            return Err(format!(
                "a connection never ended; handlers wait of {gates:?}"
            ));
        }
        let alive = log.sessions.iter().filter(|s| s.strong_count() > 0).count();
        if alive > 0 {
            return Err(format!("{alive} closed sessions are still in memory"));
        }
        let told = log.closed.values().map(Vec::len).sum::<usize>();
        if told != log.sessions.len() {
            return Err(format!(
                "{} sessions, {told} times closed",
                log.sessions.len()
            ));
        }
        match timers_in_use() {
            0 => Ok(()),
            n => Err(format!("{n} timers are left")),
        }
    }
}

fn lock_any<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frontend whose clients have their sessions at another one.
struct Door {
    front: Front,
    home: Arc<Mutex<Option<Listener>>>,
}

impl Frontend for Door {
    fn codec(&self) -> Arc<Codec> {
        self.front.codec()
    }

    fn handshake(&self, peer: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        self.front.handshake(peer, request)
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        self.front.open(opened)
    }

    fn resume_terms(&self, peer: &Peer, request: &HandshakeRequest) -> Option<ResumeTerms> {
        self.front.resume_terms(peer, request)
    }

    fn resume_window(&self) -> Duration {
        self.front.resume_window()
    }

    fn find_elsewhere(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        _: Option<&serde_json::Value>,
        _: Option<&Carried>,
    ) -> Option<BoxFuture<Result<Option<Pipe>, ResumeRefusal>>> {
        let (answer, judged) = oneshot::channel();
        let (here, there) = Pipe::pair();
        here.write(&encode_package(PackageType::Handshake, &request.raw).unwrap());
        let relayed = Relayed {
            peer: *peer,
            user: None,
            carried: None,
            pipe: there,
            answer,
        };
        let home = lock_any(&self.home);
        assert!(home.as_ref().unwrap().take_in(Box::new(relayed)).is_ok());
        Some(Box::pin(async move {
            match judged.await {
                Ok(RelayAnswer::Accepted) => Ok(Some(here)),
                Ok(RelayAnswer::Refused(why)) => Err(why),
                Ok(RelayAnswer::Superseded) => Ok(None),
                Err(_) => Err(ResumeRefusal::Unknown),
            }
        }))
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        self.front.message(session, message)
    }

    fn refused(
        &self,
        session: &Arc<Session>,
        id: std::num::NonZeroU64,
        route: Option<Route>,
        reason: RefuseReason,
    ) {
        self.front.refused(session, id, route, reason);
    }
}

/// Lets so many milliseconds of the test's time pass, and the server do what it does in that time.
pub async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Lets the server do everything that it can do now; a millisecond passes.
pub async fn settle() {
    pass(1).await;
}

/// Runs a test on a thread of its own, with time that stands still unless everything waits.
pub fn run<T: Send + 'static>(test: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(test())
    });
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
