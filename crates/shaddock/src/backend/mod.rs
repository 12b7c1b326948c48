//! HTTP backends: server types that are implemented by HTTP services.
//!
//! A frontend forwards the requests of a type to another server of the cluster. A type that is registered with [`App::http_backend`] (in a
//! configuration: `[backends.<type>]`) is an HTTP service instead, in any language. The dispatcher (`dispatch.rs`) knows three targets of a
//! route: a handler of its own, a backend, another server. Because the session is on this server, the actions of a backend (bind, settings,
//! pushes, kicks) use the same [`SessionView`](crate::session::SessionView) as handlers.
//!
//! - `wire.rs`: the JSON of requests and responses.
//! - `url.rs`, `connect.rs`: the URL of a service, and connecting to it.
//! - `client.rs`: connections, queue, one exchange. A request that was sent is never repeated.
//! - `failure.rs`: failures of an exchange.
//! - `actions.rs`: the actions of a response are validated as a whole, then executed, all or none.
//! - `sign.rs`: Standard Webhooks signatures.
//! - `events.rs`: handshakes, binds and closes as requests of the same form.
//!
//! `docs/http-backends.md` describes the interface for services.
//!
//! ```no_run
//! use shaddock::{backend::HttpBackend, prelude::*};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut app = App::new("connector", "connector-1");
//! app.listen("0.0.0.0:3010");
//! app.http_backend("chat", HttpBackend::new(["http://127.0.0.1:8000/shaddock"])?);
//! Servers::new().add(app).run_blocking()?;
//! # Ok(())
//! # }
//! ```

mod actions;
mod call;
mod client;
pub(crate) mod connect;
mod error;
mod event;
mod events;
mod failure;
mod options;
mod service;
mod settings;
mod sign;
mod url;
mod wire;

use std::sync::Arc;

pub(crate) use self::{
    call::Call,
    service::{Backend, Backends, set_secrets},
};
pub use self::{
    error::BackendError,
    event::BackendEvent,
    options::{Balance, Protocol},
    settings::HttpBackend,
    url::BackendUrl,
};
use crate::app::App;

impl App {
    /// Sends all requests of this server type to an HTTP service. Its [events](HttpBackend::events) are added to the app's listeners;
    /// [`BackendEvent::Handshake`] replaces [`on_handshake`](Self::on_handshake).
    ///
    /// # Panics
    /// If the type is the app's own, or has a backend already.
    #[track_caller]
    pub fn http_backend(&mut self, server_type: &str, backend: HttpBackend) -> &mut Self {
        assert!(
            server_type != self.server_type(),
            "`{server_type}` is the type of this server itself, so its routes cannot lead to a backend"
        );
        assert!(
            !self.backends.contains_key(server_type),
            "a backend for `{server_type}` exists already"
        );
        let backend = Arc::new(Backend::new(server_type, backend));
        self.listen_for(&backend);
        self.check_health(&backend);
        self.backends.insert(server_type.into(), backend);
        self
    }
}

impl App {
    fn check_health(&mut self, backend: &Arc<Backend>) {
        let Some(path) = backend.settings.health.clone() else {
            return;
        };
        for number in 0..backend.targets.len() {
            let (backend, path) = (Arc::clone(backend), path.clone());
            let interval = backend.settings.health_interval;
            self.every("backend health", interval, move |app| {
                let (backend, path) = (Arc::clone(&backend), path.clone());
                async move {
                    if let Some(target) = backend.targets.get(number) {
                        target.check(app.tasks(), &backend.settings, &path).await;
                    }
                }
            });
        }
    }
}
