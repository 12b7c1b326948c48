//! Changes of the configuration before the start and while the app runs.

use std::{future::Future, sync::Arc};

use super::{App, AppHandle, hooks::ReloadHook};
use crate::config::Config;

impl App {
    /// Changes a value of the context, such as configuration that was read from a file; fields that are not changed keep their values. If
    /// no value was set, it starts with the default.
    ///
    /// ```
    /// # use shaddock::{launch::Launcher, prelude::*};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let launcher = Launcher::new(Default::default())?;
    /// let mut app = App::new("connector", "connector-1");
    /// launcher.configure(&mut app);
    /// app.modify(|sessions: &mut SessionConfig| sessions.max_settings = 64);
    /// # Ok(())
    /// # }
    /// ```
    pub fn modify<T>(&mut self, change: impl FnOnce(&mut T)) -> &mut Self
    where
        T: Clone + Default + Send + Sync + 'static,
    {
        let mut value = self
            .get::<T>()
            .map_or_else(T::default, |value| (*value).clone());
        change(&mut value);
        self.set(value)
    }

    /// Runs after the configuration was reloaded (SIGHUP) without mistakes and the framework has applied its own part: the place to read
    /// [`Config::app`] again. Changed keys of `[app]` are logged.
    ///
    /// Several hooks run one after the other, and a later reload waits for them. The time limit of each is `handlers.event_timeout`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use shaddock::{config::Config, prelude::*};
    /// #[derive(serde::Deserialize)]
    /// struct Settings { motd: String }
    ///
    /// let mut app = App::new("lobby", "lobby-1");
    /// app.on_reload(async |app: AppHandle, config: Arc<Config>| match config.app::<Settings>() {
    ///     // Handlers that begin from now on take this one with `State<Settings>`.
    ///     Ok(settings) => app.set(settings),
    ///     Err(error) => eprintln!("the old settings stay: {error}"),
    /// });
    /// ```
    pub fn on_reload<F, Fut>(&mut self, hook: F) -> &mut Self
    where
        F: Fn(AppHandle, Arc<Config>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let hook: ReloadHook = Arc::new(move |app, config| Box::pin(hook(app, config)));
        self.hooks.reloads.push(hook);
        self
    }
}
