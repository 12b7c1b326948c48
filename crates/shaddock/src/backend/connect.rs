//! Connects to a service: TCP or TLS, with HTTP/1.1 or HTTP/2.

use std::{io, pin::Pin, sync::Arc, task, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::{BackendError, BackendUrl, Protocol};

/// The most bytes of a response's head.
const MAX_HEAD: u32 = 64 * 1024;
/// The interval of pings while HTTP/2 requests wait for responses.
const PING: Duration = Duration::from_secs(10);
/// The time limit for a response to a ping. Then the requests fail, and the next request opens a new connection.
const PONG: Duration = Duration::from_secs(20);

/// The body of a request.
pub(crate) type Body = Full<Bytes>;

/// A connection that accepts requests.
pub(crate) enum Sender {
    /// One request at a time.
    One(http1::SendRequest<Body>),
    /// Concurrent requests.
    Two(http2::SendRequest<Body>),
}

impl Sender {
    /// Whether the connection uses HTTP/2.
    pub(crate) const fn is_two(&self) -> bool {
        matches!(self, Self::Two(_))
    }

    /// Sends a request. If the future is dropped, the request is cancelled: an HTTP/1.1 connection is closed, an HTTP/2 connection resets
    /// the stream.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Two(sender) => sender.try_send_request(request).await,
        }
    }
}

/// The way to connect to one URL.
pub(crate) struct Connector {
    pub(crate) url: BackendUrl,
    protocol: Protocol,
    /// For `https://`.
    tls: Option<TlsConnector>,
}

impl Connector {
    pub(crate) fn new(url: BackendUrl, protocol: Protocol, tls: Option<&ClientConfig>) -> Self {
        let names: &[&[u8]] = match protocol {
            Protocol::Auto => &[b"h2", b"http/1.1"],
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 => &[b"h2"],
        };
        let config = tls.filter(|_| url.is_tls).map(|config| {
            let mut config = config.clone();
            config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        });
        Self {
            url,
            protocol,
            tls: config,
        }
    }

    /// Whether a connection may turn out to support concurrent requests.
    pub(crate) const fn may_be_two(&self) -> bool {
        match self.protocol {
            Protocol::Auto => self.url.is_tls,
            Protocol::Http1 => false,
            Protocol::Http2 => true,
        }
    }

    /// Connects within `limit`: a host that is gone does not respond, and would use up the time of the other URLs. Stops when dropped.
    pub(crate) fn connect(
        self: &Arc<Self>,
        runtime: &Handle,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Sender>> + use<> {
        let connector = Arc::clone(self);
        Attempt(runtime.spawn(async move {
            let opened = tokio::time::timeout(limit, connector.open()).await;
            opened.unwrap_or_else(|_| {
                let text = format!("no connection within {limit:?} (`connect_timeout`)");
                Err(io::Error::other(text))
            })
        }))
    }

    async fn open(&self) -> io::Result<Sender> {
        let url = &self.url;
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
        stream.set_nodelay(true)?;
        if !url.is_tls {
            return speak(stream, self.protocol == Protocol::Http2).await;
        }
        let tls = self.tls.as_ref();
        let tls = tls.ok_or_else(|| io::Error::other("no certificates are trusted"))?;
        let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
        let stream = tls.connect(name, stream).await.map_err(explained)?;
        let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.protocol == Protocol::Http2 && !is_two {
            return Err(io::Error::other(
                "it does not speak HTTP/2; write `protocol = \"auto\"`",
            ));
        }
        speak(stream, is_two).await
    }
}

/// Adds the key of the configuration to errors about certificates that are not trusted.
fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        // What `openssl req -x509` makes. The library has no variant for it.
        Some(rustls::Error::InvalidCertificate(why))
            if format!("{why:?}").contains("CaUsedAsEndEntity") =>
        {
            io::Error::other(
                "its certificate is that of a certificate authority, not of a server; a self-signed one needs `openssl req -x509 -addext basicConstraints=critical,CA:FALSE`",
            )
        }
        Some(rustls::Error::InvalidCertificate(why)) => io::Error::other(format!(
            "its certificate is not trusted ({why}); set `ca` to a file with trusted certificates"
        )),
        _ => error,
    }
}

/// Runs the connection in a task of the same runtime.
async fn speak<S>(stream: S, is_two: bool) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    // The request that waits for a response receives the error of the connection.
    if is_two {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .max_header_list_size(MAX_HEAD)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        return Ok(Sender::Two(sender));
    }
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD as usize)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(Sender::One(sender))
}

/// An attempt to connect, which ends when its request is dropped: another request gets its slot and can try immediately.
struct Attempt<T>(JoinHandle<io::Result<T>>);

impl<T> Future for Attempt<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, task: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        let ended = task::ready!(Pin::new(&mut self.0).poll(task));
        task::Poll::Ready(ended.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl<T> Drop for Attempt<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS that trusts the root certificates of this system.
pub(crate) fn system_tls() -> Result<ClientConfig, BackendError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(BackendError::Roots(
            "this system has no root certificates".to_owned(),
        ));
    }
    tls_with(roots)
}

/// TLS that trusts certificates signed by those of a PEM text.
pub(crate) fn pem_tls(pem: &[u8]) -> Result<ClientConfig, BackendError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|one| roots.add(one).map_err(|error| error.to_string()))
            .map_err(BackendError::Roots)?;
    }
    if roots.is_empty() {
        let reason = "there is no certificate in the text".to_owned();
        return Err(BackendError::Roots(reason));
    }
    tls_with(roots)
}

fn tls_with(roots: RootCertStore) -> Result<ClientConfig, BackendError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BackendError::Roots(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
