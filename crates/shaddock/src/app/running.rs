//! Running servers, and their shutdown.

use std::{
    fmt::Write as _, future::Future, io::Write as _, net::SocketAddr, sync::Arc, time::Duration,
};

use shaddock_core::CloseReason;
use shaddock_net::Workers;

use super::{AppHandle, ErasedComponent, StartError, Tasks};
use crate::guarded::caught;

/// Running servers. Call [`shutdown`](Self::shutdown): dropping closes the listeners and stops nothing else.
#[must_use = "servers stop listening when this is dropped"]
pub struct Running {
    apps: Vec<AppHandle>,
    components: Vec<Started>,
    workers: Option<Workers>,
}

struct Started {
    app: AppHandle,
    component: Arc<dyn ErasedComponent>,
    /// Whether the start succeeded, so that the app has to be stopped.
    is_up: bool,
}

/// The interval of a shutdown's checks: for sessions that opened while it began, for requests that are still running.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Running {
    pub(super) const fn new() -> Self {
        Self {
            apps: Vec::new(),
            components: Vec::new(),
            workers: None,
        }
    }

    pub(super) fn add(&mut self, app: AppHandle, components: Vec<Arc<dyn ErasedComponent>>) {
        let waiting = components.into_iter().map(|component| Started {
            app: app.clone(),
            component,
            is_up: false,
        });
        self.components.extend(waiting);
        self.apps.push(app);
    }

    /// The servers, in the order in which they were added.
    pub fn apps(&self) -> &[AppHandle] {
        &self.apps
    }

    /// The server with this id.
    pub fn app(&self, id: &str) -> Option<&AppHandle> {
        self.apps.iter().find(|app| app.id() == id)
    }

    /// The first address that the server with this id listens on, with the real port.
    pub fn address(&self, id: &str) -> Option<SocketAddr> {
        self.app(id)?.local_addrs().first().copied()
    }

    /// Prints the addresses of the listeners to standard error if the program has no logger.
    pub(super) fn print_addresses(&self) {
        if tracing::dispatcher::has_been_set() {
            return;
        }
        let mut text = String::new();
        for app in self.apps() {
            for address in app.local_addrs() {
                let _ = writeln!(text, "{} listens on {address}", app.id());
            }
        }
        // On its own thread: the server does not wait until standard error is read.
        let _ = std::thread::Builder::new().spawn(move || {
            let _ = std::io::stderr().write_all(text.as_bytes());
        });
    }

    pub(super) async fn start_components(&mut self) -> Result<(), StartError> {
        for one in &mut self.components {
            let started = Arc::clone(&one.component).start(one.app.clone());
            run_start(&one.app, &*one.component, started).await?;
            one.is_up = true;
        }
        Ok(())
    }

    pub(super) async fn after_start(&self) -> Result<(), StartError> {
        for one in &self.components {
            let started = Arc::clone(&one.component).after_start(one.app.clone());
            run_start(&one.app, &*one.component, started).await?;
        }
        Ok(())
    }

    pub(super) fn keep_workers(&mut self, workers: Workers) -> &Workers {
        self.workers.insert(workers)
    }

    /// Stops everything, in this order: frontends accept no new clients; their clients are notified and closed, after the queued data was
    /// sent; their requests and events end, and may still call the backends here; then the backends receive no more calls, and finish;
    /// background work is cancelled; components stop in reverse order; the servers leave the cluster.
    ///
    /// Each step has a time limit ([`AppConfig::stop_timeout`](super::AppConfig::stop_timeout)), so a shutdown always ends. Not
    /// cancel-safe: if it is dropped, the rest keeps running.
    pub async fn shutdown(self) {
        self.stop(None).await;
    }

    /// As [`shutdown`](Self::shutdown), but backends have this time to respond to their requests, and their components stop afterwards.
    pub(crate) async fn shutdown_within(self, limit: Duration) {
        self.stop(Some(limit)).await;
    }

    async fn stop(mut self, limit: Option<Duration>) {
        let (frontends, backends): (Vec<_>, Vec<_>) =
            self.apps.iter().partition(|app| app.is_frontend());
        for app in &frontends {
            app.stop_accepting();
            Stopping::of(app).withdraw().await;
        }
        for app in &frontends {
            Stopping::of(app).close_clients().await;
        }
        for app in &frontends {
            Stopping::of(app).finish_work().await;
        }
        for app in &backends {
            Stopping::of(app).withdraw().await;
        }
        for app in &backends {
            Stopping::of(app)
                .finish_serving(limit.unwrap_or(app.config().stop_timeout))
                .await;
        }
        for app in &backends {
            if let Ok(membership) = app.membership() {
                // Before the components stop, because handlers may need them.
                within(app, "answer what was asked", membership.finish()).await;
            }
            Stopping::of(app).finish_work().await;
        }
        for one in self.components.iter().rev().filter(|one| one.is_up) {
            within(
                &one.app,
                one.component.name(),
                Arc::clone(&one.component).stop(one.app.clone()),
            )
            .await;
        }
        for app in &self.apps {
            if let Ok(membership) = app.membership() {
                within(app, "leave the cluster", membership.leave()).await;
            }
        }
        if let Some(workers) = self.workers.take() {
            workers.shutdown().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for app in &self.apps {
            // A listener holds its app.
            drop(app.listeners().take());
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("apps", &self.apps)
            .finish_non_exhaustive()
    }
}

/// The steps of the shutdown of an app.
#[derive(Clone, Copy)]
pub(crate) struct Stopping<'a> {
    app: &'a AppHandle,
}

impl<'a> Stopping<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Other servers no longer choose this one.
    pub(crate) async fn withdraw(self) {
        if let Ok(membership) = self.app.membership() {
            within(self.app, "withdraw from the cluster", membership.withdraw()).await;
        }
    }

    /// Waits for requests of other servers. Operators can still query the progress.
    async fn finish_serving(self, limit: Duration) {
        let Ok(membership) = self.app.membership() else {
            return;
        };
        let idle = async {
            while membership.status().serving > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            let left = membership.status().serving;
            tracing::warn!(
                app = self.app.id(),
                left,
                "requests of other servers did not end"
            );
        }
    }

    /// Waits for running requests and events, and cancels background work. All are notified before the first is awaited, and share the same
    /// time limit, so that one that hangs does not delay the others.
    async fn finish_work(self) {
        let all = [self.app.requests(), self.app.events(), self.app.tasks()];
        for tasks in all {
            tasks.signal_stop();
        }
        let ended = async {
            for tasks in all {
                tasks.idle().await;
            }
        };
        let limit = self.app.config().stop_timeout;
        if tokio::time::timeout(limit, ended).await.is_err() {
            let [requests, events, tasks] = all.map(Tasks::count);
            tracing::warn!(
                app = self.app.id(),
                requests,
                events,
                tasks,
                "work was unfinished when the app stopped"
            );
        }
    }

    /// Notifies all clients of the shutdown, and waits until their connections are closed. All at once: [`crate::shutdown::drain`] closes
    /// sessions in waves before.
    async fn close_clients(self) {
        let Some(service) = self.app.session_service() else {
            return;
        };
        self.app.open_no_session();
        self.app.flush_pushes();
        let listeners = self.app.listeners().take();
        let gone = async move {
            for listener in listeners {
                listener.closed().await;
            }
        };
        let close = async {
            let mut gone = std::pin::pin!(gone);
            loop {
                // Again, because a session may have opened just before the flag was set.
                service.close_all(&CloseReason::Draining);
                self.app.relays().cut_sockets();
                if tokio::time::timeout(LOOK_AGAIN, gone.as_mut())
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        };
        within(self.app, "close the clients", close).await;
    }
}

async fn run_start(
    app: &AppHandle,
    component: &dyn ErasedComponent,
    start: impl Future<Output = Result<(), super::BoxError>>,
) -> Result<(), StartError> {
    let limit = app.config().start_timeout;
    let started = match tokio::time::timeout(limit, start).await {
        Ok(started) => started,
        Err(late) => Err(late.into()),
    };
    started.map_err(|error| StartError::Component {
        app: app.id().to_owned(),
        component: component.name().to_owned(),
        error,
    })
}

/// Runs one step of a shutdown: with a time limit, and with its panics contained.
async fn within(app: &AppHandle, step: &str, work: impl Future<Output = ()>) {
    let work = std::pin::pin!(work);
    let mut work = work;
    let guarded = std::future::poll_fn(|task| {
        caught(|| work.as_mut().poll(task)).unwrap_or_else(|panic| {
            let panic = panic.text();
            tracing::error!(
                app = app.id(),
                step,
                panic,
                "a step of the shutdown panicked"
            );
            std::task::Poll::Ready(())
        })
    });
    if tokio::time::timeout(app.config().stop_timeout, guarded)
        .await
        .is_err()
    {
        tracing::error!(app = app.id(), step, "a step of the shutdown took too long");
    }
}
