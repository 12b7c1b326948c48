//! A server that follows a script: it reads and writes packages by hand, so that tests can be as wrong as they like.
#![allow(dead_code, reason = "each test file uses a part")]

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use shaddock_client::{Client, ClientBuilder};
use shaddock_protocol::{
    Message, MessageType, Package, PackageReader, PackageType, WireRoute, encode_package,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

/// The server's end of a connection.
pub(crate) struct Peer<S> {
    pub(crate) io: S,
    reader: PackageReader,
    input: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            io,
            reader: PackageReader::new(),
            input: Bytes::new(),
        }
    }

    /// The next package; `None` if the client is gone.
    pub(crate) async fn next(&mut self) -> Option<Package> {
        loop {
            if let Some(package) = self.reader.next(&mut self.input, 1 << 24).unwrap() {
                return Some(package);
            }
            let mut bytes = BytesMut::new();
            if self.io.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            self.input = bytes.freeze();
        }
    }

    /// The next package, which must be of this kind.
    pub(crate) async fn expect(&mut self, kind: PackageType) -> Bytes {
        let package = self.next().await.expect("the client is gone");
        assert_eq!(package.kind, kind);
        package.body
    }

    /// The next message, past heartbeats.
    pub(crate) async fn message(&mut self) -> Message {
        loop {
            let package = self.next().await.expect("the client is gone");
            if package.kind == PackageType::Data {
                return Message::decode(package.body).unwrap();
            }
        }
    }

    pub(crate) async fn send(&mut self, kind: PackageType, body: &[u8]) {
        let package = encode_package(kind, body).unwrap();
        self.io.write_all(&package).await.unwrap();
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        let mut body = BytesMut::new();
        message.encode(&mut body).unwrap();
        self.send(PackageType::Data, &body).await;
    }

    pub(crate) async fn answer(&mut self, id: u64, body: impl AsRef<[u8]>) {
        self.send_message(response(id, body)).await;
    }

    pub(crate) async fn push(&mut self, route: &str, body: impl AsRef<[u8]>) {
        let body = Bytes::copy_from_slice(body.as_ref());
        let route = WireRoute::Name(Bytes::copy_from_slice(route.as_bytes()));
        self.send_message(Message::new(MessageType::Push, 0, route, body))
            .await;
    }

    /// Answers the handshake and waits for the ACK. Gives back what the client said.
    pub(crate) async fn handshake(&mut self, answer: &Value) -> Value {
        let said = self.expect(PackageType::Handshake).await;
        self.send(PackageType::Handshake, answer.to_string().as_bytes())
            .await;
        self.expect(PackageType::HandshakeAck).await;
        serde_json::from_slice(&said).unwrap()
    }
}

pub(crate) fn response(id: u64, body: impl AsRef<[u8]>) -> Message {
    let body = Bytes::copy_from_slice(body.as_ref());
    Message::new(MessageType::Response, id, WireRoute::None, body)
}

pub(crate) fn plain() -> Value {
    json!({"code": 200, "sys": {}})
}

/// A client and its server, connected in memory.
pub(crate) async fn pair(builder: &ClientBuilder, answer: Value) -> (Client, Peer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut peer = Peer::new(far);
    let (client, _) = tokio::join!(builder.connect_io(near, |_| ()), peer.handshake(&answer));
    (client.unwrap().0, peer)
}

pub(crate) async fn plain_pair() -> (Client, Peer<DuplexStream>) {
    pair(&Client::builder(), plain()).await
}
