//! Helpers of the tests: vectors, hex, and a client without a socket.
#![allow(
    dead_code,
    reason = "each test program uses its own part of this module"
)]

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use shaddock_protocol::{
    Codec, CodecConfig, Conn, Event, Millis, Package, PackageReader, PackageType, ProtocolError,
    encode_package,
};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// A file of golden vectors, parsed.
pub(crate) fn vectors(name: &str) -> Value {
    let path = format!(
        "{}/../../tests/vectors/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// The cases of a file of golden vectors.
pub(crate) fn cases(name: &str) -> Vec<Value> {
    vectors(name)["cases"].as_array().unwrap().clone()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(crate) fn codec(config: CodecConfig) -> Arc<Codec> {
    Arc::new(Codec::new(config))
}

/// One package as bytes.
pub(crate) fn package(kind: PackageType, body: &[u8]) -> Vec<u8> {
    encode_package(kind, body).unwrap().to_vec()
}

pub(crate) fn data(message: &[u8]) -> Vec<u8> {
    package(PackageType::Data, message)
}

/// A request with a route in text form and an id below 128.
pub(crate) fn request(id: u8, route: &str, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0, id, u8::try_from(route.len()).unwrap()];
    message.extend_from_slice(route.as_bytes());
    message.extend_from_slice(body);
    data(&message)
}

pub(crate) fn notify(route: &str, body: &[u8]) -> Vec<u8> {
    let mut message = vec![2, u8::try_from(route.len()).unwrap()];
    message.extend_from_slice(route.as_bytes());
    message.extend_from_slice(body);
    data(&message)
}

pub(crate) fn handshake(json: &str) -> Vec<u8> {
    package(PackageType::Handshake, json.as_bytes())
}

pub(crate) const ACK: &[u8] = b"\x02\x00\x00\x00";
pub(crate) const HEARTBEAT: &[u8] = b"\x03\x00\x00\x00";

pub(crate) const POMELO: &str = r#"{"sys":{"type":"js-websocket","version":"0.0.1"}}"#;
pub(crate) const PITAYA: &str = r#"{"sys":{"platform":"ios","libVersion":"1.0","clientBuildNumber":"20","clientVersion":"2.1"}}"#;

/// A connection, a clock that is set by hand, and what the connection has written.
pub(crate) struct Link {
    pub(crate) conn: Conn,
    pub(crate) now: Millis,
    pub(crate) out: BytesMut,
    /// Bytes that the connection has not taken yet.
    pub(crate) input: Bytes,
}

impl Link {
    pub(crate) fn new(config: CodecConfig) -> Self {
        let now = Millis(1_000);
        Self {
            conn: Conn::new(codec(config), now),
            now,
            out: BytesMut::new(),
            input: Bytes::new(),
        }
    }

    /// A link whose handshake is done. Nothing is left to read.
    pub(crate) fn open(config: CodecConfig, sys: &str) -> Self {
        let mut link = Self::new(config);
        let events = link
            .feed_accepting(&[&handshake(sys), ACK].concat())
            .unwrap();
        assert!(
            matches!(events[..], [Event::Handshake(_), Event::Open]),
            "{events:?}"
        );
        link.out.clear();
        link
    }

    /// The next event, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, ProtocolError> {
        self.conn
            .poll_event(self.now, &mut self.input, &mut self.out)
    }

    /// Everything that these bytes mean.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ProtocolError> {
        self.input = Bytes::from([&self.input, bytes].concat());
        let mut events = Vec::new();
        while let Some(event) = self.next()? {
            events.push(event);
        }
        Ok(events)
    }

    /// The same; a handshake is accepted at once.
    pub(crate) fn feed_accepting(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ProtocolError> {
        let mut events = self.feed(bytes)?;
        if matches!(events.last(), Some(Event::Handshake(_))) {
            self.conn.accept(self.now, None, &mut self.out).unwrap();
            events.extend(self.feed(b"")?);
        }
        Ok(events)
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    /// The packages written since the last call.
    pub(crate) fn written(&mut self) -> Vec<Package> {
        packages(&self.out.split())
    }

    /// The bodies of the packages written since the last call, as text.
    pub(crate) fn written_text(&mut self) -> Vec<(PackageType, String)> {
        let text = |package: Package| {
            (
                package.kind,
                String::from_utf8_lossy(&package.body).into_owned(),
            )
        };
        self.written().into_iter().map(text).collect()
    }
}

/// Bytes as packages, all of them complete.
pub(crate) fn packages(bytes: &[u8]) -> Vec<Package> {
    let mut input = Bytes::copy_from_slice(bytes);
    let mut reader = PackageReader::new();
    let mut packages = Vec::new();
    while let Some(package) = reader.next(&mut input, usize::MAX).unwrap() {
        packages.push(package);
    }
    assert!(!reader.is_mid_package(), "cut package");
    packages
}
