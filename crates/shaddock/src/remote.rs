//! Remotes: functions that other servers call.
//!
//! A remote is an async function like a [handler](crate::handler), registered with [`App::remote`](crate::App::remote). Clients cannot reach it.
//! It is called by its full route, on one server or on all servers of the type:
//!
//! ```
//! use shaddock::prelude::*;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Join { room: String, name: String }
//!
//! // On servers of type `chat`:
//! async fn join(State(rooms): State<Rooms>, Json(join): Json<Join>) -> Result<Json<usize>, HandlerError> {
//!     Ok(Json(rooms.enter(&join.room, &join.name)))
//! }
//! # struct Rooms;
//! # impl Rooms { fn enter(&self, _: &str, _: &str) -> usize { 1 } }
//! # let mut app = App::new("chat", "chat-1");
//! app.remote("roomRemote.join", join);
//!
//! // On any server:
//! async fn enter(Ctx(app): Ctx, session: SessionView, Json(join): Json<Join>) -> Result<Json<usize>, HandlerError> {
//!     let members = app.rpc("chat.roomRemote.join").by_session(&session).call(&join).await?;
//!     Ok(Json(members))
//! }
//! ```

mod serve;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use shaddock_cluster::{
    Context, ForwardedSession, RemoteCall, RemoteError, RoutingTarget, ServerId, ServerInfo,
};
use tokio::time::Instant;

pub(crate) use self::serve::Remotes;
use crate::{
    app::AppHandle,
    error::HandlerError,
    metrics::Calls,
    random::random,
    received,
    session::{SessionView, Uid},
    telemetry::{Span, Spans},
};

pub use crate::received::received_value;

/// Why a call of a remote gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The route is not `type.remote.method`.
    #[error("`{0}` is not a route of a remote: write `type.remote.method`")]
    Route(String),
    /// The argument cannot be serialised. Nothing was sent.
    #[error("the argument cannot be serialised: {0}")]
    Argument(#[source] serde_json::Error),
    /// The answer is not what was expected. The remote has run.
    #[error("the answer cannot be read: {0}")]
    Answer(#[source] serde_json::Error),
    /// The answer is no such protobuf message. The remote has run.
    #[cfg(feature = "protobuf")]
    #[error("the answer cannot be read: {0}")]
    Protobuf(#[source] prost::DecodeError),
    /// The remote answered with an error, or there is no answer; [`RemoteError::kind`] tells.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl RpcError {
    /// Whether the same call may be made again without the risk that it is done twice: it was certainly not started.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Remote(error) if error.is_retryable())
    }
}

/// A call that is being put together; see [`AppHandle::rpc`].
#[must_use = "nothing is sent before `call`, `call_all` or `send`"]
#[derive(Debug, Clone)]
pub struct Rpc {
    app: AppHandle,
    route: Arc<str>,
    to: Option<String>,
    /// Not this very server.
    elsewhere: bool,
    /// Not servers of this server's type.
    other_type: bool,
    session: ForwardedSession,
    context: Context,
}

impl Rpc {
    pub(crate) fn of(app: &AppHandle, route: &str) -> Self {
        Self {
            app: app.clone(),
            route: route.into(),
            to: None,
            elsewhere: false,
            other_type: false,
            session: ForwardedSession::default(),
            context: received::for_call(app.config().rpc_timeout),
        }
    }

    /// Calls this server. It must be of the route's type.
    pub fn to(mut self, server_id: impl Into<String>) -> Self {
        self.to = Some(server_id.into());
        self
    }

    /// Calls another server than this one, also where the route is of its own type. Without it a call of the own type may come back here. (Pitaya
    /// refuses calls of the own type that name no server.) [`call_all`](Self::call_all) then leaves this server out.
    pub fn elsewhere(mut self) -> Self {
        self.elsewhere = true;
        self
    }

    /// Fails as in Pitaya if the route is of this server's own type and no server is named with [`to`](Self::to): with `PIT-000` "you are making a
    /// rpc that may be processed locally ..". Nothing is sent then.
    pub fn to_other_type(mut self) -> Self {
        self.other_type = true;
        self
    }

    /// Calls the server that requests of this session go to.
    pub fn by_session(mut self, session: &SessionView) -> Self {
        self.session = session.export();
        self
    }

    /// Calls the server that requests of this user go to, where servers are chosen by user.
    pub fn by_uid(mut self, uid: &Uid) -> Self {
        self.session.uid = Some(Arc::clone(uid.shared()));
        self
    }

    /// How long to wait, instead of [`AppConfig::rpc_timeout`](crate::app::AppConfig::rpc_timeout) and of the time that is left to the request
    /// being served.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.context.set_timeout(timeout);
        self
    }

    /// A value that travels with the call and the calls it causes. There it is read with [`received_value`].
    pub fn with(mut self, key: impl Into<String>, value: serde_json::Value) -> Self {
        self.context.set(key, value);
        self
    }

    /// Calls, and waits for the value. A remote that answers with nothing gives `null`.
    ///
    /// Dropping the future is giving up; the remote may run all the same.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn call<R: DeserializeOwned>(
        self,
        argument: &(impl Serialize + ?Sized),
    ) -> Result<R, RpcError> {
        let answer = self.call_raw(to_body(argument)?).await?;
        read(&answer)
    }

    /// As [`call`](Self::call), with protobuf messages both ways, as remotes of Pitaya servers take and give them. The other side is a remote
    /// with [`Protobuf`](crate::extract::Protobuf).
    ///
    /// # Errors
    /// [`RpcError`].
    #[cfg(feature = "protobuf")]
    pub async fn call_protobuf<R: prost::Message + Default>(
        self,
        argument: &impl prost::Message,
    ) -> Result<R, RpcError> {
        let answer = self.call_raw(argument.encode_to_vec()).await?;
        R::decode(answer).map_err(RpcError::Protobuf)
    }

    /// As [`call`](Self::call), with bytes of your own both ways.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn call_raw(mut self, argument: impl Into<Bytes>) -> Result<Bytes, RpcError> {
        let body = argument.into();
        let (server, left) = self.server(&body).await?;
        if let Some(left) = left {
            self.context.set_timeout(left);
        }
        let membership = self.app.membership()?;
        let began = Calls::begin();
        let (span, call) = self.request(&server, body);
        let answer = membership.call(&server, call).await;
        self.app.stats().rpcs.end(began, &answer);
        ended(span, &answer);
        Ok(answer?)
    }

    /// Calls every server of the type, and waits for all. Empty if there is none.
    ///
    /// # Errors
    /// [`RpcError`] if nothing was sent; what each server answered is in the list.
    pub async fn call_all<R: DeserializeOwned>(
        self,
        argument: &(impl Serialize + ?Sized),
    ) -> Result<Vec<(ServerId, Result<R, RpcError>)>, RpcError> {
        let body = to_body(argument)?;
        let membership = self.app.membership()?;
        let servers = membership.members().servers_of(self.server_type()?);
        let own = self.app.id();
        let began = Calls::begin();
        // All are on their way before the first is awaited.
        let calls: Vec<_> = servers
            .iter()
            .filter(|server| !self.elsewhere || server.id.as_str() != own)
            .map(|server| {
                let (span, call) = self.request(server, body.clone());
                (server.id.clone(), span, membership.call(server, call))
            })
            .collect();
        let mut answers = Vec::with_capacity(calls.len());
        for (id, span, call) in calls {
            let answer = call.await;
            self.app.stats().rpcs.end(began, &answer);
            ended(span, &answer);
            let answer = answer.map_err(RpcError::from);
            answers.push((id, answer.and_then(|answer| read(&answer))));
        }
        Ok(answers)
    }

    fn server_type(&self) -> Result<&str, RpcError> {
        match self.route.split('.').collect::<Vec<_>>()[..] {
            [server_type, remote, method] if ![server_type, remote, method].contains(&"") => {
                Ok(server_type)
            }
            _ => Err(RpcError::Route(self.route.to_string())),
        }
    }

    /// The server to call. A choice that had to be waited for takes its time from the call: this is what is left of it.
    async fn server(&self, body: &Bytes) -> Result<(Arc<ServerInfo>, Option<Duration>), RpcError> {
        let server_type = self.server_type()?;
        let membership = self.app.membership()?;
        if let Some(id) = &self.to {
            let server = membership.members().server(id);
            let here = self.app.id();
            return server
                .filter(|server| *server.server_type == *server_type)
                .filter(|server| !self.elsewhere || server.id.as_str() != here)
                .map(|server| (server, None))
                .ok_or_else(|| RemoteError::server_not_found().into());
        }
        if self.other_type && *self.app.info().server_type == *server_type {
            return Err(RemoteError::local_call().into());
        }
        let mut left = None;
        let limit = self.context.timeout().unwrap_or_default();
        let application = self.app.application();
        let chosen = application.choose(&self.app, &self.session, &self.route, body, limit);
        let picked = match chosen {
            None => {
                let target = RoutingTarget::new(&self.session, &self.route, body);
                let routing = self.app.routing();
                routing.pick(membership.members(), server_type, &target)?
            }
            Some(choice) => {
                let began = Instant::now();
                let chosen = choice.await.map_err(HandlerError::into_remote)?;
                if !limit.is_zero() {
                    let rest = limit.saturating_sub(began.elapsed());
                    left = Some(rest.max(Duration::from_millis(1)));
                }
                chosen
            }
        };
        if !self.elsewhere || picked.id.as_str() != self.app.id() {
            return Ok((picked, left));
        }
        let all = membership.members().servers_of(server_type);
        let others: Vec<_> = all.iter().filter(|one| one.id != picked.id).collect();
        let chosen = usize::try_from(random()).unwrap_or(0) % others.len().max(1);
        let other = others.get(chosen).copied();
        let other = other.cloned().ok_or_else(RemoteError::no_server)?;
        Ok((other, left))
    }

    /// The call of this server, and the span that it is in.
    fn request(&self, server: &ServerInfo, body: Bytes) -> (Option<Box<Span>>, RemoteCall) {
        let mut context = self.context.clone();
        let span = Spans::of(&self.app).map(|spans| Box::new(spans.of_call(&self.route, server)));
        if let Some(span) = &span {
            span.context().write(&mut context);
        }
        let call = RemoteCall {
            route: Arc::clone(&self.route),
            body,
            from: None,
            context,
        };
        (span, call)
    }
}

/// Ends the span of a call.
fn ended(span: Option<Box<Span>>, answer: &Result<Bytes, RemoteError>) {
    if let (Some(span), Err(error)) = (span, answer) {
        span.failed(error.code(), error.message());
    }
}

fn to_body(argument: &(impl Serialize + ?Sized)) -> Result<Bytes, RpcError> {
    serde_json::to_vec(argument)
        .map(Bytes::from)
        .map_err(RpcError::Argument)
}

fn read<R: DeserializeOwned>(answer: &[u8]) -> Result<R, RpcError> {
    let text = if answer.is_empty() { b"null" } else { answer };
    serde_json::from_slice(text).map_err(RpcError::Answer)
}
