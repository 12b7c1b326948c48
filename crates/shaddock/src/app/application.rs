//! The application's code that a handle runs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shaddock_cluster::{ForwardedSession, ServerInfo};
use shaddock_core::{Session, Uid};
use shaddock_net::Frontend;

use super::{AppHandle, Part, Registrations, Server, handle::Application, routing::Choice};
#[cfg(feature = "admin")]
use crate::{admin::AdminRequest, reply::Outcome};
use crate::{
    boxed::BoxFuture,
    config::Config,
    error::HandlerError,
    frontend::AppFrontend,
    session::{FrontendSession, SessionView},
};

impl Application for Registrations {
    fn connector(self: Arc<Self>, app: &AppHandle) -> Arc<dyn Frontend> {
        let app = app.clone();
        Arc::new(AppFrontend(Server {
            app,
            registered: self,
        }))
    }

    fn before_bind(
        &self,
        app: &AppHandle,
        session: &Arc<Session>,
        uid: &Uid,
    ) -> Option<BoxFuture<Result<(), HandlerError>>> {
        let hook = Arc::clone(self.hooks().before_bind.get()?);
        let view = FrontendSession::try_from_view(SessionView::of_session(app, session));
        let (app, uid) = (app.clone(), uid.clone());
        Some(Box::pin(async move {
            let Some(view) = view else {
                return Err(HandlerError::internal("the session is not of this server"));
            };
            let (part, limit) = (Part::of(&app, "bind hook"), app.config().handler_timeout);
            let decision = part.run(limit, move || hook(app, view, uid)).await;
            decision.unwrap_or_else(|| Err(HandlerError::internal("the bind hook failed")))
        }))
    }

    fn choose(
        &self,
        app: &AppHandle,
        session: &ForwardedSession,
        route: &Arc<str>,
        body: &Bytes,
        limit: Duration,
    ) -> Option<BoxFuture<Result<Arc<ServerInfo>, HandlerError>>> {
        let (server_type, _) = route.split_once('.')?;
        let chooser = Arc::clone(self.hooks().choosers.of(server_type)?);
        let session = SessionView::of_forwarded(app, session.clone());
        let (app, route, body) = (app.clone(), Arc::clone(route), body.clone());
        Some(Box::pin(async move {
            let (server_type, _) = route.split_once('.').unwrap_or_default();
            let choice = Choice {
                app: &app,
                chooser: &chooser,
                server_type,
                limit,
            };
            choice.make(session, Arc::clone(&route), body).await
        }))
    }

    fn has_reload_hooks(&self) -> bool {
        !self.hooks().reloads.is_empty()
    }

    fn reload(&self, app: &AppHandle, config: &Arc<Config>) -> BoxFuture<()> {
        let (app, config) = (app.clone(), Arc::clone(config));
        let hooks = self.hooks().reloads.clone();
        Box::pin(async move {
            for hook in hooks {
                let (one, config) = (app.clone(), Arc::clone(&config));
                let limit = app.config().event_timeout;
                // A panic or a timeout was logged.
                let _ = Part::of(&app, "reload")
                    .run(limit, move || hook(one, config))
                    .await;
            }
        })
    }

    #[cfg(feature = "admin")]
    fn admin_paths(&self) -> Vec<&str> {
        self.hooks()
            .admin_routes
            .keys()
            .map(String::as_str)
            .collect()
    }

    #[cfg(feature = "admin")]
    fn admin(
        &self,
        app: &AppHandle,
        path: &str,
        request: AdminRequest,
    ) -> Option<BoxFuture<Option<Outcome>>> {
        let hook = Arc::clone(self.hooks().admin_routes.get(path)?);
        let app = app.clone();
        Some(Box::pin(async move {
            // The admin server closes the connection after `admin.idle_timeout`.
            Part::of(&app, "an admin route")
                .run(Duration::ZERO, move || hook(app, request))
                .await
        }))
    }
}
