//! [`ClientBuilder`]: options of a client, and how it connects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use shaddock_protocol::{Dialect, MAX_BODY, PackageReader, PackageType, encode_package};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::client::{Client, Parts};
use crate::come_back::{Resume, first_resume_request};
use crate::driver::{Driver, Shared, kick};
use crate::handshake::{Agreed, answer, request};
use crate::heartbeat::Heartbeat;
use crate::resume::{Grant, Ledger, ResumeRequest};
use crate::transport::{BoxIo, Event, Stream, Transport, WebSocket};
use crate::{CloseKind, ConnectError, HandshakeCache, Reconnect, SigningKey, TlsOptions};

/// Options of a connection. One builder can make any number of connections.
///
/// ```no_run
/// use shaddock_client::{Client, Dialect};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder()
///     .client("my-bot", "1.0.0")
///     .user(serde_json::json!({"token": "secret"}))
///     .request_timeout(Some(Duration::from_secs(5)))
///     .connect("wss://game.example/socket")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    pub(crate) settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) client_type: String,
    pub(crate) client_version: String,
    pub(crate) build_number: String,
    pub(crate) user: Value,
    pub(crate) key: Option<SigningKey>,
    pub(crate) cache: HandshakeCache,
    pub(crate) tls: TlsOptions,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) max_package_size: usize,
    pub(crate) max_pending: usize,
    pub(crate) command_capacity: usize,
    pub(crate) push_capacity: usize,
    pub(crate) is_error: fn(i64) -> bool,
    pub(crate) reconnect: Option<Reconnect>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientBuilder {
    /// Creates a builder with the defaults named at the methods.
    pub fn new() -> Self {
        Self {
            settings: Settings {
                dialect: Dialect::Pomelo,
                client_type: "shaddock".to_owned(),
                client_version: env!("CARGO_PKG_VERSION").to_owned(),
                build_number: "1".to_owned(),
                // Applications access it without checking whether it is present.
                user: Value::Object(Map::new()),
                key: None,
                cache: HandshakeCache::default(),
                tls: TlsOptions::default(),
                connect_timeout: Duration::from_secs(10),
                request_timeout: Some(Duration::from_secs(30)),
                max_package_size: 1024 * 1024,
                max_pending: 1024,
                command_capacity: 64,
                push_capacity: 256,
                is_error: |code| code >= 400,
                reconnect: None,
            },
        }
    }

    /// The dialect of the server: [`Dialect::Pomelo`] (also Pinus) or [`Dialect::Pitaya`] (also nano). Default: Pomelo. shaddock servers
    /// support both.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.settings.dialect = dialect;
        self
    }

    /// Type and version of this client, which servers may check. Pomelo: `sys.type`, `sys.version`; Pitaya: `sys.platform`,
    /// `sys.clientVersion`. Default: `shaddock` and the version of this crate.
    pub fn client(mut self, client_type: impl Into<String>, version: impl Into<String>) -> Self {
        self.settings.client_type = client_type.into();
        self.settings.client_version = version.into();
        self
    }

    /// Pitaya's `sys.clientBuildNumber`. Default: `1`.
    pub fn build_number(mut self, build_number: impl Into<String>) -> Self {
        self.settings.build_number = build_number.into();
        self
    }

    /// The handshake data for the application of the server, for example a token. Default: `{}`.
    pub fn user(mut self, user: impl Into<Value>) -> Self {
        self.settings.user = user.into();
        self
    }

    /// Signs requests and notifies (Pomelo servers with `useCrypto`). Default: nothing is signed.
    pub fn signing_key(mut self, key: SigningKey) -> Self {
        self.settings.key = Some(key);
        self
    }

    /// Dictionary and schemas of an earlier connection to this server, which then sends only changes (Pomelo dialect). Default: none.
    pub fn cache(mut self, cache: HandshakeCache) -> Self {
        self.settings.cache = cache;
        self
    }

    /// The certificates that are trusted on `tls` and `wss` addresses. Default: those of the system.
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.settings.tls = tls;
        self
    }

    /// Timeout of the complete connection setup: name resolution, socket, TLS, WebSocket upgrade, handshake. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Timeout of a request, from the call to its response. `None`: no timeout, as in Pomelo's clients. Default: 30 s.
    pub fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Longest body of a package from the server in bytes, also after inflating it. A longer one ends the connection before memory is
    /// allocated for it. The handshake response counts too, with dictionary and schemas. Default: 1 MiB, at most 16,777,215.
    ///
    /// On WebSockets a message with several packages may be 1 MiB longer than this.
    pub fn max_package_size(mut self, bytes: usize) -> Self {
        self.settings.max_package_size = bytes.min(MAX_BODY);
        self
    }

    /// Maximum number of pending requests; further ones fail with [`RequestError::TooManyPending`](crate::RequestError::TooManyPending).
    /// Default: 1,024.
    pub fn max_pending(mut self, requests: usize) -> Self {
        self.settings.max_pending = requests;
        self
    }

    /// Maximum number of requests and notifies that wait for the socket. Beyond it, callers wait. Default: 64.
    pub fn command_capacity(mut self, commands: usize) -> Self {
        self.settings.command_capacity = commands.max(1);
        self
    }

    /// Length of the queue of each [`Subscription`](crate::Subscription) and handler. Default: 256.
    pub fn push_capacity(mut self, pushes: usize) -> Self {
        self.settings.push_capacity = pushes;
        self
    }

    /// The numbers in `code` of a response that make it an error ([`ServerError`](crate::ServerError), Pomelo dialect only). Default: 400
    /// and above. Use `|_| false` for applications that use `code` for other purposes.
    pub fn error_codes(mut self, is_error: fn(i64) -> bool) -> Self {
        self.settings.is_error = is_error;
        self
    }

    /// Requests a resumable session and resumes it when the connection is lost: no message is lost, duplicated or reordered, and each
    /// request runs once. Default: off. The server must support it, as shaddock does; with other servers this is a normal connection, which
    /// ends when it is lost.
    ///
    /// While the session is suspended, pending requests wait for their responses, and new messages wait to be sent. Callers wait when
    /// [`command_capacity`](Self::command_capacity) messages are in the queue, and also while 256 messages are not acknowledged by the
    /// server. [`Client::events`] returns the events of the session. A push counts as received when it is in the queue of a
    /// [`Subscription`]; a full subscription still drops pushes.
    ///
    /// ```no_run
    /// use shaddock_client::{Client, Reconnect, SessionEvent};
    ///
    /// # async fn login(_: &Client) {}
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = Client::builder().resume(Reconnect::default());
    /// let (client, mut events) = builder.connect_with("wss://game.example/socket", |client| client.events()).await?;
    /// login(&client).await;
    /// while let Some(event) = events.recv().await {
    ///     // A new session in place of one that could not go on: log in as on the first day.
    ///     if let SessionEvent::Restarted { .. } = event {
    ///         login(&client).await;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Subscription`]: crate::Subscription
    pub fn resume(mut self, reconnect: Reconnect) -> Self {
        self.settings.reconnect = Some(reconnect);
        self
    }

    /// Connects to `tcp://host:port`, `tls://host:port`, `ws://host:port/path` or `wss://host:port/path`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the socket.
    pub async fn connect(&self, address: &str) -> Result<Client, ConnectError> {
        Ok(self.connect_with(address, |_| ()).await?.0)
    }

    /// [`ClientBuilder::connect`], with a closure that runs **before** the handshake completes: subscriptions made in `setup` miss no push,
    /// not even those that the server sends immediately.
    ///
    /// ```no_run
    /// # use shaddock_client::{Client, ConnectError};
    /// # async fn example() -> Result<(), ConnectError> {
    /// let (client, mut news) = Client::builder()
    ///     .connect_with("tcp://127.0.0.1:3010", |client| client.subscribe("onNews"))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the socket. `setup` is then either not called, or its result is dropped.
    pub async fn connect_with<R>(
        &self,
        address: &str,
        setup: impl FnOnce(&Client) -> R,
    ) -> Result<(Client, R), ConnectError> {
        let way = async {
            let greeted = self.greet(address, first_resume_request(self)).await?;
            self.begin(greeted, Some(address), setup)
        };
        self.in_time(way).await
    }

    /// Connects over a custom byte stream: a proxy, a Unix socket, [`tokio::io::duplex`] in a test. Packages follow each other as on TCP.
    /// `setup` is that of [`ClientBuilder::connect_with`]; use `|_| ()` for none. [`ClientBuilder::resume`] is ignored, because there is no
    /// address to reconnect to.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Cancellation
    ///
    /// As [`ClientBuilder::connect_with`]: the stream is dropped.
    pub async fn connect_io<R>(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        setup: impl FnOnce(&Client) -> R,
    ) -> Result<(Client, R), ConnectError> {
        let transport = Transport::Stream(Stream::new(Box::new(io)));
        let way = async {
            let greeted = self.handshake(transport, None).await?;
            self.begin(greeted, None, setup)
        };
        self.in_time(way).await
    }

    async fn in_time<T>(
        &self,
        way: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        timeout(self.settings.connect_timeout, way)
            .await
            .unwrap_or(Err(ConnectError::Timeout))
    }

    async fn open(&self, address: &Address) -> Result<Transport, ConnectError> {
        let socket = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(ConnectError::Io)?;
        // Requests are short and their callers wait for them.
        socket.set_nodelay(true).map_err(ConnectError::Io)?;
        let io: BoxIo = if address.tls {
            self.settings.tls.connect(&address.host, socket).await?
        } else {
            Box::new(socket)
        };
        if !address.websocket {
            return Ok(Transport::Stream(Stream::new(io)));
        }
        let limit = self.settings.max_package_size;
        let websocket = WebSocket::connect(&address.uri, io, limit).await?;
        Ok(Transport::WebSocket(Box::new(websocket)))
    }

    /// Opens a socket to `address`, and performs the handshake on it.
    pub(crate) async fn greet(
        &self,
        address: &str,
        asked: Option<ResumeRequest>,
    ) -> Result<Greeted, ConnectError> {
        let transport = self.open(&Address::parse(address)?).await?;
        self.handshake(transport, asked).await
    }

    /// Sends the handshake and reads the response.
    pub(crate) async fn handshake(
        &self,
        mut transport: Transport,
        asked: Option<ResumeRequest>,
    ) -> Result<Greeted, ConnectError> {
        let settings = &self.settings;
        transport.queue(request(settings, asked.as_ref())?);
        let mut reader = PackageReader::new();
        let mut input = Bytes::new();
        let body = read_answer(&mut transport, &mut reader, &mut input, settings).await?;
        let agreed = answer(settings, &body)?;
        Ok(Greeted {
            transport,
            reader,
            input,
            agreed,
        })
    }

    /// Starts the task of a connection with a complete handshake.
    pub(crate) fn begin<R>(
        &self,
        greeted: Greeted,
        address: Option<&str>,
        setup: impl FnOnce(&Client) -> R,
    ) -> Result<(Client, R), ConnectError> {
        let settings = &self.settings;
        let Greeted {
            mut transport,
            reader,
            input,
            agreed,
        } = greeted;
        let wire = Arc::new(agreed.wire);
        let shared = Arc::new(Shared::new(settings.max_pending, wire.clone()));
        let (sender, commands) = mpsc::channel(settings.command_capacity);
        let now = Instant::now();
        let resume = self.come_back_with(agreed.resume, address, now);
        let parts = Parts {
            shared: shared.clone(),
            commands: sender,
            user: agreed.user,
            cache: agreed.cache,
        };
        shared.set_resumable(resume.is_some());
        let client = Client::new(self, parts);
        let result = setup(&client);
        let ack = encode_package(PackageType::HandshakeAck, b"");
        transport.queue(ack.map_err(crate::EncodeError::from)?);
        let driver = Driver {
            transport,
            reader,
            input,
            commands,
            shared,
            wire,
            heartbeat: Heartbeat::new(settings.dialect, agreed.heartbeat, now),
            max_package_size: settings.max_package_size,
            resume,
            owes_heartbeat: false,
        };
        tokio::spawn(driver.run());
        Ok((client, result))
    }

    fn come_back_with(
        &self,
        grant: Option<Grant>,
        address: Option<&str>,
        now: Instant,
    ) -> Option<Box<Resume>> {
        Some(Box::new(Resume {
            reconnect: self.settings.reconnect?,
            ledger: Ledger::new(grant?),
            address: address?.to_owned(),
            builder: self.clone(),
            attempts: 0,
            since: now,
        }))
    }
}

/// A connection whose handshake response was received, before the ACK.
pub(crate) struct Greeted {
    pub(crate) transport: Transport,
    pub(crate) reader: PackageReader,
    pub(crate) input: Bytes,
    pub(crate) agreed: Agreed,
}

/// Waits for the body of the response.
async fn read_answer(
    transport: &mut Transport,
    reader: &mut PackageReader,
    input: &mut Bytes,
    settings: &Settings,
) -> Result<Bytes, ConnectError> {
    // A server that rejects the handshake may have closed before it has read: its response counts, not the failed write.
    let mut broken = None;
    loop {
        let protocol = |error| ConnectError::Closed(CloseKind::Protocol(error));
        while let Some(package) = reader
            .next(input, settings.max_package_size)
            .map_err(|error| protocol(error.into()))?
        {
            match package.kind {
                PackageType::Handshake => return Ok(package.body),
                PackageType::Kick => return Err(ConnectError::Closed(kick(&package.body))),
                // Pitaya's heartbeats begin before the handshake ends; other packages are too early to have an effect.
                _ => {}
            }
        }
        match transport.event().await {
            Ok(Event::Bytes(bytes)) => *input = bytes,
            Ok(Event::Room) => {}
            Ok(Event::WriteFailed(kind)) => broken = Some(kind),
            Ok(Event::End(status)) => {
                return Err(ConnectError::Closed(CloseKind::ServerClosed(status)));
            }
            Err(kind) => return Err(ConnectError::Closed(broken.unwrap_or(kind))),
        }
    }
}
