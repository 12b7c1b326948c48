//! An echo frontend on real sockets, and raw clients to talk to it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

#[path = "../../../shaddock-cluster/tests/support/wait.rs"]
pub mod wait;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZeroU64,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use shaddock_core::{
    ClientInfo, CloseReason, FrontendId, Session, SessionConfig, SessionService, SidAllocator,
};
use shaddock_net::{
    Frontend, ListenConfig, Listener, MaybeReady, NetStats, Opened, Peer, Verdict, Workers,
};
use shaddock_protocol::{
    Codec, CodecConfig, HandshakeRequest, Inbound, Limits, Package, PackageReader, PackageType,
    RefuseReason, Route, encode_package,
};
use tokio::sync::Semaphore;
use wait::{PATIENCE, found};

pub const HANDSHAKE: &[u8] = br#"{"sys":{"type":"test","version":"1"}}"#;

/// Echoes every request. Some routes do something else, see `message`.
pub struct Echo {
    pub codec: Arc<Codec>,
    pub sessions: SessionService,
    /// Handlers of the route `slow` that have begun, and how many may end: one for each permit.
    pub running: Arc<AtomicUsize>,
    pub gate: Arc<Semaphore>,
    pub finished: Arc<AtomicUsize>,
    pub closed: Arc<Mutex<Vec<CloseReason>>>,
}

impl Frontend for Echo {
    fn codec(&self) -> Arc<Codec> {
        self.codec.clone()
    }

    fn handshake(&self, _: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        match request.version.as_deref() {
            Some("late") => MaybeReady::later(async {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                Verdict::Accept(None)
            }),
            _ => MaybeReady::Now(Verdict::Accept(None)),
        }
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        if opened.handshake.version.as_deref() == Some("refused") {
            return Err(CloseReason::Draining);
        }
        let session = self.sessions.create(ClientInfo {
            variant: opened.dialect.into(),
            transport: opened.peer.transport,
            address: Some(opened.peer.address),
            connected_at: shaddock_net::now(),
        });
        let closed = self.closed.clone();
        session
            .on_closed(move |_, reason| closed.lock().unwrap().push(reason.clone()))
            .unwrap();
        Ok(session)
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        let session = session.clone();
        let codec = self.codec.clone();
        let method = message.route.method().unwrap_or_default().to_owned();
        let answer = move |session: &Arc<Session>| {
            if let Some(id) = message.id {
                let _ = session.send_with(|out| {
                    codec.encode_response(
                        session.variant().dialect(),
                        id.get(),
                        message.route.as_str(),
                        &message.body,
                        false,
                        out,
                    )
                });
            }
        };
        match method.as_str() {
            "slow" => {
                let (running, finished) = (self.running.clone(), self.finished.clone());
                let gate = self.gate.clone();
                MaybeReady::later(async move {
                    running.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    answer(&session);
                    finished.fetch_add(1, Ordering::SeqCst);
                })
            }
            "never" => MaybeReady::later(std::future::pending()),
            "kick" => {
                session.close(CloseReason::kicked("told to"));
                MaybeReady::Now(())
            }
            _ => {
                answer(&session);
                MaybeReady::Now(())
            }
        }
    }

    fn refused(&self, session: &Arc<Session>, id: NonZeroU64, _: Option<Route>, _: RefuseReason) {
        let _ = session.send_with(|out| {
            self.codec.encode_response(
                session.variant().dialect(),
                id.get(),
                "",
                br#"{"code":500}"#,
                true,
                out,
            )
        });
    }
}

pub struct Server {
    pub runtime: tokio::runtime::Runtime,
    pub listener: Option<Listener>,
    pub workers: Option<Workers>,
    pub echo: Arc<Echo>,
    pub address: SocketAddr,
}

pub fn limits() -> Limits {
    Limits::default()
}

pub fn start() -> Server {
    start_with(|_| {}, limits(), |_| {})
}

pub fn start_with(
    configure: impl FnOnce(&mut ListenConfig),
    limits: Limits,
    sessions: impl FnOnce(&mut SessionConfig),
) -> Server {
    let mut session_config = SessionConfig::default();
    sessions(&mut session_config);
    let codec = Codec::new(CodecConfig::default().limits(limits));
    let echo = Arc::new(Echo {
        codec: Arc::new(codec),
        sessions: SessionService::new(
            FrontendId::new("front-1").unwrap(),
            SidAllocator::new(1, 1),
            session_config,
        ),
        running: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
        finished: Arc::default(),
        closed: Arc::default(),
    });
    let workers = Workers::start(2).unwrap();
    let mut config = ListenConfig::new("127.0.0.1:0".parse().unwrap());
    configure(&mut config);
    let listener = Listener::start(&workers, config, echo.clone()).unwrap();
    Server {
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap(),
        address: listener.local_addr(),
        listener: Some(listener),
        workers: Some(workers),
        echo,
    }
}

impl Server {
    pub fn stats(&self) -> NetStats {
        self.listener.as_ref().unwrap().stats()
    }

    pub fn open_connections(&self) -> usize {
        self.listener.as_ref().unwrap().open_connections()
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        found(what, || condition(self).then_some(()));
    }

    /// Waits until so many handlers of the route `slow` have begun.
    #[track_caller]
    pub fn until_running(&self, count: usize) {
        self.until("handlers run", |s| {
            s.echo.running.load(Ordering::SeqCst) == count
        });
    }

    /// Sends bytes one by one: the next one when the server has read the one before.
    #[track_caller]
    pub fn trickle(&self, stream: &mut TcpStream, bytes: &[u8]) {
        for byte in bytes {
            let before = self.stats().bytes_in;
            stream.write_all(&[*byte]).unwrap();
            self.until("a byte is read", |s| s.stats().bytes_in > before);
        }
    }

    /// After a test every connection and every session must be gone.
    #[track_caller]
    pub fn finish(mut self) {
        self.until("all connections are gone", |s| s.open_connections() == 0);
        assert_eq!(self.echo.sessions.session_count(), 0);
        let (listener, workers) = (self.listener.take().unwrap(), self.workers.take().unwrap());
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, listener.closed())
                .await
                .expect("every connection task has ended");
            workers.shutdown().await;
        });
    }
}

/// A client that writes what it is told and reads packages.
pub struct Client<S> {
    pub stream: S,
    reader: PackageReader,
    input: Bytes,
}

pub fn connect(server: &Server) -> Client<TcpStream> {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Client::new(stream)
}

pub fn joined(server: &Server) -> Client<TcpStream> {
    let mut client = connect(server);
    client.join();
    client
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            reader: PackageReader::new(),
            input: Bytes::new(),
        }
    }

    pub fn send(&mut self, kind: PackageType, body: &[u8]) {
        self.stream.write_all(&package(kind, body)).unwrap();
    }

    pub fn join(&mut self) {
        self.send(PackageType::Handshake, HANDSHAKE);
        let answer = self.next().unwrap().expect("a handshake answer");
        assert_eq!(answer.kind, PackageType::Handshake);
        assert!(answer.body.starts_with(br#"{"code":200"#), "{answer:?}");
        self.send(PackageType::HandshakeAck, b"");
    }

    /// The next package that is not a heartbeat; `None` when the server has closed.
    pub fn next(&mut self) -> io::Result<Option<Package>> {
        loop {
            if let Some(package) = self.reader.next(&mut self.input, 1 << 24).unwrap() {
                if package.kind == PackageType::Heartbeat {
                    continue;
                }
                return Ok(Some(package));
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(None);
            }
            self.input = Bytes::copy_from_slice(&buffer[..n]);
        }
    }

    /// Sends a request and returns the body of the answer, which must have the same id.
    pub fn request(&mut self, id: u8, route: &str, body: &str) -> String {
        self.stream.write_all(&request(id, route, body)).unwrap();
        self.answer(id)
    }

    pub fn answer(&mut self, id: u8) -> String {
        let package = self.next().unwrap().expect("an answer, not the end");
        assert_eq!(package.kind, PackageType::Data);
        assert_eq!(package.body[..2], [0x04, id], "{package:?}");
        String::from_utf8(package.body[2..].to_vec()).unwrap()
    }

    /// Reads until the server closes; returns the packages before that.
    pub fn rest(&mut self) -> Vec<Package> {
        let mut rest = Vec::new();
        loop {
            match self.next() {
                Ok(Some(package)) => rest.push(package),
                Ok(None) => return rest,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return rest,
                Err(error) => panic!("the server neither wrote nor closed: {error}"),
            }
        }
    }
}

pub fn package(kind: PackageType, body: &[u8]) -> Bytes {
    encode_package(kind, body).unwrap()
}

/// A request with a small id, as a whole DATA package.
pub fn request(id: u8, route: &str, body: &str) -> Bytes {
    let mut message = BytesMut::new();
    message.extend_from_slice(&[0x00, id, u8::try_from(route.len()).unwrap()]);
    message.extend_from_slice(route.as_bytes());
    message.extend_from_slice(body.as_bytes());
    package(PackageType::Data, &message)
}
