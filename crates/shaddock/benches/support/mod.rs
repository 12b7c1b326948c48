//! A frontend without sockets, as the benches use it: one typed handler, a session, and requests that are done at once.

use std::{
    num::NonZeroU64,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Serialize};
use shaddock::{
    prelude::*,
    session::Session,
    wire::{
        Dialect, Frontend, HandshakeRequest, Inbound, MaybeReady, Opened, Peer, Route,
        TransportKind,
    },
};
use shaddock_core::{Drained, Outbox};
use shaddock_protocol::DialectChoice;

pub(crate) const BODY: &str =
    r#"{"i":"12345","p":"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"}"#;

#[derive(Serialize, Deserialize)]
pub(crate) struct Payload {
    i: String,
    p: String,
}

pub(crate) async fn echo(Json(body): Json<Payload>) -> Json<Payload> {
    Json(body)
}

/// A session of the app, as its connection would open it.
pub(crate) fn open(frontend: &dyn Frontend) -> Arc<Session> {
    let handshake =
        HandshakeRequest::parse(Bytes::from_static(b"{\"sys\":{}}"), DialectChoice::Pomelo);
    let opened = Opened {
        peer: Peer {
            address: ([127, 0, 0, 1], 1).into(),
            transport: TransportKind::Memory,
        },
        dialect: Dialect::Pomelo,
        handshake: Arc::new(handshake.expect("a handshake")),
        resume: None,
    };
    frontend.open(opened).expect("a session")
}

/// A request whose handler is done at once.
#[inline]
pub(crate) fn request(
    frontend: &dyn Frontend,
    session: &Arc<Session>,
    id: u64,
    route: Route,
    body: &'static str,
) {
    let message = Inbound {
        id: NonZeroU64::new(id),
        route,
        body: Bytes::from_static(body.as_bytes()),
    };
    if let MaybeReady::Later(mut future) = frontend.message(session, message) {
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(())), "it is done at once");
    }
}

/// Writes what is queued, as far as a session knows.
#[inline]
pub(crate) fn drain(outbox: &Outbox, drained: &mut Drained) {
    let _ = outbox.take(drained);
    let length = drained.remaining();
    drained.advance(length);
    outbox.written(length);
}
