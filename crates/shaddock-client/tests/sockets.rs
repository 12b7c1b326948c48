//! Real sockets on the loopback: TCP, WebSocket, and both with TLS.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use shaddock_client::{Client, CloseKind, CloseStatus, ConnectError, TlsOptions, Violation};
use shaddock_protocol::{Message, PackageType, encode_package};
use support::{Peer, plain};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, accept_async};

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accept(listener: TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

/// Answers the handshake, echoes one request, then waits for the client to go.
async fn echo(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut peer = Peer::new(io);
    peer.handshake(&plain()).await;
    let request = peer.message().await;
    peer.answer(request.id, &request.body).await;
    assert!(peer.next().await.is_none());
}

async fn ask(client: Client) {
    let body = json!({"text": "x".repeat(100_000)});
    let answer: Value = client.request("a.b.c", &body).await.unwrap();
    assert_eq!(answer, body);
    client.close().await;
    assert_eq!(client.closed().await, CloseKind::ClosedByClient);
}

#[tokio::test]
async fn tcp() {
    let (listener, port) = listen().await;
    let address = format!("tcp://127.0.0.1:{port}");
    let client = async { ask(Client::connect(&address).await.unwrap()).await };
    tokio::join!(client, async { echo(accept(listener).await).await });
}

#[tokio::test]
async fn a_message_without_subscribers_is_dropped() {
    let (listener, port) = listen().await;
    drop(listener);
    for scheme in ["tcp", "ws"] {
        let error = Client::connect(&format!("{scheme}://127.0.0.1:{port}")).await;
        assert!(matches!(error, Err(ConnectError::Io(_))), "{error:?}");
    }
}

/// The server's end of a WebSocket, after the handshake.
struct WsPeer<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> WsPeer<S> {
    async fn accept(io: S) -> Self {
        let mut peer = Self(accept_async(io).await.unwrap());
        assert_eq!(peer.next().await.unwrap()[0], 1);
        let answer = plain().to_string();
        let answer = encode_package(PackageType::Handshake, answer.as_bytes()).unwrap();
        peer.send(answer).await;
        assert_eq!(&peer.next().await.unwrap()[..], b"\x02\x00\x00\x00");
        peer
    }

    /// The next message. Clients put exactly one package into each.
    async fn next(&mut self) -> Option<bytes::Bytes> {
        match self.0.next().await {
            Some(Ok(Frame::Binary(bytes))) => {
                let announced = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
                assert_eq!(bytes.len(), 4 + announced as usize);
                Some(bytes)
            }
            Some(Ok(Frame::Close(_)) | Err(_)) | None => None,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, bytes: impl Into<bytes::Bytes>) {
        self.0.send(Frame::Binary(bytes.into())).await.unwrap();
    }

    async fn echo(mut self) {
        let request = self.next().await.unwrap();
        let request = Message::decode(request.slice(4..)).unwrap();
        let mut body = bytes::BytesMut::new();
        support::response(request.id, &request.body)
            .encode(&mut body)
            .unwrap();
        self.send(encode_package(PackageType::Data, &body).unwrap())
            .await;
        assert!(self.next().await.is_none());
    }
}

async fn ws_pair() -> (Client, WsPeer<TcpStream>) {
    let (listener, port) = listen().await;
    let address = format!("ws://127.0.0.1:{port}/any/path?x=1");
    let (client, peer) = tokio::join!(Client::connect(&address), async {
        WsPeer::accept(accept(listener).await).await
    });
    (client.unwrap(), peer)
}

#[tokio::test]
async fn websocket() {
    let (client, peer) = ws_pair().await;
    tokio::join!(ask(client), peer.echo());
}

#[tokio::test]
async fn batches_text_and_pings() {
    let (client, mut peer) = ws_pair().await;
    let mut pushes = client.subscribe_all();
    let one = b"\x04\x00\x00\x05\x06\x02on1";
    let text = String::from_utf8([&one[..], &one[..]].concat()).unwrap();
    peer.send([&one[..], b"\x03\x00\x00\x00", one].concat())
        .await;
    peer.0.send(Frame::Ping("hi".into())).await.unwrap();
    peer.0.send(Frame::Text(text.into())).await.unwrap();
    for _ in 0..4 {
        let push = pushes.recv().await.unwrap();
        assert_eq!((push.route(), &push.body()[..]), ("on", &b"1"[..]));
    }
    let pong = peer.0.next().await.unwrap().unwrap();
    assert_eq!(pong, Frame::Pong("hi".into()));

    peer.send(&one[..6]).await;
    assert_eq!(
        client.closed().await,
        CloseKind::Protocol(Violation::CutPackage)
    );
}

#[tokio::test]
async fn last_words_on_a_websocket() {
    let (client, mut peer) = ws_pair().await;
    let frame = CloseFrame {
        code: CloseCode::Restart,
        reason: "draining".into(),
    };
    peer.0.close(Some(frame)).await.unwrap();
    tokio::spawn(async move { while peer.next().await.is_some() {} });
    assert_eq!(
        client.closed().await,
        CloseKind::ServerClosed(Some(CloseStatus {
            code: 1012,
            reason: "draining".to_owned()
        }))
    );
}

#[tokio::test]
async fn an_upgrade_that_is_refused() {
    let (listener, port) = listen().await;
    let address = format!("ws://127.0.0.1:{port}");
    let server = async {
        let mut io = accept(listener).await;
        io.write_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        io
    };
    let (client, _io) = tokio::join!(Client::connect(&address), server);
    match client {
        Err(ConnectError::Upgrade(text)) => assert_eq!(text, "426 Upgrade Required"),
        other => panic!("{other:?}"),
    }
}

/// A certificate for `localhost`, its PEM, and a server that shows it.
fn certificate() -> (String, TlsAcceptor) {
    self_signed(rcgen::IsCa::NoCa)
}

fn self_signed(is_ca: rcgen::IsCa) -> (String, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    let cert = params.self_signed(&key).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    (cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn tls_with_its_own_root() {
    let (pem, acceptor) = certificate();
    let (listener, port) = listen().await;
    let builder = Client::builder().tls(TlsOptions::roots_pem(pem.as_bytes()).unwrap());
    let address = format!("tls://localhost:{port}");
    let client = async { ask(builder.connect(&address).await.unwrap()).await };
    let server = async {
        let io = accept(listener).await;
        echo(acceptor.accept(io).await.unwrap()).await;
    };
    tokio::join!(client, server);
}

/// A certificate as `openssl req -x509` makes it, which may sign others and is used by a server all the same.
#[tokio::test]
async fn a_certificate_of_the_list_is_trusted_though_it_may_sign_others() {
    let authority = || self_signed(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let (pem, acceptor) = authority();
    let (another, _) = authority();
    for (listed, host, trusted) in [
        (&pem, "localhost", true),
        (&pem, "127.0.0.1", false),
        (&another, "localhost", false),
    ] {
        let (listener, port) = listen().await;
        let builder = Client::builder().tls(TlsOptions::roots_pem(listed.as_bytes()).unwrap());
        let address = format!("tls://{host}:{port}");
        let client = async {
            match builder.connect(&address).await {
                Ok(client) => ask(client).await,
                Err(error) => assert!(!trusted && matches!(error, ConnectError::Tls(_)), "{error}"),
            }
        };
        let server = async {
            let io = acceptor.accept(accept(listener).await).await;
            assert_eq!(io.is_ok(), trusted, "{host}");
            if let Ok(io) = io {
                echo(io).await;
            }
        };
        tokio::join!(client, server);
    }
}

#[tokio::test]
async fn websocket_over_tls() {
    let (_, acceptor) = certificate();
    let (listener, port) = listen().await;
    let builder = Client::builder().tls(TlsOptions::dangerous_accept_any_certificate());
    // Not the name of the certificate.
    let address = format!("wss://127.0.0.1:{port}/");
    let client = async { ask(builder.connect(&address).await.unwrap()).await };
    let server = async {
        let io = acceptor.accept(accept(listener).await).await.unwrap();
        WsPeer::accept(io).await.echo().await;
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn strangers_are_not_trusted() {
    let (_, acceptor) = certificate();
    let (other, _) = certificate();
    let (listener, port) = listen().await;
    let builder = Client::builder().tls(TlsOptions::roots_pem(other.as_bytes()).unwrap());
    let address = format!("tls://localhost:{port}");
    let server = async {
        let io = accept(listener).await;
        assert!(acceptor.accept(io).await.is_err());
    };
    let (client, ()) = tokio::join!(builder.connect(&address), server);
    assert!(matches!(client, Err(ConnectError::Tls(_))), "{client:?}");
    assert!(matches!(
        TlsOptions::roots_pem(b"no certificate"),
        Err(ConnectError::Roots(_))
    ));
}
