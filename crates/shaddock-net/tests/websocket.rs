//! WebSocket and TLS on the same port as TCP, with good and bad clients.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use bytes::Bytes;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use shaddock_net::{TlsFiles, TlsReloader};
use shaddock_protocol::{Package, PackageReader, PackageType};
use support::{
    Client, HANDSHAKE, Server, connect, package, request, start, start_with, wait::PATIENCE,
};
use tungstenite::{Message, WebSocket, protocol::Role};

type Ws = WebSocket<TcpStream>;

const UPGRADE: &str = "GET /any/path HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn upgraded(server: &Server) -> Ws {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, response) =
        tungstenite::client(format!("ws://{}/x", server.address), stream).unwrap();
    assert_eq!(response.status(), 101);
    socket
}

fn packages(message: Message) -> Vec<Package> {
    let Message::Binary(mut bytes) = message else {
        panic!("not binary: {message:?}")
    };
    let mut reader = PackageReader::new();
    let mut packages = Vec::new();
    while let Some(package) = reader.next(&mut bytes, 1 << 24).unwrap() {
        packages.push(package);
    }
    assert!(!reader.is_mid_package(), "a message holds whole packages");
    packages
}

/// All packages but heartbeats, until there are `count`.
fn read(socket: &mut Ws, count: usize) -> Vec<Package> {
    let mut got = Vec::new();
    while got.len() < count {
        let fresh = packages(socket.read().unwrap());
        got.extend(
            fresh
                .into_iter()
                .filter(|p| p.kind != PackageType::Heartbeat),
        );
    }
    got
}

fn binary(bytes: impl Into<Bytes>) -> Message {
    Message::Binary(bytes.into())
}

fn joined(server: &Server) -> Ws {
    let mut socket = upgraded(server);
    socket
        .send(binary(package(PackageType::Handshake, HANDSHAKE)))
        .unwrap();
    assert_eq!(read(&mut socket, 1)[0].kind, PackageType::Handshake);
    socket
        .send(binary(package(PackageType::HandshakeAck, b"")))
        .unwrap();
    socket
}

/// Reads to the end; returns the status of the close frame, if there was one.
fn close_status(socket: &mut Ws) -> Option<u16> {
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn requests_text_frames_fragments_and_batches() {
    let server = start();
    let mut socket = joined(&server);
    socket.send(binary(request(1, "a.b.echo", "{}"))).unwrap();
    assert_eq!(&read(&mut socket, 1)[0].body[..], b"\x04\x01{}");
    // Text is taken as the bytes it is.
    let text = String::from_utf8(request(2, "a.b.echo", "{}").to_vec()).unwrap();
    socket.send(Message::text(text)).unwrap();
    assert_eq!(&read(&mut socket, 1)[0].body[..], b"\x04\x02{}");
    // Several packages in one message.
    let batch = [request(3, "a.b.echo", "{}"), request(4, "a.b.echo", "{}")].concat();
    socket.send(binary(batch)).unwrap();
    assert_eq!(read(&mut socket, 2).len(), 2);
    // A message in three fragments, with a ping in between.
    let bytes = request(5, "a.b.echo", "{}");
    for (i, part) in [&bytes[..3], &bytes[3..9], &bytes[9..]].iter().enumerate() {
        let first = [0x02, 0x00, 0x80][i];
        let mut frame = vec![first, 0x80 | u8::try_from(part.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(part);
        socket.get_mut().write_all(&frame).unwrap();
        socket
            .get_mut()
            .write_all(&[0x89, 0x80, 0, 0, 0, 0])
            .unwrap();
    }
    let mut pongs = 0;
    loop {
        match socket.read().unwrap() {
            Message::Pong(_) => pongs += 1,
            message => {
                let got = packages(message);
                if let Some(answer) = got.iter().find(|p| p.kind == PackageType::Data) {
                    assert_eq!(&answer.body[..], b"\x04\x05{}");
                    break;
                }
            }
        }
    }
    while pongs < 3 {
        assert!(matches!(socket.read().unwrap(), Message::Pong(_)));
        pongs += 1;
    }
    let mut transport = "";
    server
        .echo
        .sessions
        .for_each_session(|s| transport = s.client().transport.name());
    assert_eq!(transport, "ws");
    socket.close(None).unwrap();
    assert!(close_status(&mut socket).is_some(), "the close is answered");
    server.finish();
}

#[test]
fn bytes_one_by_one_from_the_first_on() {
    let server = start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    server.trickle(&mut stream, UPGRADE.as_bytes());
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    socket
        .send(binary(package(PackageType::Handshake, HANDSHAKE)))
        .unwrap();
    assert_eq!(read(&mut socket, 1)[0].kind, PackageType::Handshake);
    drop(socket);
    server.finish();
}

#[test]
fn a_kick_is_followed_by_a_close_frame() {
    let server = start();
    let mut socket = joined(&server);
    socket.send(binary(request(1, "a.b.kick", "{}"))).unwrap();
    let kick = &read(&mut socket, 1)[0];
    assert_eq!(kick.kind, PackageType::Kick);
    let Ok(Message::Close(Some(frame))) = socket.read() else {
        panic!("no close frame")
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1000, "kicked")
    );
    drop(socket);
    server.finish();
}

#[test]
fn bad_frames_and_messages_close_with_a_status_and_a_counted_reason() {
    let server = start();
    let long = [&[0x82u8, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let cases: [(&str, &[u8], u16); 7] = [
        ("websocket_frame_unmasked", b"\x82\x01x", 1002),
        ("websocket_message_too_long", &long, 1009),
        ("websocket_frame_reserved", b"\xc2\x80\0\0\0\0", 1002),
        ("websocket_fragments", b"\x80\x80\0\0\0\0", 1002),
        ("empty_websocket_message", b"\x82\x80\0\0\0\0", 1002),
        ("package_cut_short", b"\x82\x82\0\0\0\0\x04\x00", 1002),
        (
            "package_cut_short",
            b"\x82\x85\0\0\0\0\x04\x00\x00\x02x",
            1002,
        ),
    ];
    for (reason, bytes, status) in cases {
        let before = server.stats().closed.get(reason).copied().unwrap_or(0);
        let mut socket = joined(&server);
        socket.get_mut().write_all(bytes).unwrap();
        assert_eq!(close_status(&mut socket), Some(status), "{bytes:?}");
        assert_eq!(
            server.stats().closed.get(reason),
            Some(&(before + 1)),
            "{bytes:?}"
        );
    }
    server.finish();
}

#[test]
fn a_flood_of_pings() {
    let server = start();
    let mut socket = joined(&server);
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    socket.get_mut().write_all(&ping.repeat(200)).unwrap();
    assert_eq!(close_status(&mut socket), Some(1008));
    server.finish();
}

#[test]
fn http_that_is_no_upgrade_and_pages_of_strangers() {
    let server = start_with(
        |config| config.upgrade.origins.push("https://play.example".into()),
        support::limits(),
        |_| {},
    );
    let ask = |text: &str| {
        let mut client = connect(&server);
        client.stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        client.stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        "HTTP/1.1 426 Upgrade Required"
    );
    assert_eq!(ask("get / nonsense\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let with_origin =
        |origin: &str| UPGRADE.replace("Host: x", &format!("Host: x\r\nOrigin: {origin}"));
    assert_eq!(
        ask(&with_origin("https://evil.example")),
        "HTTP/1.1 403 Forbidden"
    );
    let closed = server.stats().closed;
    for reason in ["http_without_upgrade", "not_http", "origin_not_allowed"] {
        assert_eq!(closed.get(reason), Some(&1), "{reason}");
    }
    let mut client = connect(&server);
    client
        .stream
        .write_all(with_origin("https://play.example").as_bytes())
        .unwrap();
    let mut start = [0; 12];
    client.stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
    drop(client);
    server.finish();
}

struct Certificate {
    dir: std::path::PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new(dir: &std::path::Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self {
            dir: dir.to_path_buf(),
            der: made.cert.der().clone(),
        }
    }

    fn reloader(&self) -> Arc<TlsReloader> {
        TlsReloader::new(TlsFiles {
            certificate: self.dir.join("cert.pem"),
            key: self.dir.join("key.pem"),
        })
        .unwrap()
    }

    fn connect(&self, server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(connection, stream)
    }
}

fn scratch_dir(name: &str) -> std::path::PathBuf {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn tls_carries_tcp_and_websocket_and_takes_a_new_certificate() {
    let dir = scratch_dir("tls");
    let old = Certificate::new(&dir);
    let tls = old.reloader();
    let server = start_with(|config| config.tls = Some(tls), support::limits(), |_| {});

    let mut client = Client::new(old.connect(&server));
    client.join();
    assert_eq!(
        client.request(1, "a.b.echo", r#"{"tls":true}"#),
        r#"{"tls":true}"#
    );

    let (mut socket, _) = tungstenite::client("wss://localhost/x", old.connect(&server)).unwrap();
    socket
        .send(binary(package(PackageType::Handshake, HANDSHAKE)))
        .unwrap();
    assert_eq!(
        packages(socket.read().unwrap())[0].kind,
        PackageType::Handshake
    );

    let new = Certificate::new(&dir);
    server.listener.as_ref().unwrap().reload_tls().unwrap();
    let mut fresh = Client::new(new.connect(&server));
    fresh.join();
    assert_eq!(fresh.request(1, "a.b.echo", "{}"), "{}");
    assert_eq!(
        client.request(2, "a.b.echo", "{}"),
        "{}",
        "the old connection lives"
    );

    std::fs::write(dir.join("cert.pem"), "broken").unwrap();
    let error = server.listener.as_ref().unwrap().reload_tls().unwrap_err();
    assert!(error.to_string().contains("cert.pem"), "{error}");
    let mut still = Client::new(new.connect(&server));
    still.join();

    // A client without TLS does not affect others.
    let mut plain = connect(&server);
    plain.send(PackageType::Handshake, HANDSHAKE);
    let mut alert = Vec::new();
    plain.stream.read_to_end(&mut alert).unwrap();
    drop((client, socket, fresh, still, plain));
    server.finish();
}
