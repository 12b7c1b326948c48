//! Services that speak TLS or HTTP/2, with hyper.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use shaddock::backend::HttpBackend;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Barrier,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// How it is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/2 without TLS.
    PlainTwo,
    /// TLS, on which this is offered.
    Tls(&'static [&'static [u8]]),
}

/// Every connection reports here what it has seen.
pub(crate) struct Secure {
    pub(crate) address: SocketAddr,
    pub(crate) pem: String,
    is_tls: bool,
    connections: Arc<AtomicUsize>,
    versions: Arc<Mutex<Vec<Version>>>,
    gone: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    versions: Arc<Mutex<Vec<Version>>>,
    gone: Arc<AtomicUsize>,
    together: Arc<Barrier>,
}

impl Secure {
    /// `/shaddock/room.together` is answered when so many are there; `/shaddock/room.never` never.
    pub(crate) async fn start(speaks: Speaks, together: usize) -> Self {
        Self::with_certificate(speaks, together, rcgen::IsCa::NoCa).await
    }

    /// Shows a self-signed certificate, which may be that of an authority.
    pub(crate) async fn with_certificate(
        speaks: Speaks,
        together: usize,
        is_ca: rcgen::IsCa,
    ) -> Self {
        let signing_key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        wanted.is_ca = is_ca;
        let cert = wanted.self_signed(&signing_key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        if let Speaks::Tls(names) = speaks {
            config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        }
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            versions: Arc::default(),
            gone: Arc::default(),
            together: Arc::new(Barrier::new(together)),
        };
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, mine) = (Arc::clone(&connections), shared.clone());
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, mine, acceptor) = (Arc::clone(&count), mine.clone(), acceptor.clone());
                running.spawn(async move {
                    if speaks == Speaks::PlainTwo {
                        count.fetch_add(1, Ordering::SeqCst);
                        return serve(stream, true, mine).await;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, is_two, mine).await;
                });
            }
        });
        Self {
            address,
            pem: cert.pem(),
            is_tls: speaks != Speaks::PlainTwo,
            connections,
            versions: shared.versions,
            gone: shared.gone,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        // The certificate is the name's.
        format!("{scheme}://localhost:{}/shaddock", self.address.port())
    }

    /// A backend that waits as long as a busy machine may take, and trusts this certificate.
    pub(crate) fn backend(&self, pem: &str) -> HttpBackend {
        let mut backend = HttpBackend::with_roots([self.url()], pem.as_bytes()).unwrap();
        backend.timeout = std::time::Duration::from_secs(60);
        backend.connect_timeout = backend.timeout;
        backend
    }

    /// Connections that were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Of each request.
    pub(crate) fn versions(&self) -> Vec<Version> {
        self.versions.lock().unwrap().clone()
    }

    /// Requests that were given up while they were at work.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }
}

/// Counts a request that ends without an answer.
struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn serve<S>(stream: S, is_two: bool, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            shared.versions.lock().unwrap().push(request.version());
            match request.uri().path() {
                "/shaddock/room.together" => {
                    shared.together.wait().await;
                }
                "/shaddock/room.never" => {
                    let _gone = Gone(shared.gone);
                    std::future::pending::<()>().await;
                }
                _ => {}
            }
            let host = match request.uri().authority() {
                Some(authority) => authority.as_str(),
                None => request.headers()["host"].to_str().unwrap(),
            };
            let body = serde_json::json!({"body": host}).to_string();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
        }
    });
    let stream = TokioIo::new(stream);
    let ended = if is_two {
        let builder = http2::Builder::new(TokioExecutor::new());
        builder.serve_connection(stream, answer).await
    } else {
        http1::Builder::new().serve_connection(stream, answer).await
    };
    drop(ended);
}
