//! Builds a running app from an [`App`].

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use shaddock_core::{
    ChannelConfig, ChannelService, ConnectionStats, FrontendId, SessionConfig, SessionService,
};
use shaddock_net::ListenConfig;
use tokio::runtime::Handle;

use super::{
    App, AppConfig, AppHandle, AppInner, Codecs, ErasedComponent, Listeners, Registrations, Server,
    StartError, Tasks,
    check::{announce_routes, codec_of},
    context::Shared,
    info::sid_allocator,
};
use crate::{
    channel::{PushConfig, Scheduler},
    handler::RouteNames,
    history::History,
    metrics::Metrics,
    operators,
    random::random,
    resume::{Relays, ResumePolicy, Returns},
    session::{Expiries, FrontendEvents},
    stats::AppStats,
    telemetry::Telemetry,
};

/// Sessions whose listeners may run at the same time. Above this limit an event of another session is dropped and counted (`lost_events`).
const MOST_EVENTS: usize = 1 << 20;

/// The app, and the components and listeners to start with it.
pub(super) type Assembled = (Server, Vec<Arc<dyn ErasedComponent>>, Vec<ListenConfig>);

/// A configuration that the application has set, or its default.
fn value_of<T: Clone + Default + Send + Sync + 'static>(app: &App) -> T {
    app.values
        .get::<T>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default()
}

/// The services that only a frontend has. Handlers extract both as `State`.
fn frontend_services(app: &mut App) -> Option<(SessionService, ConnectionStats)> {
    if !app.is_frontend() {
        return None;
    }
    let id = FrontendId::new(app.id()).ok()?;
    let policy: SessionConfig = value_of(app);
    let service = SessionService::new(id.clone(), sid_allocator(), policy);
    let stats = ConnectionStats::new(id);
    app.values.set(Arc::new(service.clone()));
    app.values.set(Arc::new(stats.clone()));
    Some((service, stats))
}

pub(super) fn assemble(mut app: App, routes: &[String]) -> Result<Assembled, StartError> {
    let config: AppConfig = value_of(&app);
    let codecs = Codecs::new(codec_of(&app, routes)?);
    let (sessions, connections) = frontend_services(&mut app).unzip();
    operators::announce(&mut app.info);
    let life = random();
    app.metadata(crate::channel::LIFE, format!("{life:x}"));
    announce_routes(&mut app, &config)?;
    let channels = ChannelService::new(app.id(), value_of::<ChannelConfig>(&app));
    let pushes: PushConfig = value_of(&app);
    let resume: ResumePolicy = value_of(&app);
    let runtime = Handle::current();
    let telemetry = app.values.get::<Telemetry>();
    let tracer = telemetry.map(|telemetry| telemetry.begin(&runtime));
    let tasks = Tasks::new(runtime.clone(), config.max_tasks);
    let registered = Registrations::new(app.handlers, app.remotes, app.filters, app.hooks);
    let registered = Arc::new(registered);
    let inner = AppInner {
        expiries: Expiries::new(sessions.clone(), tasks.clone()),
        channels,
        life,
        watchers: crate::channel::Watchers::default(),
        watch: crate::channel::Watch::default(),
        counted: crate::channel::RecentCounts::default(),
        settling: crate::channel::Settling::default(),
        info: Arc::new(app.info),
        values: Shared::new(app.values),
        requests: Tasks::new(runtime.clone(), config.max_concurrent),
        tasks,
        events: Tasks::new(runtime, MOST_EVENTS),
        history: History::new(config.kept_events),
        config,
        application: registered.clone(),
        handlers: RouteNames::of(registered.handlers().numbers()),
        remotes: RouteNames::of(registered.remotes().numbers()),
        routing: app.routing,
        backends: app.backends,
        stats: AppStats::default(),
        codecs,
        sessions,
        connections,
        scheduler: Scheduler::new(pushes),
        membership: OnceLock::new(),
        listeners: Listeners::default(),
        draining: AtomicBool::new(false),
        metrics: Metrics::default(),
        resume,
        returns: Returns::default(),
        relays: Relays::default(),
        tracer,
    };
    let server = Server {
        app: AppHandle::from_inner(Arc::new(inner)),
        registered,
    };
    if let Some(service) = server.app.session_service() {
        service.set_events(Arc::new(FrontendEvents(server.downgrade())));
    }
    Ok((server, app.components, app.listeners))
}
