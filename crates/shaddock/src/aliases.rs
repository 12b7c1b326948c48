//! Names of Pomelo and of earlier versions, for methods that are called otherwise here. In Pomelo `session.push` saves settings, and
//! `app.route` chooses a server; both words mislead in a library whose `push_message` sends, and whose routes have handlers.

use std::{future::Future, sync::Arc};

use serde_json::{Map, Value};
use shaddock_cluster::{RoutingTarget, ServerInfo, Strategy};
use shaddock_core::Sid;

use crate::{
    app::{App, AppHandle, RoutingRequest},
    error::HandlerError,
    handler::{Handler, RouteEntry},
    session::{BackendSessions, SessionError, SessionView, Setting},
};

/// # Other names
impl App {
    /// The same as [`handle`](Self::handle). Pomelo's `app.route` is [`balance`](Self::balance).
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn route<H, T>(&mut self, route: &str, handler: H) -> RouteEntry<'_>
    where
        H: Handler<T>,
        T: 'static,
    {
        self.handle(route, handler)
    }

    /// The same as [`balance`](Self::balance).
    pub fn route_fn<F>(&mut self, server_type: &str, choose: F) -> &mut Self
    where
        F: for<'a> Fn(&RoutingTarget<'a>, &'a [Arc<ServerInfo>]) -> Option<&'a Arc<ServerInfo>>
            + Send
            + Sync
            + 'static,
    {
        self.balance(server_type, choose)
    }

    /// The same as [`balance_async`](Self::balance_async).
    pub fn async_route_fn<F, Fut>(&mut self, server_type: &str, choose: F) -> &mut Self
    where
        F: Fn(AppHandle, RoutingRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Arc<ServerInfo>>, HandlerError>> + Send + 'static,
    {
        self.balance_async(server_type, choose)
    }

    /// The same as [`balance_by`](Self::balance_by).
    pub fn route_by(&mut self, server_type: &str, strategy: Strategy) -> &mut Self {
        self.balance_by(server_type, strategy)
    }

    /// The same as [`balance_others_by`](Self::balance_others_by).
    pub fn route_others_by(&mut self, strategy: Strategy) -> &mut Self {
        self.balance_others_by(strategy)
    }
}

/// # Other names
impl SessionView {
    /// Pomelo's name for [`save`](Self::save).
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn push(&self, key: &str) -> Result<(), SessionError> {
        self.save(key).await
    }

    /// Pomelo's name (`pushAll`) for [`save_all`](Self::save_all).
    ///
    /// # Errors
    /// As [`save_all`](Self::save_all).
    pub async fn push_all(&self) -> Result<(), SessionError> {
        self.save_all().await
    }

    /// The same as [`save_setting`](Self::save_setting).
    ///
    /// # Errors
    /// As [`save_setting`](Self::save_setting).
    pub async fn push_setting<S: Setting>(&mut self, setting: &S) -> Result<(), SessionError> {
        self.save_setting(setting).await
    }
}

/// # Other names
impl BackendSessions {
    /// Pomelo's name for [`save`](Self::save).
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn push(
        &self,
        frontend: &str,
        sid: Sid,
        key: &str,
        value: impl Into<Value>,
    ) -> Result<(), SessionError> {
        self.save(frontend, sid, key, value).await
    }

    /// Pomelo's name (`pushAll`) for [`save_all`](Self::save_all).
    ///
    /// # Errors
    /// As [`save_all`](Self::save_all).
    pub async fn push_all(
        &self,
        frontend: &str,
        sid: Sid,
        settings: Map<String, Value>,
    ) -> Result<(), SessionError> {
        self.save_all(frontend, sid, settings).await
    }
}
