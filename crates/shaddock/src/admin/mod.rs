//! The admin server: health checks, metrics, and the API for operators.
//!
//! | request | response |
//! | --- | --- |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while clients are accepted, 503 while the process starts or drains |
//! | `GET /metrics` | [metrics](crate::metrics) |
//! | `GET /api/sessions?where=&uid=&address=&frontend=&transport=&limit=&after=` | [`SessionPage`], by ascending id |
//! | `GET /api/sessions/{sid}` | [`SessionInfo`] with settings |
//! | `POST /api/kick` with [`KickRequest`] | [`KickReport`] |
//! | `GET /api/servers` | [`ServerList`] |
//! | `GET /api/stats` | [`Stats`] |
//! | `GET /api/whoami` | what the caller's token allows |
//! | `GET /console/` | the console, a page for operators |
//! | `POST /api/drain` with `{}` or `{"linger": "10m"}` | 202; the process drains and ends |
//! | `/api/app/{server}/{path}` | routes of the application ([`App::admin_route`](crate::App::admin_route)) |
//!
//! These concern one process. The following concern the whole cluster, and name the servers that did not reply ([`crate::operators`]):
//!
//! | request | response |
//! | --- | --- |
//! | `GET /api/cluster/servers`, `/api/cluster/servers/{id}` | [`ServerOverview`](crate::operators::ServerOverview), [`ServerStatus`](crate::operators::ServerStatus) |
//! | `GET /api/cluster/servers/{id}/work`, `/config` | [`ServerWork`](crate::operators::ServerWork), [`EffectiveKey`](crate::operators::EffectiveKey)s |
//! | `GET /api/cluster/load?after_ms=` | [`LoadReport`](crate::operators::LoadReport): the last ten minutes |
//! | `GET /api/cluster/events?..` | [`EventPage`](crate::operators::EventPage): recent events of sessions |
//! | `GET /api/cluster/audiences?..`, `/members?key=` | [`AudiencePage`](crate::operators::AudiencePage), [`MemberPage`](crate::operators::MemberPage) |
//! | `GET /api/cluster/sessions?..`, `/api/cluster/sessions/{sid}` | [`SessionOverview`](crate::operators::SessionOverview), [`SessionInfo`] |
//! | `POST /api/cluster/kick` with [`KickRequest`] | [`KickOutcome`](crate::operators::KickOutcome) |
//! | `POST /api/cluster/call` with [`CallRequest`] | [`CallAnswer`]: pushes, kicks, settings, binds and topics |
//! | `GET /api/cluster/jobs/{id}`, `POST /api/cluster/jobs/{id}/stop` with `{}` | [`JobStatus`] |
//! | `GET /api/openapi.json` | the OpenAPI 3.1 document of all routes |
//! | `POST /api/cluster/drain` with [`DrainRequest`](crate::operators::DrainRequest) | 202 and [`DrainStarted`](crate::operators::DrainStarted) |
//!
//! Errors are [`ErrorBody`]. The server listens on a loopback address by default; any other address requires a token. `guard.rs` describes
//! the protection against web pages.

mod answers;
mod api;
mod audit;
mod cluster;
mod commands;
mod console;
mod error;
mod guard;
mod hook;
mod jobs;
mod look;
mod once;
mod openapi;
mod own;
mod tokens;
mod trail;
mod types;

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::Semaphore};

pub(crate) use self::hook::AdminHooks;
use self::{audit::Audit, commands::Api, guard::guard};
pub use self::{
    commands::{
        BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult, CountCommand,
        KickCommand, PushCommand, SetCommand, To, TopicCommand,
    },
    error::{ErrorBody, ErrorInfo},
    hook::AdminRequest,
    jobs::JobStatus,
    types::{
        KickReport, KickRequest, ServerList, ServerReport, ServerStats, SessionInfo, SessionPage,
        SessionQuery, Stats,
    },
};
pub(crate) use self::{guard::Guard, tokens::Tokens, types::state_name};
use crate::{
    config::AdminSettings,
    http::{self, HttpLimits},
    operations::{AdminCounters, Operations},
    operators::ViewConfig,
};

/// The reason why the admin server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address can be reached from other machines, and there is no token.
    #[error(
        "the admin address {0} can be reached from other machines; set `admin.token`, or use 127.0.0.1"
    )]
    TokenNeeded(SocketAddr),
    /// The audit log cannot be written.
    #[error("the audit log {} cannot be written (`admin.audit`): {source}", .file.display())]
    Audit {
        /// The path of the file.
        file: std::path::PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error("the admin server cannot listen on {address} (`admin.address`): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The routes under `/api` except drains, with the guard of a loopback server, for programs that show them on pages of their own.
pub fn loopback_api(operations: Operations) -> Router {
    let guarded = Guard::default();
    Router::new()
        .merge(api_routes())
        .merge(cluster::shown_routes(
            ViewConfig::default(),
            operations.clone(),
        ))
        .layer(middleware::from_fn_with_state(guarded, guard))
        .with_state(operations)
}

fn api_routes() -> Router<Operations> {
    Router::new()
        .route("/api/sessions", get(api::sessions))
        .route("/api/sessions/{sid}", get(api::session))
        .route("/api/kick", post(api::kick))
        .route("/api/servers", get(api::servers))
        .route("/api/stats", get(api::stats))
}

fn router(operations: Operations, settings: &AdminSettings, audit: Audit) -> Router {
    let guarded = operations.guard().clone();
    let jobs = jobs::Jobs::default();
    let (counted, written) = (jobs.clone(), audit.clone());
    operations.set_admin_counters(AdminCounters {
        jobs: Box::new(move || counted.running()),
        lost_lines: Box::new(move || written.lost_lines()),
    });
    let api = Api {
        operations: operations.clone(),
        config: settings.view_config(),
        audit: audit.clone(),
        once: once::Once::default(),
        jobs,
        places: Arc::new(Semaphore::new(commands::AT_ONCE)),
    };
    let commands = Router::new()
        .route("/api/cluster/call", post(commands::call))
        .route("/api/cluster/jobs/{id}", get(commands::job))
        .route("/api/cluster/jobs/{id}/stop", post(commands::stop_job))
        .with_state(api);
    let open = Router::new()
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz));
    let console = if settings.console {
        console::routes(guarded.clone())
    } else {
        Router::new()
    };
    api_routes()
        .route("/metrics", get(api::metrics))
        .route("/api/drain", post(api::drain))
        .route(
            "/api/app/{server}/{*path}",
            get(own::serve).post(own::serve),
        )
        .route("/api/openapi.json", get(api::openapi))
        .route("/api/whoami", get(api::whoami))
        .merge(commands)
        .merge(cluster::routes(settings.view_config(), operations.clone()))
        .merge(look::routes(settings.view_config(), operations.clone()))
        .fallback(api::unknown)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(Extension(audit))
        .layer(middleware::from_fn_with_state(guarded.clone(), guard))
        .merge(open)
        .merge(console)
        .layer(DefaultBodyLimit::max(settings.max_body.0))
        .with_state(operations)
}

/// A listening admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    operations: Operations,
}

impl Admin {
    /// Opens the port. Requests are answered once [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// The address is in use, or can be reached from other machines without a token.
    pub async fn bind(
        address: SocketAddr,
        settings: &AdminSettings,
        operations: Operations,
    ) -> Result<Self, AdminError> {
        if Tokens::of(settings).is_empty() && !address.ip().to_canonical().is_loopback() {
            return Err(AdminError::TokenNeeded(address));
        }
        let audit = Audit::new(&settings.audit);
        audit.check().map_err(|source| AdminError::Audit {
            file: settings.audit.clone(),
            source,
        })?;
        let failed = |source| AdminError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        operations.guard().bound(address.ip(), Tokens::of(settings));
        Ok(Self {
            address,
            listener,
            router: router(operations.clone(), settings, audit),
            limits: settings.http_limits(),
            operations,
        })
    }

    /// The address, with the real port.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests until `stop` completes.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) {
        let samples = self.operations;
        tokio::select! {
            () = http::serve(self.listener, self.router, self.limits, stop) => {}
            () = samples.keep_samples() => {}
        }
    }
}
