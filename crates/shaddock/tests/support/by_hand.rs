//! A client that writes and reads its packages by hand, over any stream.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct ByHand<S> {
    stream: S,
    /// What the server says of resumption.
    pub(crate) resume: Value,
    /// DATA that was read.
    pub(crate) received: u64,
    sent: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByHand<S> {
    /// Shakes hands: `sys.resume` and `user` as given.
    pub(crate) async fn come(mut stream: S, resume: Value, user: Value) -> Self {
        let hello = json!({"sys": {"type": "t", "version": "1", "resume": resume}, "user": user});
        send(&mut stream, 1, hello.to_string().as_bytes()).await;
        let (kind, body) = next(&mut stream).await.expect("an answer to the handshake");
        assert_eq!(kind, 1);
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(answer["code"], 200, "{answer}");
        send(&mut stream, 2, b"").await;
        Self {
            stream,
            resume: answer["sys"]["resume"].clone(),
            received: 0,
            sent: 0,
        }
    }

    pub(crate) async fn new(stream: S) -> Self {
        Self::come(stream, json!({"v": 1}), Value::Null).await
    }

    /// What it says when it comes back.
    pub(crate) fn back(&self) -> Value {
        let (token, received, sent) = (&self.resume["token"], self.received, self.sent);
        json!({"v": 1, "token": token, "received": received, "sent": sent})
    }

    /// Loses its connection.
    pub(crate) fn cut(self) -> Lost {
        Lost {
            said: self.back(),
            sent: self.sent,
        }
    }

    pub(crate) async fn request(&mut self, route: &str, body: &Value) -> Value {
        self.sent += 1;
        let mut message = vec![0, 1, u8::try_from(route.len()).expect("short")];
        message.extend(route.bytes());
        message.extend(body.to_string().bytes());
        send(&mut self.stream, 4, &message).await;
        loop {
            if let Data::Answer(body) = self.data().await {
                return body;
            }
        }
    }

    /// The next DATA.
    pub(crate) async fn data(&mut self) -> Data {
        loop {
            let (kind, body) = next(&mut self.stream).await.expect("DATA");
            if kind == 4 {
                self.received += 1;
                return Data::read(&body);
            }
        }
    }

    /// The bodies of pushes up to one to this route.
    pub(crate) async fn pushes_until(&mut self, last: &str) -> Vec<Value> {
        let mut bodies = Vec::new();
        loop {
            match self.data().await {
                Data::Push(route, _) if route == last => return bodies,
                Data::Push(_, body) => bodies.push(body),
                Data::Answer(_) => {}
            }
        }
    }

    /// Acknowledges what was received.
    pub(crate) async fn acknowledge(&mut self) {
        let mut count = self.received;
        let mut body = Vec::new();
        while count >= 0x80 {
            body.push(u8::try_from(count & 0x7f).expect("7 bits") | 0x80);
            count >>= 7;
        }
        body.push(u8::try_from(count).expect("7 bits"));
        send(&mut self.stream, 3, &body).await;
    }

    /// Says goodbye, and waits for the end.
    pub(crate) async fn goodbye(mut self) {
        send(&mut self.stream, 5, b"").await;
        while next(&mut self.stream).await.is_some() {}
    }
}

/// A client without a connection.
pub(crate) struct Lost {
    said: Value,
    sent: u64,
}

impl Lost {
    /// Comes back over this stream, and gets its session.
    pub(crate) async fn again<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) -> ByHand<S> {
        let client = self.comes_as(stream, Value::Null).await;
        assert_eq!(client.resume["resumed"], true, "{}", client.resume);
        client
    }

    /// The same with this `user` in its handshake, whatever it gets.
    pub(crate) async fn comes_as<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        user: Value,
    ) -> ByHand<S> {
        let mut client = ByHand::come(stream, self.said, user).await;
        if client.resume["resumed"] == true {
            client.received = client.resume["position"].as_u64().expect("a position");
            client.sent = self.sent;
        }
        client
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    Answer(Value),
    Push(String, Value),
}

impl Data {
    fn read(body: &[u8]) -> Self {
        let json = |bytes: &[u8]| serde_json::from_slice(bytes).expect("JSON");
        match body {
            [6, length, rest @ ..] => {
                let (route, body) = rest.split_at(usize::from(*length));
                let route = String::from_utf8(route.to_vec()).expect("text");
                Self::Push(route, json(body))
            }
            [4, _id, body @ ..] => Self::Answer(json(body)),
            other => panic!("what is this? {other:?}"),
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) {
    let [_, high, middle, low] = u32::try_from(body.len()).expect("short").to_be_bytes();
    let package = [&[kind, high, middle, low], body].concat();
    // A server that has cut the connection is found when its next package is read.
    let _ = stream.write_all(&package).await;
}

async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        let mut body = vec![0; usize::try_from(length).expect("it fits")];
        stream.read_exact(&mut body).await.ok()?;
        Some((head[0], body))
    };
    timeout(PATIENCE, read).await.expect("a package in time")
}
