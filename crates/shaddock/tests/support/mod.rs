//! Clients without sockets: messages go straight into the dispatcher, answers are read from the session's queue.
#![allow(dead_code, reason = "each test file uses a part of it")]

#[path = "../../../shaddock-cluster/tests/support/wait.rs"]
pub(crate) mod wait;

pub(crate) mod by_hand;
pub(crate) mod roaming;
pub(crate) mod unreliable;

use std::{collections::VecDeque, num::NonZeroU64, sync::Arc, task::Waker};

use bytes::{Buf, Bytes};
use serde_json::{Value, json};
use shaddock::{
    app::{App, AppHandle, Running, Servers},
    session::{FrontendId, Session, Sid, Uid},
    wire::{
        Dialect, Frontend, HandshakeRequest, Inbound, MaybeReady, Opened, Peer, Route,
        TransportKind,
    },
};
use shaddock_core::{Drained, Next};
use shaddock_protocol::{
    DialectChoice, Message, MessageType, PackageReader, PackageType, WireRoute,
};
pub(crate) use wait::until as eventually;

/// What a client read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum In {
    Answer { id: u64, body: Value, error: bool },
    Push { route: String, body: Value },
    Kick { reason: String },
}

/// A client that is connected without a socket.
pub(crate) struct Client {
    frontend: Arc<dyn Frontend>,
    pub(crate) session: Arc<Session>,
    next: u64,
    reader: PackageReader,
    inbox: VecDeque<In>,
    pub(crate) closed: bool,
}

pub(crate) async fn start(apps: impl IntoIterator<Item = App>) -> Running {
    let servers = apps.into_iter().fold(Servers::new(), Servers::add);
    servers.start().await.expect("the servers start")
}

/// A frontend of type `connector` without sockets.
pub(crate) fn frontend(id: &str) -> App {
    let mut app = App::new("connector", id);
    app.frontend();
    app
}

pub(crate) fn uid(text: &str) -> Uid {
    Uid::new(text).expect("a uid")
}

pub(crate) fn front(text: &str) -> FrontendId {
    FrontendId::new(text).expect("an id")
}

/// A client that is bound to this user.
pub(crate) async fn login(app: &AppHandle, name: &str) -> Client {
    let client = Client::connect(app);
    app.bind(client.sid(), uid(name)).await.expect("bound");
    client
}

impl Client {
    pub(crate) fn connect(app: &AppHandle) -> Self {
        Self::with_dialect(app, Dialect::Pomelo)
    }

    pub(crate) fn with_dialect(app: &AppHandle, dialect: Dialect) -> Self {
        let frontend = app.connector().expect("a frontend");
        let handshake =
            HandshakeRequest::parse(Bytes::from_static(b"{\"sys\":{}}"), DialectChoice::Pomelo);
        let session = frontend
            .open(Opened {
                peer: Peer {
                    address: ([127, 0, 0, 1], 4711).into(),
                    transport: TransportKind::Memory,
                },
                dialect,
                handshake: Arc::new(handshake.expect("a handshake")),
                resume: None,
            })
            .expect("a session");
        Self {
            frontend,
            session,
            next: 1,
            reader: PackageReader::new(),
            inbox: VecDeque::new(),
            closed: false,
        }
    }

    pub(crate) fn sid(&self) -> Sid {
        self.session.id()
    }

    /// Sends a message; the flow has to be driven.
    pub(crate) fn start(
        &mut self,
        id: Option<u64>,
        route: &str,
        body: impl Into<Bytes>,
    ) -> MaybeReady<()> {
        let message = Inbound {
            id: id.and_then(NonZeroU64::new),
            route: Route::new(route),
            body: body.into(),
        };
        self.frontend.message(&self.session, message)
    }

    pub(crate) async fn notify(&mut self, route: &str, body: Value) {
        drive(self.start(None, route, body.to_string())).await;
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn request(&mut self, route: &str, body: Value) -> Value {
        self.answer(route, body).await.0
    }

    /// The answer, and whether it is marked as an error.
    pub(crate) async fn answer(&mut self, route: &str, body: Value) -> (Value, bool) {
        let id = self.next;
        self.next += 1;
        drive(self.start(Some(id), route, body.to_string())).await;
        self.wait_answer(id).await
    }

    pub(crate) async fn wait_answer(&mut self, id: u64) -> (Value, bool) {
        let found = self
            .wait(|one| matches!(one, In::Answer { id: other, .. } if *other == id))
            .await;
        match found {
            In::Answer { body, error, .. } => (body, error),
            _ => unreachable!(),
        }
    }

    pub(crate) async fn wait_push(&mut self, route: &str) -> Value {
        match self
            .wait(|one| matches!(one, In::Push { route: other, .. } if other == route))
            .await
        {
            In::Push { body, .. } => body,
            _ => unreachable!(),
        }
    }

    pub(crate) async fn wait_kick(&mut self) -> String {
        match self.wait(|one| matches!(one, In::Kick { .. })).await {
            In::Kick { reason } => reason,
            _ => unreachable!(),
        }
    }

    /// Takes the first message of this kind.
    pub(crate) async fn wait(&mut self, wanted: impl Fn(&In) -> bool) -> In {
        let mut found = None;
        eventually("a message that is waited for", || {
            self.read();
            let at = self.inbox.iter().position(&wanted);
            found = at.and_then(|at| self.inbox.remove(at));
            found.is_some()
        })
        .await;
        found.expect("it is there")
    }

    /// Everything that has come so far.
    pub(crate) fn drain(&mut self) -> Vec<In> {
        self.read();
        self.inbox.drain(..).collect()
    }

    fn read(&mut self) {
        let outbox = self.session.outbox();
        let mut drained = Drained::default();
        outbox.begin_poll(Waker::noop());
        self.closed |= outbox.take(&mut drained) != Next::Continue;
        let length = drained.remaining();
        let mut bytes = drained.copy_to_bytes(length);
        outbox.written(length);
        let _ = outbox.end_poll(shaddock_core::Flush::Done);
        while let Some(package) = self.reader.next(&mut bytes, 1 << 20).expect("packages") {
            let read = match package.kind {
                PackageType::Data => read_message(package.body),
                PackageType::Kick => {
                    let body: Value =
                        serde_json::from_slice(&package.body).expect("kick bodies are JSON");
                    In::Kick {
                        reason: body["reason"].as_str().expect("a reason").to_owned(),
                    }
                }
                other => panic!("unexpected package {other:?}"),
            };
            self.inbox.push_back(read);
        }
    }
}

fn read_message(bytes: Bytes) -> In {
    let message = Message::decode(bytes).expect("a message");
    let body = serde_json::from_slice(&message.body)
        .unwrap_or_else(|_| json!({"not json": format!("{:?}", message.body)}));
    match (message.kind, message.route) {
        (MessageType::Response, _) => In::Answer {
            id: message.id,
            body,
            error: message.error,
        },
        (MessageType::Push, WireRoute::Name(route)) => In::Push {
            route: String::from_utf8(route.to_vec()).expect("a route"),
            body,
        },
        (kind, route) => panic!("unexpected {kind:?} {route:?}"),
    }
}

/// Lets so much of the test's time pass. The clock must be paused (`start_paused`): a test that would wait for real fails here.
pub(crate) async fn pass(time: std::time::Duration) {
    tokio::time::advance(std::time::Duration::ZERO).await;
    tokio::time::sleep(time).await;
}

pub(crate) async fn drive(flow: MaybeReady<()>) {
    if let MaybeReady::Later(future) = flow {
        future.await;
    }
}
