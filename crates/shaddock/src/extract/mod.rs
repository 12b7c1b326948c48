//! Extractors: what a handler may take as its arguments.
//!
//! | argument | what it is |
//! | --- | --- |
//! | [`SessionView`](crate::session::SessionView) | the client's session, on frontends and backends alike |
//! | [`FrontendSession`](crate::session::FrontendSession), [`BackendSession`](crate::session::BackendSession) | the same, where it matters which |
//! | [`User`] | the user of the session; a client that has not logged in is refused |
//! | [`State<T>`] | a value that was [set](crate::App::set) in the app |
//! | [`Ctx`] | the app itself |
//! | [`Channels`](crate::channel::Channels) | the app's channels |
//! | [`Extension<T>`] | a value that a filter left in this request |
//! | [`RoutePath`], [`RequestId`] | the route and the number of the request |
//! | [`Caller`] | in [remotes](crate::remote): the server that calls |
//! | `Option<T>` | any of them; `None` where it would refuse |
//! | [`Json<T>`], [`Protobuf<T>`], [`Body`] | the body: in the last place, at most one |
//!
//! Remotes take the same arguments, except those that belong to a client's request.
//!
//! Extraction is synchronous and borrows the request. If an extractor fails, its error is the response. The requirements of an argument are
//! checked when the app starts (see [`Requirements`]), so a `State` that was not set is an error at the start and not in the first request.

mod body;
mod parts;
#[cfg(feature = "protobuf")]
mod protobuf;
mod raw;
mod services;

use bytes::Bytes;
use shaddock_cluster::RemoteCall;

#[cfg(feature = "protobuf")]
pub use self::protobuf::Protobuf;
pub use self::{
    body::{Body, Json},
    parts::{Caller, Ctx, Extension, RequestId, RoutePath, State, User},
};
pub use crate::app::requirements::Requirements;
use crate::{app::AppHandle, error::HandlerError, request::RequestContext};
pub(crate) use raw::raw_bytes;

/// A request of a client, or a call of another server, as extractors see it.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    source: Source<'a>,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Request(&'a RequestContext),
    Call(&'a AppHandle, &'a RemoteCall),
}

impl<'a> Parts<'a> {
    pub(crate) const fn of_request(request: &'a RequestContext) -> Self {
        Self {
            source: Source::Request(request),
        }
    }

    pub(crate) const fn of_call(app: &'a AppHandle, call: &'a RemoteCall) -> Self {
        Self {
            source: Source::Call(app, call),
        }
    }

    /// The app that serves it.
    pub const fn app(&self) -> &'a AppHandle {
        match self.source {
            Source::Request(request) => request.app(),
            Source::Call(app, _) => app,
        }
    }

    /// The request of a client: its session, its route, what filters left in it.
    ///
    /// # Errors
    /// This is a call of another server, which has no session.
    pub fn request(&self) -> Result<&'a RequestContext, HandlerError> {
        match self.source {
            Source::Request(request) => Ok(request),
            Source::Call(..) => Err(HandlerError::internal(
                "a remote has no session: it was called by a server",
            )),
        }
    }

    /// The call of another server, if this is one.
    pub const fn call(&self) -> Option<&'a RemoteCall> {
        match self.source {
            Source::Request(_) => None,
            Source::Call(_, call) => Some(call),
        }
    }

    /// The route as it was named.
    pub fn route(&self) -> &'a str {
        match self.source {
            Source::Request(request) => request.route().as_str(),
            Source::Call(_, call) => &call.route,
        }
    }

    pub(crate) const fn body(&self) -> &'a Bytes {
        match self.source {
            Source::Request(request) => request.body(),
            Source::Call(_, call) => &call.body,
        }
    }
}

/// An argument that does not read the body.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an extractor",
    note = "extractors are `SessionView`, `FrontendSession`, `BackendSession`, `User`, `State<T>`, `Ctx`, `Channels`, `Extension<T>`, `RoutePath`, \
            `RequestId`, `Caller`, and `Option` of them",
    note = "`Json<T>` and `Body` read the body: they are allowed in the last place only"
)]
pub trait FromParts: Sized + Send + 'static {
    /// Takes the value out of the request.
    ///
    /// # Errors
    /// Why the request cannot be served; it is answered with this error.
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError>;

    /// Says what this argument needs of the app. Looked at once, when the app starts.
    fn requirements(needs: &mut Requirements) {
        let _ = needs;
    }
}

mod sealed {
    /// Marks extractors that do not read the body.
    #[derive(Debug)]
    pub enum ViaParts {}
    /// Marks extractors that read the body.
    #[derive(Debug)]
    pub enum ViaBody {}
}
#[doc(hidden)]
pub use sealed::{ViaBody, ViaParts};

/// An argument that reads the body; allowed in the last place.
///
/// Everything that is [`FromParts`] is it too, so that the last argument may be either. `M` keeps the two apart and is never written.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the last argument of a handler",
    label = "neither reads the body nor is an extractor",
    note = "the last argument is `Json<T>` with a `T` that implements `serde::Deserialize`, `Body`, or any other extractor"
)]
pub trait FromBody<M = ViaBody>: Sized + Send + 'static {
    /// Reads the body: JSON text in valid UTF-8 (for Pitaya clients with another serializer, their bytes).
    ///
    /// # Errors
    /// Why the request cannot be served; it is answered with this error.
    fn from_body(parts: &Parts<'_>, body: &Bytes) -> Result<Self, HandlerError>;

    /// As [`FromParts::requirements`].
    fn requirements(needs: &mut Requirements) {
        let _ = needs;
    }
}

#[diagnostic::do_not_recommend]
impl<T: FromParts> FromBody<ViaParts> for T {
    fn from_body(parts: &Parts<'_>, _body: &Bytes) -> Result<Self, HandlerError> {
        T::from_parts(parts)
    }

    fn requirements(needs: &mut Requirements) {
        <T as FromParts>::requirements(needs);
    }
}

#[diagnostic::do_not_recommend]
impl<T: FromParts> FromParts for Option<T> {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(T::from_parts(parts).ok())
    }
}
