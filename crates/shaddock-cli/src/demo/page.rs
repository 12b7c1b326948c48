//! The demo's web page, and the part of the admin API that it shows.
//!
//! The page is compiled in and needs nothing from elsewhere. Sessions are shown to, and kicked by, browsers on this machine only:
//! others that reach the page (`--host 0.0.0.0`) can chat.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use shaddock::{
    admin,
    app::{AppHandle, BoxError, Component},
    http::{self, HttpLimits},
    operations::Operations,
};
use tokio::{net::TcpListener, sync::watch};

const HTML: (&str, &str) = ("text/html; charset=utf-8", include_str!("web/index.html"));
const STYLE: (&str, &str) = ("text/css; charset=utf-8", include_str!("web/style.css"));
const ICON: (&str, &str) = ("image/svg+xml", include_str!("web/icon.svg"));
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The browser may load what this server has, and talk to the game ports.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; connect-src 'self' ws: wss:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The web server, as a part of the gate.
pub(super) struct Page {
    address: SocketAddr,
    gate_port: u16,
    operations: Operations,
    stop: watch::Sender<bool>,
}

impl Page {
    pub(super) fn new(address: SocketAddr, gate_port: u16, operations: Operations) -> Self {
        Self {
            address,
            gate_port,
            operations,
            stop: watch::Sender::new(false),
        }
    }

    fn router(&self) -> Router {
        let settings = json!({ "gate_port": self.gate_port });
        let sessions = admin::loopback_api(self.operations.clone())
            .layer(middleware::from_fn(only_this_machine));
        Router::new()
            .route("/", get(file(HTML)))
            .route("/style.css", get(file(STYLE)))
            .route("/icon.svg", get(file(ICON)))
            .route("/app.js", get(file((SCRIPT, include_str!("web/app.js")))))
            .route(
                "/avatar.js",
                get(file((SCRIPT, include_str!("web/avatar.js")))),
            )
            .route(
                "/shaddock.js",
                get(file((SCRIPT, include_str!("web/shaddock.js")))),
            )
            .route(
                "/sessions.js",
                get(file((SCRIPT, include_str!("web/sessions.js")))),
            )
            .route("/demo.json", get(move || async move { Json(settings) }))
            .merge(sessions)
            .layer(middleware::map_response(protect))
    }
}

impl Component for Page {
    fn name(&self) -> &'static str {
        "web page"
    }

    async fn after_start(&self, app: &AppHandle) -> Result<(), BoxError> {
        let listener = TcpListener::bind(self.address)
            .await
            .map_err(|error| format!("cannot listen on {} (--page-port): {error}", self.address))?;
        let router = self.router();
        let mut stopped = self.stop.subscribe();
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        app.spawn("web page", async move {
            http::serve(listener, router, HttpLimits::default(), stop).await;
        })?;
        Ok(())
    }

    async fn stop(&self, _app: &AppHandle) {
        self.stop.send_replace(true);
    }
}

fn file(
    (kind, text): (&'static str, &'static str),
) -> impl Fn() -> std::future::Ready<Response> + Clone {
    move || {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        std::future::ready((headers, text).into_response())
    }
}

async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

async fn only_this_machine(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    let message = "Sessions are shown on the server's own machine only.";
    let body = json!({ "error": { "code": "forbidden", "message": message } });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}
