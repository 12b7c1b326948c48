//! A client that comes back to its session: the protocol from the client's side, as plainly as it can be written.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use shaddock_protocol::{Dialect, PackageType, put_heartbeat};

use crate::{
    client::{Client, package, request},
    world::World,
};

/// How a client's own side of a connection ends after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Reset,
    /// An orderly end of the stream, without a goodbye.
    Finish,
    /// The client opens another connection, and the first one looks alive to the server.
    Forget,
}

#[allow(clippy::struct_excessive_bools)]
pub struct Traveller {
    pub address: SocketAddr,
    pub websocket: bool,
    pub tls: bool,
    pub dialect: Dialect,
    pub link: Option<Client>,
    /// Connections that it has turned away from, and that the server may think alive.
    pub old: Vec<Client>,
    /// The handshake is done.
    pub working: bool,
    handled: usize,
    beats: usize,
    pub token: Option<String>,
    pub version: &'static str,
    /// The resumption that it claims instead of the true one.
    pub lie: Option<Value>,
    /// It acknowledges the answer to its handshake before it has it.
    pub eager: bool,
    /// It takes what is sent again directly behind the answer.
    pub early: bool,
    ack: u64,
    pub received: u64,
    told: u64,
    pub sent: u64,
    acked: u64,
    pub kept: VecDeque<Bytes>,
    /// Bodies of the DATA that the application has seen.
    pub seen: Vec<Bytes>,
    pub missed: u64,
    pub resumed: usize,
    /// The response of the server when it did not return the session.
    pub restarted: Vec<String>,
    pub kicked: Option<Bytes>,
    /// Bytes that it may still send on this connection, and what happens then.
    pub fuse: Option<(usize, Cut)>,
    /// Bytes sent on this connection.
    pub wrote: usize,
    pub connections: usize,
}

impl Traveller {
    pub fn new(address: SocketAddr, websocket: bool, dialect: Dialect) -> Self {
        Self {
            address,
            websocket,
            tls: false,
            dialect,
            link: None,
            old: Vec::new(),
            working: false,
            handled: 0,
            beats: 0,
            token: None,
            version: "1",
            lie: None,
            eager: false,
            early: false,
            ack: 0,
            received: 0,
            told: 0,
            sent: 0,
            acked: 0,
            kept: VecDeque::new(),
            seen: Vec::new(),
            missed: 0,
            resumed: 0,
            restarted: Vec::new(),
            kicked: None,
            fuse: None,
            wrote: 0,
            connections: 0,
        }
    }

    /// Opens a connection, to another worker than the last one, and sends the handshake.
    pub fn connect(&mut self, world: &World) {
        self.connections += 1;
        // With a session, every other time to the other frontend, if there is one.
        let connector = match &world.door {
            Some((_, door)) if self.token.is_some() && self.connections.is_multiple_of(2) => door,
            _ => &world.connector,
        };
        let worker = self.connections / (1 + usize::from(world.door.is_some()));
        let (socket, faults) = connector.connect(worker, self.address);
        let client = if self.tls {
            Client::over_tls
        } else {
            Client::new
        };
        let mut client = client(self.address, socket, faults, self.websocket);
        client.acknowledges = false;
        self.link = Some(client);
        (self.working, self.handled, self.beats, self.wrote) = (false, 0, 0, 0);
        let resume = match &self.token {
            Some(token) => {
                let (received, sent) = (self.received, self.sent);
                json!({"v": 1, "token": token, "received": received, "sent": sent, "early": self.early})
            }
            None => json!({"v": 1}),
        };
        let resume = self.lie.take().unwrap_or(resume);
        let sys = match self.dialect {
            Dialect::Pomelo => json!({"type": "test", "version": self.version, "resume": resume}),
            Dialect::Pitaya => json!({"platform": "test", "libVersion": "1", "resume": resume}),
        };
        let body = json!({"sys": sys}).to_string();
        let mut hello = package(PackageType::Handshake, body.as_bytes()).to_vec();
        if self.eager {
            hello.extend_from_slice(&package(PackageType::HandshakeAck, b""));
        }
        if let Some(link) = &self.link {
            let hello = [link.upgrade(), &link.framed(&hello)].concat();
            self.write(&hello);
        }
    }

    /// Turns away from its connection, which it does not close.
    pub fn forget_link(&mut self) {
        self.old.extend(self.link.take());
        self.working = false;
    }

    pub fn send(&mut self, packages: &[u8]) {
        let Some(link) = &self.link else { return };
        let bytes = link.framed(packages);
        self.write(&bytes);
    }

    /// Writes to its connection, until the fuse blows.
    fn write(&mut self, bytes: &[u8]) {
        let Some(link) = &mut self.link else { return };
        let bytes = link.seal(bytes);
        if let Some((left, cut)) = &mut self.fuse {
            if *left < bytes.len() {
                link.send_raw(&bytes[..*left]);
                let cut = *cut;
                self.fuse = None;
                match cut {
                    Cut::Reset => link.faults.reset(),
                    Cut::Finish => link.socket.as_ref().unwrap().finish(),
                    Cut::Forget => {}
                }
                if cut == Cut::Forget {
                    self.forget_link();
                } else {
                    self.link = None;
                    self.working = false;
                }
                return;
            }
            *left -= bytes.len();
        }
        self.wrote += bytes.len();
        link.send_raw(&bytes);
    }

    pub fn ask(&mut self, method: &str) {
        self.sent += 1;
        let id = u8::try_from(self.sent).unwrap();
        assert!(id < 128, "ids of one byte");
        let package = request(id, &format!("a.b.{method}"), "{}");
        self.kept.push_back(package.clone());
        if self.working {
            self.send(&package);
        }
    }

    pub fn goodbye(&mut self) {
        self.send(&package(PackageType::Kick, b""));
    }

    pub fn heartbeat(&mut self) {
        if self.working {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        let mut out = BytesMut::new();
        let news = self.received > self.told;
        self.told = self.received;
        put_heartbeat(news.then_some(self.received), &mut out);
        self.send(&out);
    }

    /// Reads all that has come, and does what follows.
    pub fn read(&mut self) {
        loop {
            let Some(link) = &mut self.link else { return };
            link.read();
            assert_eq!(link.garbage, None);
            // The handshake of TLS goes on.
            self.write(b"");
            let Some(link) = &mut self.link else { return };
            if let Some(package) = link.packages.get(self.handled).cloned() {
                self.handled += 1;
                match package.kind {
                    PackageType::Handshake => self.shaken(&package.body),
                    PackageType::Data => {
                        assert!(self.working, "DATA before the acknowledgement");
                        self.received += 1;
                        self.seen.push(package.body);
                        if self.received - self.told >= self.ack && self.ack > 0 {
                            self.acknowledge();
                        }
                    }
                    PackageType::Kick => self.kicked = Some(package.body),
                    other => panic!("{other:?} from a server"),
                }
                continue;
            }
            if let Some(body) = link.beats.get(self.beats).cloned() {
                self.beats += 1;
                if !body.is_empty() {
                    self.forget(varint(&body));
                }
                continue;
            }
            if link.ended {
                self.link = None;
                self.working = false;
            }
            return;
        }
    }

    fn forget(&mut self, count: u64) {
        assert!(
            (self.acked..=self.sent).contains(&count),
            "the server acknowledges {count} of {} after {}",
            self.sent,
            self.acked
        );
        for _ in self.acked..count {
            self.kept.pop_front().unwrap();
        }
        self.acked = count;
    }

    fn shaken(&mut self, body: &[u8]) {
        let answer: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(answer["code"], 200, "{answer}");
        let resume = &answer["sys"]["resume"];
        let number = |name: &str| resume[name].as_u64().unwrap();
        let had = self.token.take();
        self.token = resume["token"].as_str().map(str::to_owned);
        self.ack = resume["ack"].as_u64().unwrap_or(0);
        if !self.eager {
            self.send(&package(PackageType::HandshakeAck, b""));
        }
        if self.link.is_some() {
            self.working = true;
        }
        if resume["resumed"] == true {
            self.resumed += 1;
            self.forget(number("received"));
            assert!(number("position") >= self.received);
            self.missed += number("missed");
            self.received = number("position");
            self.told = self.received;
        } else if had.is_some() {
            let why = resume["why"].as_str().unwrap_or("not offered");
            self.restarted.push(why.to_owned());
            (self.received, self.told, self.sent, self.acked) = (0, 0, 0, 0);
            self.kept.clear();
        }
        for package in self.kept.clone() {
            self.send(&package);
        }
    }
}

pub fn varint(body: &[u8]) -> u64 {
    let parts = body.iter().enumerate();
    parts
        .map(|(n, byte)| u64::from(byte & 0x7f) << (7 * n))
        .sum()
}
