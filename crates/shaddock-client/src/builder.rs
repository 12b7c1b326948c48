//! [`ClientBuilder`]: options of a client, and how it connects.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shaddock_protocol::{Dialect, MAX_BODY, PackageType, encode_package};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::client::{Client, Parts};
use crate::come_back::Resume;
use crate::connect::{Greeted, greet, handshake};
use crate::driver::Driver;
use crate::heartbeat::Heartbeat;
use crate::resume::{Grant, Ledger, ResumeRequest};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::transport::{Stream, Transport};
use crate::{ConnectError, HandshakeCache, Reconnect, SigningKey, TlsOptions};

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

impl Default for ClientBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientBuilder {
    /// Creates a builder with the defaults named at the methods.
    pub fn new() -> Self {
        Self {
            settings: Settings::default(),
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
            let asked = self.settings.reconnect.map(|_| ResumeRequest::new());
            let greeted = greet(&self.settings, address, asked).await?;
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
            let greeted = handshake(&self.settings, transport, None).await?;
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

    /// Starts the task of a connection with a complete handshake.
    fn begin<R>(
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
        let client = Client::new(settings, parts);
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
            settings: self.settings.clone(),
            attempts: 0,
            since: now,
        }))
    }
}

/// # Connecting
impl Client {
    /// Connects with the defaults of [`ClientBuilder`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the socket.
    pub async fn connect(address: &str) -> Result<Self, ConnectError> {
        ClientBuilder::new().connect(address).await
    }

    /// Creates a builder with options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends without end and reads nothing. When it reads, it receives one acknowledgement for all of it.
    #[tokio::test]
    async fn a_server_that_does_not_read_is_owed_one_acknowledgement() {
        use shaddock_protocol::{PackageReader, read_acknowledgement};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

        const MESSAGES: u64 = 100_000;
        let (near, far) = duplex(1024);
        let (mut from_client, mut to_client) = split(far);
        let head = |kind: PackageType, body: &[u8]| encode_package(kind, body).unwrap();
        let answer = br#"{"code":200,"sys":{"resume":{"v":1,"token":"t","window":60,"ack":1}}}"#;
        to_client
            .write_all(&head(PackageType::Handshake, answer))
            .await
            .unwrap();
        let builder = Client::builder().resume(Reconnect::default());
        let transport = Transport::Stream(Stream::new(Box::new(near)));
        let asked = Some(ResumeRequest::new());
        let greeted = handshake(&builder.settings, transport, asked)
            .await
            .unwrap();
        let (client, ()) = builder
            .begin(greeted, Some("tcp://localhost:1"), |_| ())
            .unwrap();
        assert!(client.is_resumable());
        // A push to `a`.
        let push = head(PackageType::Data, b"\x06\x01a{}");
        for _ in 0..MESSAGES {
            to_client.write_all(&push).await.unwrap();
        }
        let mut reader = PackageReader::new();
        let (mut heartbeats, mut told) = (0, 0);
        while told < MESSAGES {
            let mut bytes = bytes::BytesMut::new();
            assert!(from_client.read_buf(&mut bytes).await.unwrap() > 0);
            let mut bytes = bytes.freeze();
            while let Some(package) = reader.next(&mut bytes, 1 << 20).unwrap() {
                if package.kind == PackageType::Heartbeat {
                    heartbeats += 1;
                    told = read_acknowledgement(&package.body).unwrap().unwrap_or(told);
                }
            }
        }
        // As many as are queued at most, and those while they were read.
        assert!(heartbeats < 30_000, "{heartbeats}");
    }
}
