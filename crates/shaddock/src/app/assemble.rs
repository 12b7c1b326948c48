//! Builds a running app from an [`App`].

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use shaddock_core::{
    ChannelConfig, ChannelService, ConnectionStats, FrontendId, SessionConfig, SessionService,
};
use shaddock_net::ListenConfig;
use tokio::runtime::Handle;

use super::{
    App, AppConfig, AppHandle, AppInner, Codecs, ErasedComponent, Listeners, StartError, Tasks,
    check::{announce_routes, codec_of},
    context::Shared,
    info::sid_allocator,
};
use crate::{
    channel::{PushConfig, Scheduler},
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
pub(super) type Assembled = (AppHandle, Vec<Arc<dyn ErasedComponent>>, Vec<ListenConfig>);

pub(super) fn assemble(mut app: App, routes: &[String]) -> Result<Assembled, StartError> {
    let config = app
        .values
        .get::<AppConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let codecs = Codecs::new(codec_of(&app, routes)?);
    let (mut sessions, mut connections) = (None, None);
    if let (true, Ok(id)) = (app.is_frontend(), FrontendId::new(app.id())) {
        let policy = app
            .values
            .get::<SessionConfig>()
            .map(Arc::unwrap_or_clone)
            .unwrap_or_default();
        let service = SessionService::new(id.clone(), sid_allocator(), policy);
        let stats = ConnectionStats::new(id);
        app.values.set(Arc::new(service.clone()));
        app.values.set(Arc::new(stats.clone()));
        (sessions, connections) = (Some(service), Some(stats));
    }
    operators::announce(&mut app.info);
    let life = random();
    app.metadata(crate::channel::LIFE, format!("{life:x}"));
    announce_routes(&mut app, &config)?;
    let channels = app
        .values
        .get::<ChannelConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let pushes = app
        .values
        .get::<PushConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let resume = app
        .values
        .get::<ResumePolicy>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let runtime = Handle::current();
    let telemetry = app.values.get::<Telemetry>();
    let tracer = telemetry.map(|telemetry| telemetry.begin(&runtime));
    let tasks = Tasks::new(runtime.clone(), config.max_tasks);
    let inner = AppInner {
        expiries: Expiries::new(sessions.clone(), tasks.clone()),
        channels: ChannelService::new(app.id(), channels),
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
        handlers: app.handlers,
        remotes: app.remotes,
        filters: app.filters,
        routing: app.routing,
        hooks: app.hooks,
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
    let handle = AppHandle::from_inner(Arc::new(inner));
    if let Some(service) = handle.session_service() {
        service.set_events(Arc::new(FrontendEvents(handle.downgrade())));
    }
    Ok((handle, app.components, app.listeners))
}
