//! The admin server: its routes, and its port.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    api,
    audit::Audit,
    cluster,
    commands::{self, Api},
    console,
    guard::{Guard, guard},
    jobs, look, once, own,
    tokens::Tokens,
};
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
