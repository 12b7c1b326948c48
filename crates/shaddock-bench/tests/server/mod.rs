//! A small server with configurable faults. One thread per connection: it is not measured.
#![expect(clippy::unwrap_used, reason = "a server for tests")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use shaddock_protocol::{
    MAX_BODY, Message, MessageType, PackageReader, PackageType, WireRoute, deflate_zlib,
    encode_package,
};

/// As servers of Pomelo and of this project write it.
const WITH_A_SCHEMA: &[u8] = br#"{"code":200,"sys":{"heartbeat":60,"protos":{"server":{"bench.echo.echo":{"optional string i":1}},"client":{},"version":1}}}"#;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    Good,
    ChangesOneByte,
    RefusesBinds,
    LosesBinds,
    ClosesAtBinds,
    /// Of each connection.
    LosesEveryTenth,
    /// Of each connection; and whatever comes behind it is late too.
    SleepsAtTenth(Duration),
    AnswersTwice,
    /// Those of one read.
    AnswersBackwards,
    ClosesAfterTen,
    RefusesHandshakes,
    Silent,
    /// The answer to the handshake and all bodies, as Pitaya does.
    Compresses,
    /// Has a dictionary, and uses it in pushes.
    SendsCodes,
    /// Answers with something of its own.
    AnswersItsOwn,
    /// Has a schema for what `bench.echo.echo` answers with.
    HasASchema,
    /// Before every read: the answers of a while come together.
    SleepsNow(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
    Ws,
}

/// The bytes that wait to be written to a connection.
type Outbox = Arc<Mutex<Vec<u8>>>;

/// Ends with its last use.
pub(crate) struct Server {
    transport: Transport,
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    manners: Manners,
    connections: AtomicUsize,
    ended: AtomicBool,
    /// The destination of pushes.
    bound: Mutex<Vec<(usize, Outbox)>>,
}

impl Server {
    pub(crate) fn tcp(manners: Manners) -> Self {
        Self::start(manners, Transport::Tcp)
    }

    pub(crate) fn tls(manners: Manners) -> Self {
        Self::start(manners, Transport::Tls)
    }

    pub(crate) fn ws(manners: Manners) -> Self {
        Self::start(manners, Transport::Ws)
    }

    pub(crate) fn url(&self) -> String {
        let scheme = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    fn start(manners: Manners, transport: Transport) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            manners,
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            bound: Mutex::default(),
        });
        let tls = (transport == Transport::Tls).then(tls_config);
        let of_acceptor = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if of_acceptor.ended.load(Ordering::Relaxed) {
                    return;
                }
                let number = of_acceptor.connections.fetch_add(1, Ordering::Relaxed);
                let (shared, tls) = (Arc::clone(&of_acceptor), tls.clone());
                thread::spawn(move || {
                    socket
                        .set_read_timeout(Some(Duration::from_millis(1)))
                        .unwrap();
                    match (transport, tls) {
                        (Transport::Ws, _) => serve(WebSocket::new(socket), number, &shared),
                        (_, Some(config)) => {
                            let tls = ServerConnection::new(config).unwrap();
                            serve(StreamOwned::new(tls, socket), number, &shared);
                        }
                        _ => serve(socket, number, &shared),
                    }
                });
            }
        });
        Self {
            transport,
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

fn tls_config() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

fn serve(mut stream: impl Read + Write, number: usize, shared: &Shared) {
    let outbox = Outbox::default();
    let mut reader = PackageReader::new();
    let mut buffer = [0; 4096];
    let mut requests = 0;
    'connection: loop {
        if let Manners::SleepsNow(time) = shared.manners {
            thread::sleep(time);
        }
        let mut input = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => Bytes::copy_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Bytes::new()
            }
            Err(_) => break,
        };
        let mut answers = Vec::new();
        while let Some(package) = reader.next(&mut input, MAX_BODY).unwrap() {
            match (package.kind, shared.manners) {
                (_, Manners::Silent) => {}
                (PackageType::Handshake, Manners::RefusesHandshakes) => {
                    let refusal =
                        encode_package(PackageType::Handshake, br#"{"code":500}"#).unwrap();
                    let _ = stream.write_all(&refusal);
                    break 'connection;
                }
                (PackageType::Handshake, _) => {
                    let body = br#"{"code":200,"sys":{"heartbeat":60,"dict":{"onPush":7}}}"#;
                    let body = match shared.manners {
                        Manners::HasASchema => WITH_A_SCHEMA.to_vec(),
                        Manners::Compresses => deflate_zlib(body),
                        _ => body.to_vec(),
                    };
                    answers.push(encode_package(PackageType::Handshake, &body).unwrap());
                }
                (PackageType::HandshakeAck | PackageType::Heartbeat, _) => {
                    answers.push(encode_package(PackageType::Heartbeat, b"").unwrap());
                }
                (PackageType::Data, manners) => {
                    requests += 1;
                    if manners == Manners::ClosesAfterTen && requests > 10 {
                        break 'connection;
                    }
                    if manners == Manners::LosesEveryTenth && requests % 10 == 0 {
                        continue;
                    }
                    if let Manners::SleepsAtTenth(time) = manners
                        && requests % 10 == 0
                    {
                        thread::sleep(time);
                    }
                    let message = Message::decode(package.body).unwrap();
                    if message.route == WireRoute::Name("bench.echo.bind".into()) {
                        match manners {
                            Manners::LosesBinds => continue,
                            Manners::ClosesAtBinds => break 'connection,
                            _ => {}
                        }
                    }
                    let answer = answer(&message, number, &outbox, shared);
                    if manners == Manners::AnswersTwice {
                        answers.push(answer.clone());
                    }
                    answers.push(answer);
                }
                (PackageType::Kick, _) => break 'connection,
            }
        }
        if shared.manners == Manners::AnswersBackwards {
            answers.reverse();
        }
        let mut out = std::mem::take(&mut *outbox.lock().unwrap_or_else(PoisonError::into_inner));
        out.extend(answers.concat());
        if !out.is_empty() && stream.write_all(&out).is_err() {
            break;
        }
        let _ = stream.flush();
        if shared.ended.load(Ordering::Relaxed) {
            break;
        }
    }
    shared
        .bound
        .lock()
        .unwrap()
        .retain(|(bound, _)| *bound != number);
}

fn answer(message: &Message, number: usize, outbox: &Outbox, shared: &Shared) -> Bytes {
    let WireRoute::Name(route) = &message.route else {
        panic!("{message:?}")
    };
    let done = Bytes::from_static(br#"{"code":200}"#);
    let body = match &route[..] {
        b"bench.echo.bind" if shared.manners == Manners::RefusesBinds => {
            Bytes::from_static(br#"{"code":500}"#)
        }
        b"bench.echo.bind" => {
            shared
                .bound
                .lock()
                .unwrap()
                .push((number, Arc::clone(outbox)));
            done
        }
        b"bench.echo.push" => {
            push_to_all(&message.body, shared);
            done
        }
        _ if shared.manners == Manners::ChangesOneByte => {
            let mut body = message.body.to_vec();
            body[10] ^= 1;
            body.into()
        }
        _ if shared.manners == Manners::AnswersItsOwn => {
            Bytes::from_static(br#"{"users":["ann","bob"]}"#)
        }
        _ => message.body.clone(),
    };
    let answer = Message::new(MessageType::Response, message.id, WireRoute::None, body);
    data(&compressed(answer, shared.manners))
}

fn compressed(mut message: Message, manners: Manners) -> Message {
    if manners == Manners::Compresses {
        message.body = deflate_zlib(&message.body).into();
        message.compressed = true;
    }
    message
}

/// `LosesEveryTenth` drops the fourth push for all sessions; `AnswersTwice` pushes twice.
fn push_to_all(body: &Bytes, shared: &Shared) {
    let route = match shared.manners {
        Manners::SendsCodes => WireRoute::Code(7),
        _ => WireRoute::Name(Bytes::from_static(b"onPush")),
    };
    let push = Message::new(MessageType::Push, 0, route, body.clone());
    let push = data(&compressed(push, shared.manners));
    let is_fourth = body.windows(8).any(|digits| digits == b"00000003");
    let times = match shared.manners {
        Manners::LosesEveryTenth if is_fourth => 0,
        Manners::AnswersTwice => 2,
        _ => 1,
    };
    for (_, outbox) in &*shared.bound.lock().unwrap() {
        for _ in 0..times {
            outbox.lock().unwrap().extend_from_slice(&push);
        }
    }
}

fn data(message: &Message) -> Bytes {
    let mut body = BytesMut::new();
    message.encode(&mut body).unwrap();
    encode_package(PackageType::Data, &body).unwrap()
}

/// A WebSocket as a stream of bytes: what is written in one call is one message.
struct WebSocket {
    inner: tungstenite::WebSocket<TcpStream>,
    read: BytesMut,
}

impl WebSocket {
    fn new(socket: TcpStream) -> Self {
        socket.set_read_timeout(None).unwrap();
        let inner = tungstenite::accept(socket).unwrap();
        inner
            .get_ref()
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        Self {
            inner,
            read: BytesMut::new(),
        }
    }
}

impl Read for WebSocket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read.is_empty() {
            match self.inner.read() {
                Ok(message) => self.read.extend_from_slice(&message.into_data()),
                Err(tungstenite::Error::Io(error)) => return Err(error),
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.read.len());
        buffer[..length].copy_from_slice(&self.read.split_to(length));
        Ok(length)
    }
}

impl Write for WebSocket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let message = tungstenite::Message::binary(bytes.to_vec());
        self.inner.send(message).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
