//! The sender's side of a push: one message per frontend, and what came of it.

mod broadcast;
mod members;
mod outcome;
mod users;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use serde::Serialize;
use shaddock_cluster::{
    BoxFuture, Delivered as ClusterDelivered, Delivery, MAX_LATEST_KEY, Receivers, RemoteError,
    ServerId,
};
use shaddock_core::{Channel, FrontendId, Uid};
use shaddock_net::MaybeReady;

pub(super) use self::members::ToMembers;
use self::outcome::outcome;
pub use self::{
    broadcast::BroadcastOptions,
    outcome::{AtFrontend, Delivered, FailedFrontend, PushError},
};
use super::{gone::is_gone, kept::kept_room};
use crate::{
    app::AppHandle,
    telemetry::{Span, Spans},
};

/// A route and a body, serialised once.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) route: Arc<str>,
    pub(crate) body: Bytes,
    /// The newest message of this key is enough.
    pub(crate) latest: Option<Arc<str>>,
}

/// Whether a key of `latest` is one, for what was written in JSON.
pub(crate) fn check_latest(key: Option<&str>) -> Result<(), String> {
    match key {
        Some(key) if !(1..=MAX_LATEST_KEY).contains(&key.len()) => Err(format!(
            "has {} bytes; 1 to {MAX_LATEST_KEY} are allowed",
            key.len()
        )),
        _ => Ok(()),
    }
}

/// What is to be sent.
pub(crate) struct Content<'a, T: ?Sized> {
    pub(crate) route: &'a str,
    pub(crate) value: &'a T,
    pub(crate) latest: Option<&'a str>,
}

impl<'a, T: Serialize + ?Sized> Content<'a, T> {
    pub(crate) const fn new(route: &'a str, value: &'a T) -> Self {
        Self {
            route,
            value,
            latest: None,
        }
    }

    pub(crate) fn message(&self) -> Result<Message, PushError> {
        let mut message = Message::new(self.route, self.value)?;
        if let Some(key) = self.latest {
            if !(1..=MAX_LATEST_KEY).contains(&key.len()) {
                return Err(PushError::LatestKey { len: key.len() });
            }
            message.latest = Some(key.into());
        }
        Ok(message)
    }
}

impl Message {
    pub(crate) fn new<T: Serialize + ?Sized>(route: &str, value: &T) -> Result<Self, PushError> {
        if let Some(body) = crate::extract::raw_bytes(value) {
            if body.is_empty() {
                return Err(PushError::Empty);
            }
            return Ok(Self {
                route: route.into(),
                body,
                latest: None,
            });
        }
        let body = serde_json::to_vec(value).map_err(PushError::Value)?;
        // Pomelo's falsy messages: no client could read them.
        if matches!(&body[..], b"" | b"null" | b"\"\"" | b"0" | b"false") {
            return Err(PushError::Empty);
        }
        Ok(Self {
            route: route.into(),
            body: body.into(),
            latest: None,
        })
    }

    pub(crate) fn to(&self, to: Receivers) -> Delivery {
        Delivery {
            route: Arc::clone(&self.route),
            body: self.body.clone(),
            latest: self.latest.clone(),
            to,
        }
    }
}

/// A push that is on its way. Await it to learn who was not reached; dropping it does not take the push back.
#[must_use = "the result names the receivers that were not reached; drop it explicitly to ignore it"]
pub struct Push(MaybeReady<Result<Delivered, PushError>>);

impl Push {
    pub(crate) const fn failed(error: PushError) -> Self {
        Self(MaybeReady::Now(Err(error)))
    }

    /// Runs in a span that ends when the outcome is known, or when the future is dropped.
    pub(super) fn in_span(self, span: Option<Box<Span>>) -> Self {
        let Some(mut span) = span else {
            return self;
        };
        Self(match self.0 {
            MaybeReady::Now(result) => {
                note(&mut span, &result);
                MaybeReady::Now(result)
            }
            MaybeReady::Later(future) => MaybeReady::later(async move {
                let result = future.await;
                note(&mut span, &result);
                result
            }),
        })
    }

    /// Does not wait: the push goes on, and who was not reached stays unknown.
    pub fn forget(self) {}
}

/// What came of a push, for its span.
fn note(span: &mut Span, result: &Result<Delivered, PushError>) {
    match result {
        Ok(delivered) => {
            let frontends = delivered.frontends.len() + delivered.failed.len();
            if let Some(record) = span.record() {
                record.number("shaddock.queued", delivered.queued);
                record.number("shaddock.missing", delivered.missing_count());
                record.number("shaddock.frontends", frontends);
            }
            if let Some(failed) = delivered.failed.first() {
                span.failed(failed.error.code(), failed.error.message());
            }
        }
        Err(error) => span.failed("push", &error.to_string()),
    }
}

impl Future for Push {
    type Output = Result<Delivered, PushError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(task)
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").finish_non_exhaustive()
    }
}

/// One message on its way to one frontend.
struct Sent {
    frontend: FrontendId,
    uids: Vec<Uid>,
    /// Of a channel: the place there, and how many were sent to join before.
    place: Option<(Arc<Channel>, u64)>,
    answer: BoxFuture<'static, Result<ClusterDelivered, RemoteError>>,
}

/// A frontend that has no members any more is not sent the next push.
fn forget_place(place: Option<&(Arc<Channel>, u64)>, frontend: &FrontendId) {
    if let Some((channel, joins)) = place {
        channel.leave_place(frontend.as_str(), Some(*joins));
    }
}

/// What is sent when all frontends have answered.
fn collect(sent: Vec<Sent>) -> Push {
    Push(MaybeReady::later(async move {
        let (mut delivered, mut reached) = (Delivered::default(), sent.is_empty());
        let mut refused = None;
        for Sent {
            frontend,
            uids,
            place,
            answer,
        } in sent
        {
            match answer.await {
                Ok(answer) => {
                    reached = true;
                    if answer.no_audience {
                        forget_place(place.as_ref(), &frontend);
                    }
                    let reason = delivered.add_from(frontend, answer);
                    refused = refused.or(reason);
                }
                Err(error) => {
                    if is_gone(&error) {
                        forget_place(place.as_ref(), &frontend);
                    }
                    shaddock_net::quiet!(warn, "a push did not reach a frontend", %frontend, %error);
                    delivered.failed.push(FailedFrontend {
                        frontend,
                        uids,
                        error,
                    });
                }
            }
        }
        if reached {
            outcome(delivered, refused)
        } else {
            Err(PushError::NobodyReached(delivered))
        }
    }))
}

/// Sends pushes to the frontends of their receivers.
#[derive(Clone, Copy)]
pub(crate) struct Pushes<'a> {
    app: &'a AppHandle,
}

impl<'a> Pushes<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// The span of a push, with telemetry.
    pub(crate) fn span(
        self,
        route: &str,
        to: &'static str,
        name: Option<&str>,
    ) -> Option<Box<Span>> {
        Spans::of(self.app).map(|spans| Box::new(spans.of_push(route, to, name)))
    }

    /// The result of a push whose receivers are all on this server.
    fn delivered_here(self, frontend: FrontendId, here: ClusterDelivered) -> Push {
        let mut delivered = Delivered::default();
        let full = here.full.clone();
        let refused = delivered.add_from(frontend, here);
        let result = outcome(delivered, refused);
        let room = self.app.scheduler().pressure().wait();
        let kept = (!full.is_empty()).then(|| kept_room(self.app.session_service().cloned(), full));
        Push(match (room, kept) {
            (None, None) => MaybeReady::Now(result),
            (room, kept) => MaybeReady::later(async move {
                if let Some(room) = room {
                    room.await;
                }
                if let Some(kept) = kept {
                    kept.await;
                }
                result
            }),
        })
    }

    fn is_here(self, frontend: &FrontendId) -> bool {
        frontend.as_str() == self.app.id() && self.app.is_frontend()
    }

    fn send(
        self,
        frontend: &FrontendId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<ClusterDelivered, RemoteError>> {
        let sent = ServerId::new(frontend.as_str())
            .map_err(|_| RemoteError::server_not_found())
            .and_then(|id| Ok(self.app.membership()?.deliver(&id, delivery)));
        sent.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }
}
