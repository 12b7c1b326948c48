//! The configuration in force in a process, for operators.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use toml::Value;

use super::{Config, KeyInfo, Origin};

/// One key of the configuration of a running process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EffectiveKey {
    /// `session.single_session`
    pub key: String,
    /// The value in force, as TOML. Absent if it is hidden: it is a secret, or belongs to the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The source of the value.
    pub origin: String,
    /// Whether the value was set, rather than a default.
    pub is_set: bool,
    /// Whether SIGHUP applies a change.
    pub live: bool,
    /// The value that was read later and takes effect after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// The key's documentation.
    pub about: String,
}

/// Replaces a value that is hidden.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// The configuration in force in a process that started with this configuration and last read `newest`: changes of `live` keys are
    /// applied, other changes are pending.
    pub(crate) fn effective(&self, newest: &Self) -> Vec<EffectiveKey> {
        let keys = Self::keys().into_iter().map(|key| (key.path(), key));
        let keys = keys.chain(self.backend_keys(newest));
        keys.map(|(path, key)| self.effective_key(newest, path, &key))
            .chain(self.of_the_application(newest))
            .collect()
    }

    fn effective_key(&self, newest: &Self, path: String, key: &KeyInfo) -> EffectiveKey {
        let (then, now) = (self.value(&path), newest.value(&path));
        // A backend that is not on both sides cannot be changed.
        let is_live = key.live && then.is_some() == now.is_some();
        let waits = (!is_live && then != now).then(|| match &now {
            _ if key.secret => HIDDEN.to_owned(),
            Some(value) => shown(value),
            None => "(none)".to_owned(),
        });
        let (in_force, of) = if is_live { (now, newest) } else { (then, self) };
        let origin = of.origin(&path);
        let is_set = *origin != Origin::Default;
        EffectiveKey {
            value: in_force
                .filter(|_| !key.secret || !is_set)
                .map(|value| shown(&value)),
            origin: origin.to_string(),
            is_set,
            live: key.live,
            waits,
            about: super::print::text(key.docs),
            key: path,
        }
    }

    /// The keys of `[app]`. Their values may be secret.
    fn of_the_application(&self, newest: &Self) -> Vec<EffectiveKey> {
        let changed: BTreeSet<String> = self.app.changed(&newest.app).into_iter().collect();
        let tables = [self.app.table(), newest.app.table()];
        let names: BTreeSet<&String> = tables.into_iter().flat_map(toml::Table::keys).collect();
        names
            .into_iter()
            .map(|name| {
                let key = format!("app.{name}");
                EffectiveKey {
                    value: None,
                    origin: newest.origin(&key).to_string(),
                    is_set: true,
                    live: false,
                    waits: changed.contains(&key).then(|| HIDDEN.to_owned()),
                    about: String::new(),
                    key,
                }
            })
            .collect()
    }
}

/// TOML of a value; user and password of URLs are removed.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(scheme) = rest.find("://") {
        let (before, after) = rest.split_at(scheme + 3);
        out.push_str(before);
        let end = after
            .find(['"', '\'', ',', ' ', '?', '#'])
            .unwrap_or(after.len());
        let login = after[..end].rfind('@').map_or(0, |at| at + 1);
        rest = &after[login..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn load(flags: &[&str]) -> Config {
        let sources = flags
            .iter()
            .fold(Sources::default(), |all, flag| all.flag(*flag));
        Config::load(&sources).unwrap()
    }

    fn key<'a>(keys: &'a [EffectiveKey], path: &str) -> &'a EffectiveKey {
        keys.iter().find(|key| key.key == path).unwrap()
    }

    #[test]
    fn secrets_are_not_in_it_whatever_they_are_set_to() {
        let secret = "hush-hush-hush-hush";
        let every: Vec<String> = Config::keys()
            .iter()
            .filter(|key| key.secret)
            .map(|key| format!("{}={secret}", key.path()))
            .chain([
                format!("app.password={secret}"),
                format!("backends.chat.secret={secret}"),
                "backends.chat.url=http://127.0.0.1:8000".to_owned(),
                format!("cluster.nats_urls=nats://ann:{secret}@localhost:4222"),
            ])
            .collect();
        let flags: Vec<&str> = every.iter().map(String::as_str).collect();
        let (mut config, mut read) = (Config::default(), 0);
        for flag in &flags {
            // Some keys contradict each other, so each is read separately.
            let with = [*flag, "backends.chat.url=http://127.0.0.1:8000"];
            let sources = with
                .iter()
                .fold(Sources::default(), |all, one| all.flag(*one));
            if let Ok(one) = Config::load(&sources) {
                let text = serde_json::to_string(&one.effective(&one)).unwrap();
                assert!(!text.contains("hush"), "{flag}: {text}");
                let text = serde_json::to_string(&config.effective(&one)).unwrap();
                assert!(!text.contains("hush"), "{flag} waits: {text}");
                config = one;
                read += 1;
            }
        }
        assert!(read > 6, "{read} of {}", flags.len());
        let config = load(&["app.password=hush", "admin.read_tokens=hush-hush-hush-hush"]);
        let keys = config.effective(&config);
        assert_eq!(key(&keys, "app.password").value, None);
        assert!(key(&keys, "admin.read_tokens").is_set);
    }

    #[test]
    fn logins_in_urls_are_left_out() {
        let text = |text: &str| shown(&Value::String(text.to_owned()));
        assert_eq!(text("http://ann:pw@host/path@home"), "\"http://home\"");
        assert_eq!(text("http://host:80/x"), "\"http://host:80/x\"");
        let list = Value::Array(vec!["nats://a:b@one".into(), "nats://two".into()]);
        let shown = shown(&list);
        assert!(!shown.contains("a:b") && shown.contains("one") && shown.contains("nats://two"));
    }

    #[test]
    fn what_was_read_since_is_in_force_or_waits() {
        let started = load(&["session.single_session=true", "access.max_connections=5"]);
        let newest = load(&["access.max_connections=7"]);
        let keys = started.effective(&newest);
        let live = key(&keys, "access.max_connections");
        assert_eq!((live.value.as_deref(), &live.waits), (Some("7"), &None));
        let other = key(&keys, "session.single_session");
        assert_eq!(other.value.as_deref(), Some("true"));
        assert_eq!(
            (other.waits.as_deref(), other.origin.as_str()),
            (Some("false"), "--set")
        );
        let untouched = key(&keys, "session.max_settings");
        assert!(!untouched.is_set && untouched.waits.is_none() && !untouched.about.is_empty());
    }
}
