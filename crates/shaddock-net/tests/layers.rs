//! The layers before the protocol: every change from one layer to the next, and the owner of the connection.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use shaddock_net::{ListenConfig, TlsFiles, TlsReloader};
use shaddock_protocol::PackageType;
use support::{Client, HANDSHAKE, Server, connect, limits, package, start_with};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\x0f\xa0\x01\xbb";
const TOLD: &str = "192.0.2.1:4000";

struct Tls {
    reloader: Arc<TlsReloader>,
    client: Arc<ClientConfig>,
}

impl Tls {
    fn new(name: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let files = TlsFiles {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let der: CertificateDer<'static> = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(der).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            reloader: TlsReloader::new(files).unwrap(),
            client: Arc::new(client),
        }
    }

    fn over<S: Read + Write>(&self, stream: S) -> StreamOwned<ClientConnection, S> {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(
            ClientConnection::new(self.client.clone(), name).unwrap(),
            stream,
        )
    }
}

/// A socket that sends `head` in one piece with what is written first, cut in two after `at` bytes. The second part leaves when the server
/// has read the first one, as far as it counts such bytes (before TLS).
struct Cut<'a> {
    stream: TcpStream,
    head: Option<&'a [u8]>,
    at: usize,
    server: &'a Server,
    is_tls: bool,
}

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Cut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(head) = self.head.take() else {
            return self.stream.write(bytes);
        };
        let all = [head, bytes].concat();
        let (first, second) = all.split_at(self.at.min(all.len()));
        let before = self.server.stats().bytes_in;
        self.stream.write_all(first)?;
        if !self.is_tls || self.at <= head.len() {
            let wanted = before + first.len() as u64;
            self.server
                .until(&format!("{} bytes are read", self.at), |server| {
                    server.stats().bytes_in >= wanted
                });
        }
        self.stream.write_all(second)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn behind(config: &mut ListenConfig) {
    config.proxy_protocol = true;
    let local = "127.0.0.0/8".parse().unwrap();
    config.access.trusted_proxies.push(local);
}

/// The address and the transport of the only session.
fn only_session(server: &Server) -> (SocketAddr, &'static str) {
    let mut all = Vec::new();
    server
        .echo
        .sessions
        .for_each_session(|s| all.push((s.client().address.unwrap(), s.client().transport.name())));
    assert_eq!(all.len(), 1);
    all[0]
}

fn talk<S: Read + Write>(mut client: Client<S>) -> Client<S> {
    client.join();
    assert_eq!(client.request(1, "a.b.echo", "{}"), "{}");
    client
}

/// Packages in WebSocket messages, as a stream.
struct Framed<S> {
    socket: tungstenite::WebSocket<S>,
    rest: bytes::Bytes,
}

impl<S: Read + Write> Framed<S> {
    fn open(stream: S) -> Self {
        let (socket, _) = tungstenite::client("ws://localhost/x", stream)
            .map_err(|error| error.to_string())
            .unwrap();
        Self {
            socket,
            rest: bytes::Bytes::new(),
        }
    }
}

impl<S: Read + Write> Read for Framed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.socket.read().map_err(io::Error::other)? {
                tungstenite::Message::Binary(bytes) => self.rest = bytes,
                tungstenite::Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let part = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl<S: Read + Write> Write for Framed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let message = tungstenite::Message::binary(bytes.to_vec());
        self.socket.send(message).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No head, v1, v2; plain, TLS; packages, WebSocket; cut at every byte of the head and the first ones behind it, and in one piece.
#[test]
fn what_is_read_past_a_layer_goes_to_the_next() {
    let tls = Tls::new("layers");
    for with_tls in [false, true] {
        for (head, address) in [(&b""[..], None), (V1, Some(TOLD)), (V2, Some(TOLD))] {
            let server = start_with(
                |config| {
                    if !head.is_empty() {
                        behind(config);
                    }
                    if with_tls {
                        config.tls = Some(tls.reloader.clone());
                    }
                },
                limits(),
                |_| {},
            );
            for with_frames in [false, true] {
                for cut in (0..head.len() + 8).chain([usize::MAX]) {
                    let stream = connect(&server).stream;
                    let local = stream.local_addr().unwrap();
                    let stream = Cut {
                        stream,
                        head: Some(head),
                        at: cut,
                        server: &server,
                        is_tls: with_tls,
                    };
                    let check = |name| {
                        let wanted = address.map_or(local, |text| text.parse().unwrap());
                        assert_eq!(only_session(&server), (wanted, name), "cut at {cut}");
                    };
                    match (with_tls, with_frames) {
                        (false, false) => drop((talk(Client::new(stream)), check("tcp"))),
                        (false, true) => {
                            let client = talk(Client::new(Framed::open(stream)));
                            drop((client, check("ws")));
                        }
                        (true, false) => {
                            drop((talk(Client::new(tls.over(stream))), check("tls")));
                        }
                        (true, true) => {
                            let client = talk(Client::new(Framed::open(tls.over(stream))));
                            drop((client, check("wss")));
                        }
                    }
                    server.until("the session is gone", |s| {
                        s.echo.sessions.session_count() == 0 && s.open_connections() == 0
                    });
                }
            }
            server.finish();
        }
    }
}

#[test]
fn plain_bytes_behind_a_proxy_head_are_not_served_where_tls_is() {
    let tls = Tls::new("plain-behind-head");
    let server = start_with(
        |config| {
            behind(config);
            config.tls = Some(tls.reloader.clone());
        },
        limits(),
        |_| {},
    );
    let hello = package(PackageType::Handshake, HANDSHAKE);
    let upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for head in [V1, V2] {
        for plain in [&hello[..], upgrade] {
            for cut in (0..head.len() + plain.len()).chain([usize::MAX]) {
                let mut stream = Cut {
                    stream: connect(&server).stream,
                    head: Some(head),
                    at: cut,
                    server: &server,
                    is_tls: true,
                };
                stream.write_all(plain).unwrap();
                let mut answer = Vec::new();
                // A reset is as good an end as any.
                let _ = stream.read_to_end(&mut answer);
                // At most an alert of TLS.
                assert!(
                    answer.is_empty() || answer.starts_with(b"\x15\x03"),
                    "cut at {cut}: {}",
                    String::from_utf8_lossy(&answer)
                );
            }
        }
    }
    let reasons = server.stats().closed;
    assert!(!reasons.contains_key("unknown_first_byte"), "{reasons:?}");
    server.finish();
}

/// The first line of the answer to an upgrade with `lines` in its head, after `head`. The connection stays open while the answer is held.
fn ask(server: &Server, head: &str, lines: &str) -> (String, TcpStream) {
    let mut stream = connect(server).stream;
    let text = format!(
        "{head}GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    (answer.lines().next().unwrap_or_default().into(), stream)
}

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols";
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

/// Whatever a trusted proxy says or does not say, lists and limits are applied to an address that was read, or the client stays out.
#[test]
fn a_malformed_address_header_rejects_the_client() {
    let server = start_with(
        |config| {
            let access = &mut config.access;
            access.trusted_proxies.push("127.0.0.0/8".parse().unwrap());
            access.deny.push("192.0.2.66".parse().unwrap());
            access.max_connections_per_address = 1;
            config.upgrade.address_header = Some("x-forwarded-for".into());
        },
        limits(),
        |_| {},
    );
    let cases = [
        ("X-Forwarded-For: 192.0.2.1\r\n", GRANTED, ""),
        ("X-Forwarded-For: 192.0.2.1:4711\r\n", GRANTED, ""),
        ("X-Forwarded-For: [2001:db8::1]:4711\r\n", GRANTED, ""),
        ("X-Forwarded-For: 192.0.2.66\r\n", FORBIDDEN, "denied"),
        ("X-Forwarded-For: 192.0.2.66:4711\r\n", FORBIDDEN, "denied"),
        (
            "X-Forwarded-For: ::ffff:192.0.2.66\r\n",
            FORBIDDEN,
            "denied",
        ),
        (
            "X-Forwarded-For: [::ffff:192.0.2.66]:1\r\n",
            FORBIDDEN,
            "denied",
        ),
        // The client's own line first, then the proxy's.
        (
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.66\r\n",
            FORBIDDEN,
            "denied",
        ),
        (
            "X-Forwarded-For: 192.0.2.66, 127.0.0.9\r\n",
            FORBIDDEN,
            "denied",
        ),
        ("", FORBIDDEN, "no_client_address"),
        ("X-Forwarded-For:\r\n", FORBIDDEN, "no_client_address"),
        (
            "X-Forwarded-For: unknown\r\n",
            FORBIDDEN,
            "no_client_address",
        ),
        (
            "X-Forwarded-For: 192.0.2.1, unknown\r\n",
            FORBIDDEN,
            "no_client_address",
        ),
    ];
    for (lines, wanted, refusal) in cases {
        let count = |server: &Server| server.stats().refused.get(refusal).copied().unwrap_or(0);
        let before = count(&server);
        let (answer, stream) = ask(&server, "", lines);
        assert_eq!(answer, wanted, "{lines:?}");
        if wanted != GRANTED {
            assert_eq!(count(&server), before + 1, "{lines:?}");
        }
        drop(stream);
        server.until("it is gone", |s| s.open_connections() == 0);
    }
    let one = "X-Forwarded-For: 192.0.2.1\r\n";
    let (_, first) = ask(&server, "", one);
    assert_eq!(ask(&server, "", one).0, UNAVAILABLE);
    assert_eq!(server.stats().refused["too_many_from_address"], 1);
    drop(first);
    server.until("both are gone", |s| s.open_connections() == 0);
    assert_eq!(ask(&server, "", one).0, GRANTED, "the count was given back");
    server.finish();
}

/// Two proxies, one with a PROXY head and one with a header: the client counts once, for its own address, and is given back.
#[test]
fn a_client_behind_two_proxies_counts_once() {
    let server = start_with(
        |config| {
            behind(config);
            config
                .access
                .trusted_proxies
                .push("10.0.0.0/8".parse().unwrap());
            config.access.max_connections_per_address = 1;
            config.upgrade.address_header = Some("x-forwarded-for".into());
        },
        limits(),
        |_| {},
    );
    let head = "PROXY TCP4 10.0.0.1 198.51.100.7 4000 443\r\n";
    let one = "X-Forwarded-For: 192.0.2.1\r\n";
    for _ in 0..3 {
        // One of which nothing is known yet but its proxy.
        let mut half = connect(&server).stream;
        let before = server.stats().bytes_in;
        half.write_all(head.as_bytes()).unwrap();
        server.until("its head is read", |s| s.stats().bytes_in > before);
        let (answer, first) = ask(&server, head, one);
        assert_eq!(answer, GRANTED);
        assert_eq!(ask(&server, head, one).0, UNAVAILABLE);
        let (answer, other) = ask(&server, head, "X-Forwarded-For: 192.0.2.2\r\n");
        assert_eq!(answer, GRANTED, "the proxy itself does not count");
        drop((half, first, other));
        server.until("they are gone", |s| s.open_connections() == 0);
    }
    // Not a proxy: its header is its own.
    let head = "PROXY TCP4 192.0.2.9 198.51.100.7 4000 443\r\n";
    let (answer, first) = ask(&server, head, one);
    assert_eq!(answer, GRANTED);
    assert_eq!(ask(&server, head, "X-Forwarded-For: 192.0.2.3\r\n").0, "");
    drop(first);
    server.until("they are gone", |s| s.open_connections() == 0);
    server.finish();
}

/// A balancer that speaks for itself is judged as itself.
#[test]
fn a_head_that_names_no_client_skips_no_list() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
    for (head, proxy_protocol) in [
        (&b"PROXY UNKNOWN\r\n"[..], true),
        (local, true),
        (b"", false),
    ] {
        let server = start_with(
            |config| {
                behind(config);
                config.proxy_protocol = proxy_protocol;
                config.access.deny.push("127.0.0.1".parse().unwrap());
            },
            limits(),
            |_| {},
        );
        let mut client = connect(&server);
        let hello = package(PackageType::Handshake, HANDSHAKE);
        client.stream.write_all(&[head, &hello].concat()).unwrap();
        assert!(client.rest().is_empty());
        assert_eq!(server.stats().refused["denied"], 1);
        server.finish();
    }
}

/// On a socket for both families, IPv4 clients have addresses mapped into IPv6.
#[test]
fn mapped_addresses_are_ipv4_addresses_everywhere() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // A machine without IPv6 has no such addresses.
    }
    for denied in ["127.0.0.0/8", "::ffff:127.0.0.0/104"] {
        let mut server = start_with(
            |config| config.address = "[::]:0".parse().unwrap(),
            limits(),
            |_| {},
        );
        server.address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
        let client = talk(connect(&server));
        let local = client.stream.local_addr().unwrap();
        assert_eq!(only_session(&server), (local, "tcp"));
        let mut policy = shaddock_net::AccessPolicy::default();
        policy.deny.push(denied.parse().unwrap());
        server.listener.as_ref().unwrap().set_access(policy);
        assert!(connect(&server).rest().is_empty(), "{denied}");
        drop(client);
        server.finish();
    }
}
