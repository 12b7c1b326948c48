//! Settings of a cluster on NATS and etcd.

use std::time::Duration;

use std::path::{Path, PathBuf};

use crate::{Address, ClusterError, Secret};

/// How servers reach NATS and etcd, and the bounds of what they hold. Defaults are those of Pitaya v3 where it has the
/// setting, so that servers of both kinds agree without being told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NatsConfig {
    /// URLs of NATS servers, any of which is used: `nats://host:port`, or `tls://host:port` for TLS. User and password, or a token, may
    /// stand before the host; then all URLs have the same. Default `nats://localhost:4222`.
    pub nats_urls: Vec<Address>,
    /// How to log in at NATS, unless the URLs say so.
    pub nats_login: NatsLogin,
    /// TLS to NATS. Files that are named here are a demand for TLS.
    pub nats_tls: TlsFiles,
    /// How long one attempt to connect to NATS may take. Default 2 s.
    pub nats_connect_timeout: Duration,
    /// Time between pings to a silent NATS server; three without an answer are a lost connection. Default 10 s. A server
    /// must notice that it is cut off before NATS does (its own default is 2 minutes), so keep it below NATS' interval.
    pub nats_ping_interval: Duration,
    /// Time between attempts to reach NATS again, to which up to a tenth is added. Default 1 s. There is no last attempt.
    pub nats_reconnect_delay: Duration,
    /// Bytes that wait to be sent while NATS does not take them. Above, sending fails; what waits for longer than it is worth (a request for its
    /// timeout) is thrown away. Default 64 MiB.
    pub nats_waiting_bytes: usize,

    /// Endpoints of etcd: `host:port`, or `https://host:port` for TLS. Default `localhost:2379`.
    pub etcd_endpoints: Vec<Address>,
    /// User and password at etcd.
    pub etcd_user: Option<(String, Secret)>,
    /// TLS to etcd, for endpoints with `https://`, and for those without a scheme if a file is named here.
    pub etcd_tls: TlsFiles,
    /// In front of every key; ends in `/`. Default `pitaya/`.
    pub etcd_prefix: String,
    /// How long one operation at etcd may take. Default 5 s.
    pub etcd_timeout: Duration,
    /// How long others believe that this server lives without hearing of it. Whole seconds, at least 1. Default 15 s.
    pub lease_ttl: Duration,
    /// Time between full reads of the server list, a safety net. Default 120 s.
    pub sync_interval: Duration,
    /// Time between attempts to reach etcd again. Default 1 s. There is no last attempt.
    pub etcd_retry_delay: Duration,
    /// After an outage of etcd: how long a server that is missing in the list still counts as listed, so that it can
    /// register again. Default 10 s.
    pub rejoin_grace: Duration,
    /// Server types that are ignored. The server's own type never is.
    pub ignored_types: Vec<String>,
    /// How long a server still serves after it has left the list, so that others notice. Default 300 ms.
    pub shutdown_delay: Duration,

    /// The timeout of callers that do not set one. Default 5 s.
    pub request_timeout: Duration,
    /// How long a push, and a question to all frontends at once, waits for the answer of a frontend. Never more than half of
    /// [`request_timeout`](Self::request_timeout), so that a handler that pushes can still answer. Default 2 s.
    pub push_timeout: Duration,
    /// After so many timeouts in a row a server is suspected: until it replies again, other servers of its type are chosen, and pushes to it
    /// are not awaited. A server whose call is pending for longer than [`request_timeout`](Self::request_timeout) is probed, and suspected if
    /// it does not reply. 0 turns both off. Default 3.
    pub suspect_after: u32,
    /// Time until a suspected server is probed. Doubles with each probe without a reply, up to 30 s. A server whose calls take long is probed
    /// no more often either. Default 1 s.
    pub probe_interval: Duration,
    /// Calls in flight to one Pitaya server, which handles 30 at a time and drops what exceeds 75 more. Default 25.
    pub calls_per_pitaya_server: usize,
    /// Calls in flight to one shaddock server, which answers at once when it has too many. Default 1024.
    pub calls_per_server: usize,
    /// Calls that wait for one of these places, per target server; above, a call fails at once. Default 4096.
    pub waiting_calls_per_server: usize,
    /// Requests of others that are served at the same time; above, a request is answered `PIT-503 server busy`. Default
    /// 4096.
    pub max_serving: usize,
    /// How long a bind may wait for the present owner of the user, if that does not reply. Default 20 s.
    pub takeover_timeout: Duration,
    /// Subscribe to the subjects of each bound user only while a server that needs them (a Pitaya server) is in the list. That server is
    /// sent nothing before the subscriptions are there; only what it pushes of its own accord in its first moments can be lost. Off, each bound user
    /// costs two subscriptions, some kilobytes, at any time. Default on.
    pub lazy_user_subjects: bool,
    /// For how many users of each type of frontends this server remembers where they are, so that a push to a user is one message. 0: for none, and
    /// a push goes to all frontends of the type. Default 65,536.
    pub directory_size: usize,
}

/// How to log in at NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatsLogin {
    /// Not at all.
    #[default]
    None,
    /// User and password.
    User(String, Secret),
    /// A token.
    Token(Secret),
    /// The seed of an nkey (`SU..`).
    Nkey(Secret),
    /// A credentials file, as `nsc` writes it.
    Credentials(PathBuf),
}

/// Files in PEM for TLS. Without a CA, those of the system are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFiles {
    /// Certificates that are trusted.
    pub ca: Option<PathBuf>,
    /// Certificate and key by which the other side knows this server.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Trusts the certificates of this file.
    #[must_use]
    pub fn ca(mut self, file: impl AsRef<Path>) -> Self {
        self.ca = Some(file.as_ref().to_owned());
        self
    }

    /// Shows this certificate.
    #[must_use]
    pub fn client(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.client = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// Whether any file is named.
    pub fn is_wanted(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            nats_urls: vec!["nats://localhost:4222".into()],
            nats_login: NatsLogin::None,
            nats_tls: TlsFiles::default(),
            nats_connect_timeout: Duration::from_secs(2),
            nats_ping_interval: Duration::from_secs(10),
            nats_reconnect_delay: Duration::from_secs(1),
            nats_waiting_bytes: 64 * 1024 * 1024,
            etcd_endpoints: vec!["localhost:2379".into()],
            etcd_user: None,
            etcd_tls: TlsFiles::default(),
            etcd_prefix: "pitaya/".to_owned(),
            etcd_timeout: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(15),
            sync_interval: Duration::from_secs(120),
            etcd_retry_delay: Duration::from_secs(1),
            rejoin_grace: Duration::from_secs(10),
            ignored_types: Vec::new(),
            shutdown_delay: Duration::from_millis(300),
            request_timeout: Duration::from_secs(5),
            push_timeout: Duration::from_secs(2),
            suspect_after: 3,
            probe_interval: Duration::from_secs(1),
            calls_per_pitaya_server: 25,
            calls_per_server: 1024,
            waiting_calls_per_server: 4096,
            max_serving: 4096,
            takeover_timeout: Duration::from_secs(20),
            lazy_user_subjects: true,
            directory_size: 65_536,
        }
    }
}

impl NatsConfig {
    /// How to log in at NATS, from the URLs or beside them.
    pub(crate) fn nats_login(&self) -> Result<NatsLogin, ClusterError> {
        let refuse = |reason: &str| {
            Err(ClusterError::Setting {
                key: "nats_urls",
                reason: reason.to_owned(),
            })
        };
        let mut logins = self.nats_urls.iter().map(Address::login);
        let first = logins.next().flatten();
        if logins.any(|login| login != first) {
            return refuse("all URLs must have the same user and password, or none");
        }
        let Some((user, password)) = first else {
            return Ok(self.nats_login.clone());
        };
        if self.nats_login != NatsLogin::None {
            return refuse(
                "the URL contains a user or token, and another login is set: remove one of them",
            );
        }
        Ok(match password {
            Some(password) => NatsLogin::User(user, password),
            None => NatsLogin::Token(user.into()),
        })
    }

    /// How long pushes wait in fact.
    pub(crate) fn push_timeout(&self) -> Duration {
        self.push_timeout.min(self.request_timeout / 2)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ClusterError::Setting`] with the name of the first setting that cannot be used.
    pub fn validate(&self) -> Result<(), ClusterError> {
        let refuse = |key, reason: &str| {
            Err(ClusterError::Setting {
                key,
                reason: reason.to_owned(),
            })
        };
        if self.nats_urls.is_empty() {
            return refuse("nats_urls", "at least one URL is needed");
        }
        if self.etcd_endpoints.is_empty() {
            return refuse("etcd_endpoints", "at least one endpoint is needed");
        }
        self.nats_login()?;
        for endpoint in &self.etcd_endpoints {
            if endpoint.login().is_some() {
                return refuse(
                    "etcd_endpoints",
                    "user and password are not allowed here: set etcd_user and etcd_password",
                );
            }
            if self.etcd_tls.is_wanted() && endpoint.expose().starts_with("http://") {
                return refuse(
                    "etcd_endpoints",
                    "with a CA or a certificate write https://",
                );
            }
        }
        if !self.etcd_prefix.is_empty() && !self.etcd_prefix.ends_with('/') {
            return refuse("etcd_prefix", "must end in '/'");
        }
        if self.lease_ttl.as_secs() == 0 || self.lease_ttl.subsec_nanos() != 0 {
            return refuse("lease_ttl", "must be whole seconds, at least 1");
        }
        if self.probe_interval.is_zero() {
            return refuse("probe_interval", "must not be zero");
        }
        if self.calls_per_server == 0 || self.calls_per_pitaya_server == 0 {
            return refuse("calls_per_server", "must be at least 1");
        }
        if self.max_serving == 0 {
            return refuse("max_serving", "must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        assert_eq!(NatsConfig::default().validate(), Ok(()));
        let bad = NatsConfig {
            etcd_prefix: "pitaya".into(),
            ..NatsConfig::default()
        };
        assert!(matches!(
            bad.validate(),
            Err(ClusterError::Setting {
                key: "etcd_prefix",
                ..
            })
        ));
        let bad = NatsConfig {
            lease_ttl: Duration::from_millis(1500),
            ..NatsConfig::default()
        };
        assert!(matches!(
            bad.validate(),
            Err(ClusterError::Setting {
                key: "lease_ttl",
                ..
            })
        ));
    }
}
