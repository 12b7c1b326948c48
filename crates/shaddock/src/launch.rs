//! From a `main` to a server that an operator can live with: configuration, logs, admin server, signals, reload, drain.
//!
//! Logs need the feature `logs` of this crate, the admin server needs `admin`. Without them the program is silent unless it sets up logs itself,
//! and has no admin server.
//!
//! ```no_run
//! use shaddock::{launch::Launcher, prelude::*};
//!
//! async fn echo(Json(body): Json<serde_json::Value>) -> Json<serde_json::Value> {
//!     Json(body)
//! }
//!
//! fn main() -> Result<(), shaddock::launch::LaunchError> {
//!     let launcher = Launcher::from_args()?;
//!     let mut app = App::new("connector", "connector-1");
//!     launcher.configure_frontend(&mut app)?;
//!     app.handle("entryHandler.echo", echo);
//!     launcher.run(Servers::new().add(app))
//! }
//! ```

#[cfg(feature = "admin")]
mod admin;
mod args;
mod error;

use std::{sync::Arc, time::Duration};

use shaddock_net::descriptors;
use tokio::task::JoinHandle;

#[cfg(feature = "admin")]
use self::admin::AdminServer;
use self::args::Wanted;
pub use self::error::LaunchError;
use crate::{
    app::{App, AppHandle, Running, Servers, StartError},
    config::{Change, Config, ConfigError, Sources, Time},
    logging::LogHandle,
    metrics::{Latencies, LatencyFilter},
    operations::Operations,
    shutdown::{Command, Signals, drain},
    telemetry::Telemetry,
};

/// How long the end of a process waits for its last lines to be written. Nothing may read them.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The time limit after a second signal.
const LAST_LINES_IN_A_HURRY: Duration = Duration::from_millis(100);

/// Everything around the servers of a process.
#[derive(Debug)]
pub struct Launcher {
    sources: Sources,
    config: Config,
    log: Option<LogHandle>,
    operations: Operations,
    telemetry: Option<Telemetry>,
    /// The command line asks only whether the configuration is valid.
    check: bool,
}

impl Launcher {
    /// Reads the configuration.
    ///
    /// # Errors
    /// It has mistakes; all of them are named.
    pub fn new(sources: Sources) -> Result<Self, ConfigError> {
        let config = Config::load(&sources)?;
        Ok(Self {
            sources,
            telemetry: config.telemetry()?,
            config,
            log: None,
            operations: Operations::new(),
            check: false,
        })
    }

    /// Reads the command line, and the configuration that it names. With this every program understands the same:
    ///
    /// | flag | |
    /// | --- | --- |
    /// | `--config FILE` | the configuration file; otherwise the one that `$SHADDOCK_CONFIG` names, if it is set |
    /// | `--set SECTION.KEY=VALUE` | one setting; may be repeated |
    /// | `--check` | says whether the configuration has mistakes, and ends: here, or where the servers would start |
    /// | `--version`, `--help` | says what they say, and ends |
    ///
    /// With `--check` the program goes on to [`run`](Self::run) or [`serve`](Self::serve), which end the process successfully before anything starts. So
    /// the mistakes that the program itself finds are reported too, such as those in [`Config::app`].
    ///
    /// A program with flags of its own reads them itself, and gives [`Launcher::new`] the [`Sources`].
    ///
    /// # Errors
    /// The command line cannot be understood, or the configuration has mistakes; all of them are named.
    pub fn from_args() -> Result<Self, LaunchError> {
        let mut arguments = std::env::args_os();
        let program = arguments.next().unwrap_or_default();
        match args::parse(&program, arguments)? {
            Wanted::Run(sources) => Ok(Self::new(sources)?),
            Wanted::Check(sources) => {
                let mut launcher = Self::new(sources)?;
                launcher.config.check_start()?;
                launcher.check = true;
                Ok(launcher)
            }
            Wanted::Text(text) => args::end_with(&text),
        }
    }

    /// Sets up logs as configured. Without it the process is silent, or logs as the program itself has set up. Needs the feature `logs`.
    ///
    /// # Errors
    /// The process has a logger already.
    #[cfg(feature = "logs")]
    pub fn init_logs(&mut self) -> Result<(), crate::logging::LogError> {
        self.log = Some(crate::logging::init(&self.config.log)?);
        Ok(())
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The handle of operators on this process.
    pub fn operations(&self) -> Operations {
        self.operations.clone()
    }

    /// Gives `app` the configured policies and bounds, measures its handlers, and traces its requests if that is configured. What is set in the app afterwards wins.
    pub fn configure(&self, app: &mut App) {
        configure(&self.config, app);
        if let Some(telemetry) = &self.telemetry {
            app.set(telemetry.clone());
        }
    }

    /// As [`configure`](Self::configure), listens on the configured addresses, and asks the configured backends.
    ///
    /// # Errors
    /// What is configured cannot work here ([`Config::check_start`]), such as a certificate that cannot be read.
    pub fn configure_frontend(&self, app: &mut App) -> Result<(), LaunchError> {
        self.config.check_start()?;
        self.configure(app);
        for listener in self.config.listeners()? {
            app.listen_with(listener);
        }
        for (server_type, backend) in self.config.http_backends()? {
            app.http_backend(server_type, backend);
        }
        Ok(())
    }

    /// Sets up logs (with the feature `logs`), runs the servers on a runtime of its own until a signal or an operator ends them, and drains.
    ///
    /// # Errors
    /// Something does not start, or a server cannot go on (another one has its id); nothing is left running.
    #[cfg_attr(
        not(feature = "logs"),
        expect(unused_mut, reason = "there are no logs to set up")
    )]
    pub fn run(mut self, servers: Servers) -> Result<(), LaunchError> {
        self.end_if_checked();
        #[cfg(feature = "logs")]
        if self.log.is_none() {
            self.init_logs()?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let served = runtime.block_on(self.serve(servers, |_| {}));
        // Work that did not end by itself is not waited for.
        runtime.shutdown_background();
        served
    }

    /// Runs the servers until SIGTERM, SIGINT or an operator ends them, and drains. `ready` is called when clients are let in.
    ///
    /// SIGHUP reads the configuration again; SIGUSR1 and SIGUSR2 do nothing. A second SIGTERM or SIGINT ends the process at once, with
    /// status 1; in a drain that an operator asked for, the first one shortens it to `drain.linger`. One that comes before the servers have started ends the start.
    ///
    /// Requests to the admin server that are under way have five seconds to be answered, and the last lines of the log a second to be written.
    ///
    /// # Errors
    /// Something does not start, or a server cannot go on (another one has its id); nothing is left running.
    pub async fn serve(
        self,
        servers: Servers,
        ready: impl FnOnce(&Running) + Send,
    ) -> Result<(), LaunchError> {
        self.end_if_checked();
        let log = self.log.clone();
        if let Some(log) = &log {
            self.operations.set_log(log.clone());
        }
        let served = self.serve_all(servers, ready).await;
        if let Some(log) = log {
            let flush = move || log.flush(LAST_LINES);
            let _ = tokio::task::spawn_blocking(flush).await;
        }
        served
    }

    /// The end of a program that was started with `--check`.
    fn end_if_checked(&self) {
        if self.check {
            args::end_with("the configuration is valid\n");
        }
    }

    async fn serve_all(
        self,
        servers: Servers,
        ready: impl FnOnce(&Running) + Send,
    ) -> Result<(), LaunchError> {
        let mut signals = Signals::new()?;
        raise_descriptors();
        warn_unless_fits(&self.config);
        #[cfg(feature = "admin")]
        let admin = AdminServer::start(&self.config, self.operations()).await?;
        let servers = match self.config.server.workers {
            0 => servers,
            count => servers.workers(usize::from(count)),
        };
        // What the program itself chose wins.
        let servers = if servers.has_cluster() {
            servers
        } else {
            let cluster = self.config.cluster().map_err(StartError::from)?;
            servers.cluster_shared(cluster)
        };
        let running = match servers.start_unless(signals.end()).await? {
            Ok(running) => running,
            Err(name) => {
                tracing::info!("{name}: ended before the servers had started");
                return Ok(());
            }
        };
        self.operations.running(running.apps());
        self.operations.set_config(&self.config);
        let operations = self.operations();
        let samples = tokio::spawn(async move { operations.keep_samples().await });
        ready(&running);
        let settings = self.serve_until(&mut signals, running.apps()).await;
        let hurry = self.end_at_next_signal(signals, settings.drain.linger);
        drain(running, &settings.drain, &self.operations).await;
        if let Some(telemetry) = &self.telemetry {
            telemetry.flush().await;
        }
        samples.abort();
        #[cfg(feature = "admin")]
        if let Some(admin) = admin {
            admin.end().await;
        }
        hurry.abort();
        match self.operations.error() {
            None => Ok(()),
            Some(error) => Err(LaunchError::Ended(error.to_owned())),
        }
    }

    /// While the drain goes on, further signals end the process.
    fn end_at_next_signal(&self, mut signals: Signals, linger: Time) -> JoinHandle<()> {
        let (operations, log) = (self.operations(), self.log.clone());
        tokio::spawn(async move {
            let mut name = signals.end().await;
            if operations.signal_in_drain(linger.0) {
                tracing::info!(%linger, "{name}: sessions continue for drain.linger from now; a second signal ends the process immediately");
                name = signals.end().await;
            }
            tracing::warn!("{name} again: ending immediately");
            if let Some(log) = log {
                log.flush(LAST_LINES_IN_A_HURRY);
            }
            std::process::exit(1);
        })
    }

    /// Serves, and reloads at SIGHUP, until the end is asked for. Returns the configuration of that moment.
    async fn serve_until(&self, signals: &mut Signals, apps: &[AppHandle]) -> Config {
        let mut config = self.config.clone();
        let mut reload = Reload::default();
        loop {
            tokio::select! {
                told = signals.next() => match told {
                    Command::End(name) => {
                        tracing::info!("{name}: draining; a second signal ends the process immediately");
                        return config;
                    }
                    Command::Reload if reload.task.is_some() => reload.again = true,
                    Command::Reload => reload.task = Some(self.reload(&config, apps)),
                },
                () = self.operations.drain_requested() => return config,
                newer = reload.done() => {
                    config = newer.unwrap_or(config);
                    if std::mem::take(&mut reload.again) {
                        reload.task = Some(self.reload(&config, apps));
                    }
                }
            }
        }
    }

    /// Reads the configuration again and applies what can be applied. A mistake changes nothing.
    ///
    /// On a thread of its own: files may be on a disk that does not answer.
    fn reload(&self, config: &Config, apps: &[AppHandle]) -> JoinHandle<Option<Config>> {
        let (sources, log) = (self.sources.clone(), self.log.clone());
        let (config, apps) = (config.clone(), apps.to_vec());
        let operations = self.operations();
        tokio::task::spawn_blocking(move || {
            let newer = match Config::load(&sources) {
                Ok(newer) => newer,
                Err(error) => {
                    tracing::error!(%error, "SIGHUP: the configuration was not reloaded");
                    return None;
                }
            };
            apply(&config, &newer, &apps, log.as_ref());
            #[cfg(feature = "admin")]
            admin::set_tokens(&operations, &newer.admin);
            operations.set_config(&newer);
            let shared = Arc::new(newer.clone());
            for app in apps
                .iter()
                .filter(|app| app.application().has_reload_hooks())
            {
                app.runtime()
                    .block_on(app.application().reload(app, &shared));
            }
            Some(newer)
        })
    }
}

/// The reload that is under way.
#[derive(Default)]
struct Reload {
    task: Option<JoinHandle<Option<Config>>>,
    /// SIGHUP came meanwhile, and may be about what had been read already.
    again: bool,
}

impl Reload {
    /// Done when one is; never if there is none. Cancel-safe.
    async fn done(&mut self) -> Option<Config> {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let newer = task.await.unwrap_or_default();
        self.task = None;
        newer
    }
}

/// Before the first listener, which notes the limit.
fn raise_descriptors() {
    let words = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    match descriptors::raise() {
        Ok(raised) => tracing::info!(
            soft_limit_was = words(raised.before),
            limit = words(raised.now),
            "open files of this process; each connection takes one"
        ),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised to the hard limit");
        }
    }
}

/// A bound on connections that the limit of open files reaches first bounds nothing.
fn warn_unless_fits(config: &Config) {
    let Some(room) = descriptors::for_clients() else {
        return;
    };
    let max = config.access_policy().max_connections;
    let wanted = u64::try_from(max.saturating_mul(config.listener_count())).unwrap_or(u64::MAX);
    if wanted > room {
        tracing::warn!(
            wanted,
            room,
            "`access.max_connections`, for all listeners together, is more than the limit of open files leaves for clients: \
             raise the limit (`ulimit -n`, `LimitNOFILE=`) or lower the key"
        );
    }
}

/// Gives `app` what is configured.
pub(crate) fn configure(config: &Config, app: &mut App) {
    let latencies = Arc::new(Latencies::default());
    app.set(config.session_config())
        .set(config.resume_policy())
        .set(config.codec_config())
        .set(config.app_config())
        .balance_others_by(config.routing())
        .set_shared(Arc::clone(&latencies))
        .filter(LatencyFilter(latencies));
}

/// Applies to running servers what differs, and logs what cannot be applied.
pub(crate) fn apply(old: &Config, new: &Config, apps: &[AppHandle], log: Option<&LogHandle>) {
    let changes = old.changes(new);
    let is_heard = apps.iter().any(|app| app.application().has_reload_hooks());
    for change in &changes {
        let (key, old, new) = (&change.key, &change.old, &change.new);
        if key.starts_with("app.") {
            if is_heard {
                tracing::info!(key, "SIGHUP: changed; the application is notified");
            } else {
                tracing::warn!(
                    key,
                    "SIGHUP: this change takes effect after a restart, since the application does not listen (`App::on_reload`)"
                );
            }
            continue;
        }
        if change.live {
            tracing::info!(key, old, new, "SIGHUP: changed");
        } else {
            tracing::warn!(
                key,
                old,
                new,
                "SIGHUP: this change takes effect after a restart"
            );
        }
    }
    let touches = |section: &str| changes.iter().any(|change| change.key.starts_with(section));
    if touches("access.") {
        warn_unless_fits(new);
    }
    if let Some(log) = log.filter(|_| touches("log.filter"))
        && let Err(error) = log.set_filter(&new.log.filter)
    {
        tracing::error!(%error, "SIGHUP: the log filter is unchanged");
    }
    if touches("backends.") {
        set_secrets(new, &changes, apps);
    }
    for frontend in apps.iter().filter(|app| app.is_frontend()) {
        if touches("access.") {
            frontend.set_access(&new.access_policy());
        }
        if touches("listen.") {
            frontend.set_limits(&new.connection_limits(), &new.upgrade_policy());
        }
        if touches("protocol.") {
            frontend.set_protocol_limits(&new.codec_config());
        }
        // The files may have changed even if their names have not.
        if let Err(error) = frontend.reload_tls() {
            tracing::error!(app = frontend.id(), %error, "SIGHUP: the certificate is unchanged");
        }
    }
    tracing::info!(changes = changes.len(), "SIGHUP: configuration reloaded");
}

/// Gives the backends whose secrets were changed the new ones.
fn set_secrets(config: &Config, changes: &[Change], apps: &[AppHandle]) {
    for (server_type, settings) in &config.backends {
        let key = format!("backends.{server_type}.secret");
        if !changes
            .iter()
            .any(|change| change.live && change.key == key)
        {
            continue;
        }
        for app in apps {
            if let Err(error) = app.set_backend_secrets(server_type, &settings.secret.0) {
                tracing::error!(app = app.id(), key, %error, "SIGHUP: the secrets are unchanged");
            }
        }
    }
}
