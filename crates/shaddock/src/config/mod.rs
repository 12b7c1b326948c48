//! Configuration: typed settings from a TOML file, environment variables and flags. Later sources override earlier ones.
//!
//! [`Config::load`] reads all three. It reports all mistakes at once, each with its key and its place (file and line, variable, or flag);
//! for an unknown key, it suggests the key that was probably meant. `docs/configuration.md` is generated from the same declarations
//! (`sections.rs`), so it is never outdated.
//!
//! ```
//! use shaddock::config::{Config, Sources};
//!
//! let config = Config::load(&Sources::default().flag("session.single_session=true"))?;
//! assert!(config.session.single_session);
//! assert!(config.session_config().sessions_per_user.is_one());
//! # Ok::<(), shaddock::config::ConfigError>(())
//! ```

mod app;
mod app_section;
mod backends;
mod check;
mod choices;
mod convert;
mod effective;
mod error;
mod nearest;
mod print;
mod rules;
mod section;
mod sections;
mod source;
mod telemetry;
mod value;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

pub use shaddock_cluster::{Address, Secret};
use toml::Value;

use self::{
    app_section::{APPLICATION, AppSection},
    nearest::nearest,
    section::Section,
    source::{Entry, Given},
};
pub use self::{
    choices::{
        BalanceSetting, ClusterMode, CryptoSetting, DialectSetting, LogFormat, OnFullSetting,
        PomeloErrorsSetting, ProtocolSetting, RoutingSetting, Serializer, TracedUsersSetting,
    },
    effective::EffectiveKey,
    error::{ConfigError, Origin, Problem},
    section::KeyInfo,
    sections::{
        AccessSettings, AdminSettings, BackendSettings, ClusterSettings, DrainSettings,
        HandlerSettings, ListenSettings, LogSettings, ProtocolSettings, ResumeSettings,
        ServerSettings, SessionSettings, TelemetrySettings, TlsSettings,
    },
    value::{Network, SecretTexts, Size, Texts, Time},
};

/// The sources of settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    presets: Vec<String>,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
}

impl Sources {
    /// Reads the file `path`, the process's environment and `flags` (`section.key=value` each).
    ///
    /// Without `path`, reads the file that the variable `SHADDOCK_CONFIG` names, if it is set.
    pub fn of_process(path: Option<PathBuf>, flags: Vec<String>) -> Self {
        // Variables that are not Unicode are not settings.
        let environment: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("SHADDOCK_"))
            .collect();
        let named = environment
            .iter()
            .find(|(name, _)| name == "SHADDOCK_CONFIG")
            .map(|(_, path)| path.into());
        Self {
            presets: Vec::new(),
            file: path.or(named),
            environment,
            flags,
        }
    }

    /// Sets a default of the program, `section.key=value`. All other sources override it.
    #[must_use]
    pub fn preset(mut self, setting: impl Into<String>) -> Self {
        self.presets.push(setting.into());
        self
    }

    /// Reads the file at `path`.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds a flag `--set section.key=value`.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }
}

/// All settings of a process.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// This process.
    pub server: ServerSettings,
    /// Logging.
    pub log: LogSettings,
    /// The admin server.
    pub admin: AdminSettings,
    /// Sessions.
    pub session: SessionSettings,
    /// Resumable sessions.
    pub resume: ResumeSettings,
    /// The client protocol.
    pub protocol: ProtocolSettings,
    /// Listeners.
    pub listen: ListenSettings,
    /// Addresses that may connect, and numbers of connections.
    pub access: AccessSettings,
    /// TLS.
    pub tls: TlsSettings,
    /// Handlers.
    pub handlers: HandlerSettings,
    /// Connection to other servers.
    pub cluster: ClusterSettings,
    /// Traces.
    pub telemetry: TelemetrySettings,
    /// The drain after SIGTERM.
    pub drain: DrainSettings,
    /// HTTP backends, by server type.
    pub backends: BTreeMap<String, BackendSettings>,
    app: AppSection,
    origins: HashMap<String, Origin>,
}

/// A setting that differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// `access.deny`
    pub key: String,
    /// The value before, as TOML.
    pub old: String,
    /// The value now, as TOML.
    pub new: String,
    /// Whether it can be applied to a running server.
    pub live: bool,
}

impl Config {
    /// Reads and checks all sources.
    ///
    /// # Errors
    /// The file cannot be read, or the configuration has mistakes; the error lists all of them with their places.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut entries = source::from_flags(&sources.presets, &Origin::Preset, &mut problems);
        if let Some(path) = &sources.file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?;
            entries.extend(source::from_file(path, &text, &mut problems));
        }
        let variables = sources.environment.iter().map(|(name, _)| &**name);
        problems.extend(source::misspelt(variables, &Self::keys()));
        entries.extend(source::from_environment(
            sources.environment.iter().cloned(),
        ));
        entries.extend(source::from_flags(
            &sources.flags,
            &Origin::Flag,
            &mut problems,
        ));
        let mut config = Self::default();
        let variables = sources.environment.iter();
        config
            .app
            .keep_names(variables.map(|(name, value)| (&**name, &**value)));
        for entry in entries.into_iter().flat_map(backends::keys_of) {
            if let Err(problem) = config.apply(entry) {
                problems.push(problem);
            }
        }
        if problems.is_empty() {
            config.check(&mut problems);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Problems(problems))
        }
    }

    /// All keys, in the order of the documentation.
    pub fn keys() -> Vec<KeyInfo> {
        Self::default()
            .sections()
            .iter()
            .flat_map(|section| section.keys())
            .collect()
    }

    /// The value of `section.key` as TOML.
    pub fn value(&self, path: &str) -> Option<Value> {
        if let Some((section, key)) = backends::split(path) {
            return self.backends.get(section)?.get(key);
        }
        let (section, key) = path.rsplit_once('.')?;
        self.sections()
            .iter()
            .find(|candidate| candidate.name() == section)?
            .get(key)
    }

    /// Where the value of `section.key` comes from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    /// The differences between this configuration and `newer`. Keys of the section `[app]` are listed without values.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let single = Self::keys().into_iter().map(|key| (key.path(), key));
        single
            .chain(self.backend_keys(newer))
            .filter_map(|(path, key)| {
                let (old, new) = (self.value(&path), newer.value(&path));
                let show = |value: Option<Value>| match value {
                    None => "(none)".to_owned(),
                    Some(_) if key.secret => "(hidden)".to_owned(),
                    Some(value) => value.to_string(),
                };
                let is_there = old.is_some() && new.is_some();
                (old != new).then(|| Change {
                    key: path,
                    old: show(old),
                    new: show(new),
                    // What does not exist on both sides cannot be changed.
                    live: key.live && is_there,
                })
            })
            .chain(self.app.changed(&newer.app).into_iter().map(|key| Change {
                key,
                // The values may be secret; only the application can tell.
                old: "(of the application)".to_owned(),
                new: "(of the application)".to_owned(),
                live: false,
            }))
            .collect()
    }

    fn sections(&self) -> [&dyn Section; 13] {
        [
            &self.server,
            &self.log,
            &self.admin,
            &self.session,
            &self.resume,
            &self.protocol,
            &self.listen,
            &self.access,
            &self.tls,
            &self.handlers,
            &self.cluster,
            &self.telemetry,
            &self.drain,
        ]
    }

    fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        let sections: [&mut dyn Section; 13] = [
            &mut self.server,
            &mut self.log,
            &mut self.admin,
            &mut self.session,
            &mut self.resume,
            &mut self.protocol,
            &mut self.listen,
            &mut self.access,
            &mut self.tls,
            &mut self.handlers,
            &mut self.cluster,
            &mut self.telemetry,
            &mut self.drain,
        ];
        sections.into_iter().find(|section| section.name() == name)
    }

    fn apply(&mut self, entry: Entry) -> Result<(), Problem> {
        if entry.path[0] == APPLICATION {
            return self.apply_app(entry);
        }
        if entry.path[0] == backends::SECTION {
            return self.apply_backend(entry);
        }
        let path = entry.path.join(".");
        let problem = |message| Problem {
            origin: entry.origin.clone(),
            key: path.clone(),
            message,
        };
        let known = Self::keys();
        let Some(info) = known.iter().find(|info| info.path() == path) else {
            return Err(problem(unknown(&path, &entry.path[0], &known)));
        };
        let section = self
            .section_mut(info.section)
            .ok_or_else(|| problem("unknown section".to_owned()))?;
        let outcome = match entry.value {
            Given::Toml(value) => section.put(info.name, value),
            Given::Text(text) => put_text(section, info, &text),
        };
        outcome.map_err(problem)?;
        self.origins.insert(path, entry.origin);
        Ok(())
    }

    fn apply_app(&mut self, entry: Entry) -> Result<(), Problem> {
        let key = entry.path.join(".");
        match self.app.put(&entry.path, &entry.value) {
            Ok(()) => {
                self.origins.insert(key, entry.origin.clone());
                self.origins.insert(APPLICATION.to_owned(), entry.origin);
                Ok(())
            }
            Err(message) => Err(Problem {
                origin: entry.origin,
                key,
                message: message.to_owned(),
            }),
        }
    }
}

/// Tries all types that the text may have. The last attempt is plain text, whose error is the easiest to understand.
fn put_text(section: &mut dyn Section, info: &KeyInfo, text: &str) -> Result<(), String> {
    let mut outcome = Ok(());
    for value in source::candidates(text, info.is_list) {
        outcome = section.put(info.name, value);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn unknown(path: &str, section: &str, known: &[KeyInfo]) -> String {
    let paths: Vec<String> = known.iter().map(KeyInfo::path).collect();
    if path == section && known.iter().any(|info| info.section == section) {
        return format!("this is a section; write `[{section}]` and the keys below it");
    }
    match nearest(path, paths.iter().map(String::as_str)) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => "unknown key; `shaddock config` lists all keys. Keys of the application belong in the section `[app]`".to_owned(),
    }
}

#[cfg(test)]
mod tests;
