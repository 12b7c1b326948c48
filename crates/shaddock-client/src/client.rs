//! [`Client`]: the handle of one connection.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shaddock_protocol::{Dialect, MessageType};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::events::Events;
use crate::pending::Ticket;
use crate::pushes::Handler;
use crate::server_error::{ServerError, from_answer};
use crate::settings::Settings;
use crate::shared::{Command, Shared};
use crate::{CloseKind, HandshakeCache, NotifyError, Push, RequestError, Subscription};

/// A connection to a server. Cheap to clone; all clones are handles of the same connection, which is closed when the last one is
/// dropped.
///
/// One task owns the connection. It replies to heartbeats, and it never waits for users of a handle: slow readers of pushes lose some
/// ([`Subscription`]), callers wait for room in a queue of commands.
///
/// # Cancellation
///
/// The docs of every async method describe the effect of dropping its future. No state remains in the client.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    runtime: runtime::Handle,
    request_timeout: Option<Duration>,
    push_capacity: usize,
    is_error: fn(i64) -> bool,
    user: Option<Value>,
    cache: HandshakeCache,
}

/// Discarded messages. They do no harm, but a growing number indicates a problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Pushes with an unknown route code or a body that does not match its schema, and messages of types that servers do not send.
    pub unreadable: u64,
    /// Responses without a pending request.
    pub late_answers: u64,
}

impl Client {
    /// Sends a request and waits for its response.
    ///
    /// `body` is encoded as JSON, or as protobuf if the server has a schema for the route. The response is decoded as an `R`. Use
    /// [`serde::de::IgnoredAny`] if its content does not matter.
    ///
    /// Pomelo's servers and shaddock respond with `{}` for every value that is false in JavaScript: nothing, `null`, `0`, `false`, `""`. An
    /// `R` that `{}` does not match is decoded from the first of these that matches, which is the handler's value if both sides use the
    /// same type. (An `Option` of such a value is `None`.)
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Error responses ([`ServerError`]) are [`RequestError::Server`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future removes the request immediately. If it was not sent yet, it never is; otherwise the server still executes it and
    /// the response is ignored.
    pub async fn request<T, R>(&self, route: &str, body: &T) -> Result<R, RequestError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let handle = &*self.handle;
        let wire = handle.shared.wire();
        let answer = self.request_raw(route, wire.json(body)?).await?;
        if wire.dialect == Dialect::Pomelo
            && let Some(error) = ServerError::by_code(&answer, handle.is_error)
        {
            return Err(error.into());
        }
        Ok(from_answer(&answer)?)
    }

    /// [`Client::request`] with JSON text in both directions (Pitaya: the format of the server's serializer). A `code` in the response is
    /// not checked; responses that a Pitaya server marks as errors are still [`RequestError::Server`].
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    ///
    /// # Cancellation
    ///
    /// As [`Client::request`].
    pub async fn request_raw(
        &self,
        route: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, RequestError> {
        let handle = &*self.handle;
        let wire = handle.shared.wire();
        let known = wire.needs_route().then_some(route);
        let mut ticket = handle.shared.pending.enter(wire.generation, known)?;
        let command = Command {
            package: wire.encode(MessageType::Request, ticket.id(), route, body.into())?,
            id: ticket.id(),
            generation: wire.generation,
        };
        let exchange = handle.exchange(&mut ticket, command);
        match handle.request_timeout {
            Some(limit) => timeout(limit, exchange)
                .await
                .unwrap_or(Err(RequestError::Timeout)),
            None => exchange.await,
        }
    }

    /// Sends a message without a response. Returns when it is in the queue of the connection; whether it arrives is unknown. (With
    /// [`ClientBuilder::resume`](crate::ClientBuilder::resume) it does, unless the session ends.)
    ///
    /// # Errors
    ///
    /// See [`NotifyError`].
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, nothing is sent.
    pub async fn notify<T>(&self, route: &str, body: &T) -> Result<(), NotifyError>
    where
        T: Serialize + ?Sized,
    {
        let body = self.handle.shared.wire().json(body)?;
        self.notify_raw(route, body).await
    }

    /// [`Client::notify`] with JSON text (Pitaya: the format of the server's serializer).
    ///
    /// # Errors
    ///
    /// See [`NotifyError`].
    ///
    /// # Cancellation
    ///
    /// As [`Client::notify`].
    pub async fn notify_raw(&self, route: &str, body: impl Into<Bytes>) -> Result<(), NotifyError> {
        let handle = &*self.handle;
        let wire = handle.shared.wire();
        let command = Command {
            package: wire.encode(MessageType::Notify, 0, route, body.into())?,
            id: 0,
            generation: wire.generation,
        };
        handle.send(command).await.map_err(NotifyError::Closed)
    }

    /// Subscribes to the pushes of `route` from now on, in a queue of [`push_capacity`](crate::ClientBuilder::push_capacity). Empty if the
    /// connection has ended.
    pub fn subscribe(&self, route: &str) -> Subscription {
        let handle = &*self.handle;
        let pushes = &handle.shared.pushes;
        pushes.subscribe(Some(route), handle.push_capacity)
    }

    /// Subscribes to all pushes from now on, for all routes.
    pub fn subscribe_all(&self) -> Subscription {
        let handle = &*self.handle;
        handle.shared.pushes.subscribe(None, handle.push_capacity)
    }

    /// Calls `handler` for each push of `route` from now on: one at a time, in order, on a separate task, until [`Handler::off`] or until
    /// the connection has ended and all pushes are handled.
    ///
    /// A handler that is slower than the server loses pushes, as every [`Subscription`] does. A handler that panics is not called again;
    /// nothing else is affected. A handler that holds a `Client` keeps the connection open.
    pub fn on<H, F>(&self, route: &str, mut handler: H) -> Handler
    where
        H: FnMut(Push) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut pushes = self.subscribe(route);
        let place = pushes.place();
        self.handle.runtime.spawn(async move {
            while let Some(push) = pushes.recv().await {
                handler(push).await;
            }
        });
        Handler::new(place)
    }

    /// Waits until the connection is over and the socket gone, and says why.
    ///
    /// # Cancellation
    ///
    /// Cancel-safe.
    pub async fn closed(&self) -> CloseKind {
        let mut closed = self.handle.shared.closed.subscribe();
        match closed.wait_for(Option::is_some).await {
            Ok(kind) => kind.clone().unwrap_or(CloseKind::Aborted),
            // The sender is in `shared`, which this handle holds.
            Err(_) => CloseKind::Aborted,
        }
    }

    /// Why the connection ended, if it has.
    pub fn close_kind(&self) -> Option<CloseKind> {
        self.handle.shared.pending.closed()
    }

    /// Closes the connection: earlier messages are written, the server is notified, the socket is closed. Takes at most a second. Pending
    /// requests fail with [`RequestError::Closed`]. Has no effect if the connection has already ended.
    ///
    /// # Cancellation
    ///
    /// Dropping the future after its first poll has no effect: the connection is closed nevertheless.
    pub async fn close(&self) {
        self.handle.shared.closing.notify_one();
        self.closed().await;
    }

    /// The events of the session from now on: see [`ClientBuilder::resume`](crate::ClientBuilder::resume). Other clients have no events, only the end.
    pub fn events(&self) -> Events {
        self.handle.shared.bell.subscribe()
    }

    /// Whether the session continues when this connection is lost.
    pub fn is_resumable(&self) -> bool {
        self.handle.shared.is_resumable()
    }

    /// Whether the connection is lost and the client is reconnecting.
    pub fn is_suspended(&self) -> bool {
        self.handle.shared.is_suspended()
    }

    /// Cuts the connection as a network failure would: without a goodbye, and unwritten data are discarded. A client with
    /// [`ClientBuilder::resume`](crate::ClientBuilder::resume) reconnects automatically; others end. For tests and demonstrations.
    pub fn interrupt(&self) {
        // A connection that is already cut must not be cut again: that would cut the next one.
        if !self.is_suspended() {
            self.handle.shared.interrupt.notify_one();
        }
    }

    /// `user` of the server's first handshake response.
    pub fn handshake_user(&self) -> Option<&Value> {
        self.handle.user.as_ref()
    }

    /// Dictionary and schemas of the server, for the [builder](crate::ClientBuilder::cache) of the next connection.
    pub fn cache(&self) -> &HandshakeCache {
        &self.handle.cache
    }

    /// The number of pending requests.
    pub fn pending_requests(&self) -> usize {
        self.handle.shared.pending.len()
    }

    /// The number of discarded messages so far.
    pub fn stats(&self) -> Stats {
        let counters = &self.handle.shared.counters;
        Stats {
            unreadable: counters.unreadable.load(Ordering::Relaxed),
            late_answers: counters.late_answers.load(Ordering::Relaxed),
        }
    }
}

/// The builder's values after the handshake.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) user: Option<Value>,
    pub(crate) cache: HandshakeCache,
}

impl Client {
    pub(crate) fn new(settings: &Settings, parts: Parts) -> Self {
        Self {
            handle: Arc::new(Handle {
                shared: parts.shared,
                commands: parts.commands,
                runtime: runtime::Handle::current(),
                request_timeout: settings.request_timeout,
                push_capacity: settings.push_capacity,
                is_error: settings.is_error,
                user: parts.user,
                cache: parts.cache,
            }),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("dialect", &self.handle.shared.wire().dialect)
            .field("suspended", &self.is_suspended())
            .field("pending_requests", &self.pending_requests())
            .field("close_kind", &self.close_kind())
            .finish_non_exhaustive()
    }
}

impl Handle {
    async fn exchange(
        &self,
        ticket: &mut Ticket<'_>,
        command: Command,
    ) -> Result<Bytes, RequestError> {
        self.send(command).await.map_err(RequestError::Closed)?;
        ticket.answer().await
    }

    /// Waits for room in the queue of commands.
    async fn send(&self, command: Command) -> Result<(), CloseKind> {
        match self.commands.send(command).await {
            Ok(()) => Ok(()),
            // The task sets the reason before it closes the queue.
            Err(_) => Err(self.shared.pending.closed().unwrap_or(CloseKind::Aborted)),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.notify_one();
    }
}
