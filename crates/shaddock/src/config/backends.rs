//! `[backends.<type>]`: the only section that may occur several times.

use std::collections::BTreeSet;

use toml::Value;

use super::{
    BackendSettings, BalanceSetting, Config, ConfigError, KeyInfo, Problem, ProtocolSetting,
    nearest::nearest,
    put_text,
    rules::server_name,
    section::Section as _,
    source::{Entry, Given},
};
use crate::backend::{BackendError, BackendEvent, Balance, HttpBackend, Protocol};

pub(super) const SECTION: &str = "backends";

/// Splits a table into its keys, so that each is checked separately; returns other entries unchanged.
pub(super) fn keys_of(entry: Entry) -> Vec<Entry> {
    match (entry.path.as_slice(), &entry.value) {
        ([section, _], Given::Toml(Value::Table(table)))
            if section == SECTION && !table.is_empty() =>
        {
            let keys = table.iter().map(|(key, value)| Entry {
                path: [entry.path.as_slice(), std::slice::from_ref(key)].concat(),
                value: Given::Toml(value.clone()),
                origin: entry.origin.clone(),
            });
            keys.collect()
        }
        _ => vec![entry],
    }
}

/// Server type and key of `backends.<type>.<key>`.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix(SECTION)?
        .strip_prefix('.')?
        .rsplit_once('.')
}

impl Config {
    pub(super) fn apply_backend(&mut self, entry: Entry) -> Result<(), Problem> {
        let path = entry.path.join(".");
        let problem = |message: String| Problem {
            origin: entry.origin.clone(),
            key: path.clone(),
            message,
        };
        let [_, server_type, key] = entry.path.as_slice() else {
            return Err(problem(
                "this is a section; write `[backends.<type>]`, such as `[backends.chat]`, and the keys below it".to_owned(),
            ));
        };
        server_name(server_type).map_err(&problem)?;
        let known = BackendSettings::default().keys();
        let Some(info) = known.iter().find(|info| info.name == key) else {
            let near = nearest(key, known.iter().map(|info| info.name));
            return Err(problem(match near {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => "unknown key; `docs/configuration.md` lists those of `[backends.<type>]`"
                    .to_owned(),
            }));
        };
        let section = self.backends.entry(server_type.clone()).or_default();
        let outcome = match entry.value.clone() {
            Given::Toml(value) => section.put(info.name, value),
            Given::Text(text) => put_text(section, info, &text),
        };
        outcome.map_err(problem)?;
        self.origins.insert(path, entry.origin);
        Ok(())
    }

    /// All backend keys of two configurations, with their paths.
    pub(super) fn backend_keys(&self, other: &Self) -> Vec<(String, KeyInfo)> {
        let types: BTreeSet<&String> = self.backends.keys().chain(other.backends.keys()).collect();
        let keys = BackendSettings::default().keys();
        let path =
            |server_type: &str, key: &KeyInfo| format!("{SECTION}.{server_type}.{}", key.name);
        types
            .into_iter()
            .flat_map(|server_type| keys.iter().map(|key| (path(server_type, key), *key)))
            .collect()
    }

    /// Checks each backend without reading files. Returns the invalid keys and the reasons.
    pub(super) fn backend_mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut judge: Option<&str> = None;
        for (server_type, settings) in &self.backends {
            let path = |key: &str| format!("{SECTION}.{server_type}.{key}");
            match settings.build() {
                Ok(backend) if backend.events.contains(&BackendEvent::Handshake) => {
                    if let Some(other) = judge.replace(server_type) {
                        let text = format!(
                            "`backends.{other}` already checks handshakes; only one backend can"
                        );
                        mistakes.push((path("events"), text));
                    }
                }
                Ok(_) => {}
                Err(error) => mistakes.push((path(key_of(&error)), error.to_string())),
            }
        }
        mistakes
    }

    /// Checks the files of each backend. Returns certificates that cannot be read.
    pub(super) fn backend_files(&self) -> Vec<(String, String)> {
        let missing = self.backends.iter().filter_map(|(server_type, settings)| {
            let error = settings.build().and_then(|one| settings.trust(one)).err()?;
            let key = format!("{SECTION}.{server_type}.{}", key_of(&error));
            Some((key, error.to_string()))
        });
        missing.collect()
    }

    /// The HTTP backends, by server type.
    ///
    /// # Errors
    /// A backend is invalid: [`load`](Self::load) reports most reasons, [`check_start`](Self::check_start) unreadable files.
    pub fn http_backends(&self) -> Result<Vec<(&str, HttpBackend)>, ConfigError> {
        let built = self.backends.iter().map(|(server_type, settings)| {
            let built = settings.build().and_then(|one| settings.trust(one));
            let backend = built.map_err(|error| {
                let key = format!("{SECTION}.{server_type}.{}", key_of(&error));
                ConfigError::Problems(vec![Problem {
                    origin: self.origin(&key).clone(),
                    key,
                    message: error.to_string(),
                }])
            })?;
            Ok((server_type.as_str(), backend))
        });
        built.collect()
    }
}

/// The key that the error is about.
const fn key_of(error: &BackendError) -> &'static str {
    match error {
        BackendError::Secret | BackendError::Secrets => "secret",
        BackendError::Roots(_) => "ca",
        BackendError::Health(_) => "health",
        BackendError::NoUrl | BackendError::Url { .. } => "url",
    }
}

impl BackendSettings {
    /// Builds the backend without reading files.
    fn build(&self) -> Result<HttpBackend, BackendError> {
        let mut backend = HttpBackend::with_urls(&self.url.0)?
            .secrets(&self.secret.0)?
            .concurrent(&self.concurrent);
        if !self.health.is_empty() {
            backend = backend.health(&self.health)?;
        }
        backend.health_interval = self.health_interval.0;
        backend.protocol = match self.protocol {
            ProtocolSetting::Auto => Protocol::Auto,
            ProtocolSetting::Http1 => Protocol::Http1,
            ProtocolSetting::Http2 => Protocol::Http2,
        };
        let wanted = |event: &BackendEvent| self.events.iter().any(|name| name == event.name());
        backend = backend.events(BackendEvent::ALL.into_iter().filter(wanted));
        backend.timeout = self.timeout.0;
        backend.connect_timeout = self.connect_timeout.0;
        backend.max_connections = self.max_connections;
        backend.queue = self.queue;
        backend.max_body = self.max_body.0;
        backend.max_idle = self.max_idle.0;
        backend.balance = match self.balance {
            BalanceSetting::RoundRobin => Balance::RoundRobin,
            BalanceSetting::UserHash => Balance::UserHash,
        };
        Ok(backend)
    }

    /// Reads the trusted certificates.
    fn trust(&self, backend: HttpBackend) -> Result<HttpBackend, BackendError> {
        if self.ca.as_os_str().is_empty() {
            return backend.trust_system();
        }
        let pem = std::fs::read(&self.ca).map_err(|error| {
            BackendError::Roots(format!("{} cannot be read: {error}", self.ca.display()))
        })?;
        backend.trust(&pem)
    }
}
