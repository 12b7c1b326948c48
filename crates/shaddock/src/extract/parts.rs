//! Extractors that do not read the body.

use std::{any::type_name, num::NonZeroU64, ops::Deref, sync::Arc};

use shaddock_cluster::ServerId;
use shaddock_core::Uid;

use super::{FromParts, Parts, Requirements};
use crate::{app::AppHandle, error::HandlerError};

/// A value that was [set](crate::App::set) in the app, shared by all requests.
///
/// If the app was started without it, the app does not start.
#[derive(Debug)]
pub struct State<T>(pub Arc<T>);

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for State<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> FromParts for State<T> {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        match parts.app().get::<T>() {
            Some(value) => Ok(Self(value)),
            None => Err(HandlerError::internal(format!(
                "no `{}` is set in the app",
                type_name::<T>()
            ))),
        }
    }

    fn requirements(needs: &mut Requirements) {
        needs.value::<T>();
    }
}

/// The user that the session is bound to. A request of a client that has not logged in is refused with
/// [`codes::NO_USER`](crate::error::codes::NO_USER).
///
/// ```
/// use shaddock::prelude::*;
///
/// async fn who(User(uid): User) -> Json<Uid> {
///     Json(uid)
/// }
/// # App::new("game", "game-1").handle("hero.who", who);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(pub Uid);

impl FromParts for User {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        let uid = parts.request()?.session().uid().cloned();
        uid.map(Self).ok_or_else(HandlerError::no_user)
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("User");
    }
}

/// The app that serves the request.
#[derive(Debug, Clone)]
pub struct Ctx(pub AppHandle);

impl Deref for Ctx {
    type Target = AppHandle;
    fn deref(&self) -> &AppHandle {
        &self.0
    }
}

impl FromParts for Ctx {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(Self(parts.app().clone()))
    }
}

/// A value that a [filter](crate::filter) left in this request with
/// [`RequestContext::insert`](crate::request::RequestContext::insert). A request without it is refused; take `Option<Extension<T>>` if that
/// is not an error.
#[derive(Debug)]
pub struct Extension<T>(pub Arc<T>);

impl<T> Deref for Extension<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> FromParts for Extension<T> {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        match parts.request()?.extension::<T>() {
            Some(value) => Ok(Self(value)),
            None => Err(HandlerError::internal(format!(
                "no filter left a `{}` in the request",
                type_name::<T>()
            ))),
        }
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("Extension");
    }
}

/// The route as the client named it: `type.handler.method`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePath(pub Arc<str>);

impl FromParts for RoutePath {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(Self(Arc::from(parts.route())))
    }
}

/// The client's number of this request; `None` for a notify, which has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub Option<NonZeroU64>);

impl RequestId {
    /// Whether the client waits for no answer.
    pub const fn is_notify(self) -> bool {
        self.0.is_none()
    }
}

impl FromParts for RequestId {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(Self(parts.request()?.id()))
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("RequestId");
    }
}

/// The server that calls a remote; `None` if it did not say who it is, or in a handler of clients' requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub Option<ServerId>);

impl FromParts for Caller {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(Self(parts.call().and_then(|call| call.from.clone())))
    }
}
