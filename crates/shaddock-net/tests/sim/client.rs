//! A client that does what the test tells it, and reads what it gets to the letter.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use shaddock_net::memory::{Faults, MemorySocket};
use shaddock_protocol::{Package, PackageReader, PackageType, encode_package};

use crate::tls::ClientTls;

const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[allow(clippy::struct_excessive_bools)]
pub struct Client {
    pub address: SocketAddr,
    /// `None`: it has gone.
    pub socket: Option<MemorySocket>,
    pub faults: Faults,
    websocket: bool,
    tls: Option<ClientTls>,
    input: BytesMut,
    upgraded: bool,
    reader: PackageReader,
    /// Everything that came, heartbeats apart.
    pub packages: Vec<Package>,
    /// The server has closed, or the connection was reset.
    pub ended: bool,
    /// The status of the server's close frame.
    pub close_status: Option<u16>,
    /// The client received bytes that a server must not send.
    pub garbage: Option<String>,
    /// It acknowledges a handshake by itself.
    pub acknowledges: bool,
    acknowledged: bool,
    /// Bodies of HEARTBEATs.
    pub beats: Vec<Bytes>,
    pub next_id: u8,
    /// Ids of requests that were sent whole.
    pub asked: Vec<u64>,
    checked: usize,
}

impl Client {
    pub fn new(address: SocketAddr, socket: MemorySocket, faults: Faults, websocket: bool) -> Self {
        let client = Self {
            address,
            socket: Some(socket),
            faults,
            websocket,
            tls: None,
            input: BytesMut::new(),
            upgraded: !websocket,
            reader: PackageReader::new(),
            packages: Vec::new(),
            ended: false,
            close_status: None,
            garbage: None,
            acknowledges: true,
            acknowledged: false,
            beats: Vec::new(),
            next_id: 0,
            asked: Vec::new(),
            checked: 0,
        };
        if websocket {
            client.send_raw(UPGRADE);
        }
        client
    }

    /// Over TLS. Nothing is sent before the first bytes are [sealed](Self::seal).
    pub fn over_tls(
        address: SocketAddr,
        socket: MemorySocket,
        faults: Faults,
        websocket: bool,
    ) -> Self {
        let mut client = Self::new(address, socket, faults, false);
        client.tls = Some(ClientTls::new());
        (client.websocket, client.upgraded) = (websocket, !websocket);
        client
    }

    /// The bytes on the wire: these bytes, or records of TLS. Also the messages of TLS itself.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.tls {
            Some(tls) => tls.seal(bytes),
            None => bytes.to_vec(),
        }
    }

    /// How a WebSocket connection over TLS begins.
    pub fn upgrade(&self) -> &'static [u8] {
        if self.websocket && self.tls.is_some() {
            UPGRADE
        } else {
            b""
        }
    }

    pub fn send_raw(&self, bytes: &[u8]) {
        if let Some(socket) = &self.socket {
            // The server may have closed.
            let _ = socket.send(bytes);
        }
    }

    /// One WebSocket message, or the bytes as they are.
    pub fn framed(&self, packages: &[u8]) -> Vec<u8> {
        if !self.websocket {
            return packages.to_vec();
        }
        // Masked with zeros, which changes nothing.
        let mut frame = vec![0x82];
        let length = packages.len();
        if length < 126 {
            frame.push(0x80 | u8::try_from(length).unwrap());
        } else {
            frame.push(0xfe);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        frame.extend([0; 4]);
        frame.extend(packages);
        frame
    }

    pub fn send(&self, packages: &[u8]) {
        self.send_raw(&self.framed(packages));
    }

    pub fn heartbeat(&self) {
        self.send(&package(PackageType::Heartbeat, b""));
    }

    /// Sends a handshake. The acknowledgement follows when the answer is [read](Self::read).
    pub fn join(&mut self, version: &str) {
        let body = format!(r#"{{"sys":{{"type":"test","version":"{version}"}}}}"#);
        self.send(&package(PackageType::Handshake, body.as_bytes()));
    }

    /// A request, as a package.
    pub fn request(&mut self, method: &str) -> Bytes {
        self.next_id = self.next_id % 100 + 1;
        request(self.next_id, &format!("a.b.{method}"), "{}")
    }

    pub fn ask(&mut self, method: &str) -> u64 {
        let package = self.request(method);
        self.asked.push(u64::from(self.next_id));
        self.send(&package);
        u64::from(self.next_id)
    }

    /// Reads all that has come, and acknowledges a handshake.
    pub fn read(&mut self) {
        let Some(socket) = &self.socket else {
            return;
        };
        match socket.receive() {
            Some(bytes) => match &mut self.tls {
                Some(tls) => self.garbage = tls.open(&bytes, &mut self.input).err(),
                None => self.input.extend_from_slice(&bytes),
            },
            None => self.ended = true,
        }
        while let Some(mut bytes) = self.next_message() {
            self.take(&mut bytes);
        }
        let answered = self.packages.first();
        let accepted = answered.is_some_and(|answer| answer.body.starts_with(b"{\"code\":200"));
        if accepted && self.acknowledges && !self.acknowledged {
            self.acknowledged = true;
            self.send(&package(PackageType::HandshakeAck, b""));
        }
    }

    fn take(&mut self, bytes: &mut Bytes) {
        loop {
            match self.reader.next(bytes, 1 << 24) {
                Ok(Some(package)) if package.kind == PackageType::Heartbeat => {
                    self.beats.push(package.body);
                }
                Ok(Some(package)) => self.packages.push(package),
                Ok(None) => return,
                Err(error) => {
                    self.garbage = Some(error.to_string());
                    return;
                }
            }
        }
    }

    fn next_message(&mut self) -> Option<Bytes> {
        if !self.upgraded {
            let end = self.input.windows(4).position(|four| four == b"\r\n\r\n")?;
            let head = self.input.split_to(end + 4);
            if !head.starts_with(b"HTTP/1.1 101") {
                self.garbage = Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.upgraded = true;
        }
        if !self.websocket {
            let all = self.input.split().freeze();
            return (!all.is_empty()).then_some(all);
        }
        let (head, length) = match self.input.get(1)? {
            length @ 0..=125 => (2, usize::from(*length)),
            126 => (4, usize::from(self.input.get(2..4)?.get_u16())),
            127 => (10, usize::try_from(self.input.get(2..10)?.get_u64()).ok()?),
            masked => {
                self.garbage = Some(format!("a frame of the server with {masked:x}"));
                return None;
            }
        };
        if self.input.len() < head + length {
            return None;
        }
        let mut frame = self.input.split_to(head + length).freeze();
        let kind = frame[0];
        frame.advance(head);
        match kind {
            0x82 => Some(frame),
            0x88 => {
                self.close_status = Some(frame.get_u16());
                self.next_message()
            }
            0x8a => self.next_message(),
            other => {
                self.garbage = Some(format!("a frame of the server of kind {other:x}"));
                None
            }
        }
    }

    pub fn data(&self) -> impl Iterator<Item = &Bytes> {
        let data = |package: &&Package| package.kind == PackageType::Data;
        self.packages
            .iter()
            .filter(data)
            .map(|package| &package.body)
    }

    pub fn answers(&self) -> Vec<u64> {
        let answers = self.data().filter(|body| body[0] & 0x0e == 0x04);
        answers.map(|body| u64::from(body[1])).collect()
    }

    /// The text of the KICK, if one has come.
    pub fn kick(&self) -> Option<String> {
        let kick = self.packages.iter().find(|p| p.kind == PackageType::Kick)?;
        Some(String::from_utf8(kick.body.to_vec()).unwrap())
    }

    /// The received messages must be a prefix of those that were accepted for the client, and nothing follows a KICK.
    pub fn check(&mut self, accepted: &[Bytes]) -> Result<(), String> {
        let address = self.address;
        if let Some(garbage) = &self.garbage {
            return Err(format!("{address} got what no server sends: {garbage}"));
        }
        let got: Vec<_> = self.data().skip(self.checked).cloned().collect();
        for body in got {
            if accepted.get(self.checked) != Some(&body) {
                let text = String::from_utf8_lossy(&body).into_owned();
                let n = self.checked;
                return Err(format!("{address}: message {n} is not its own: {text}"));
            }
            self.checked += 1;
        }
        let kick = self
            .packages
            .iter()
            .position(|p| p.kind == PackageType::Kick);
        if kick.is_some_and(|kick| kick + 1 < self.packages.len()) {
            return Err(format!("{address}: something follows the KICK"));
        }
        Ok(())
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
