//! Settings of a cluster on NATS and etcd.

use std::time::Duration;

use crate::ClusterError;

/// How servers reach NATS and etcd, and the bounds of what they hold. Defaults are those of Pitaya v3 where it has the
/// setting, so that servers of both kinds agree without being told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NatsConfig {
    /// URLs of NATS servers. Default `nats://localhost:4222`.
    pub nats_urls: Vec<String>,
    /// User and password at NATS.
    pub nats_user: Option<(String, String)>,
    /// A NATS credentials file.
    pub nats_credentials: Option<std::path::PathBuf>,
    /// How long one attempt to connect to NATS may take. Default 2 s.
    pub nats_connect_timeout: Duration,
    /// Time between pings to a silent NATS server; three without an answer are a lost connection. Default 10 s. A server
    /// must notice that it is cut off before NATS does (its own default is 2 minutes), so keep it below NATS' interval.
    pub nats_ping_interval: Duration,
    /// Time between attempts to reach NATS again, to which up to a tenth is added. Default 1 s. There is no last attempt.
    pub nats_reconnect_delay: Duration,

    /// Endpoints of etcd. Default `localhost:2379`.
    pub etcd_endpoints: Vec<String>,
    /// User and password at etcd.
    pub etcd_user: Option<(String, String)>,
    /// In front of every key; ends in `/`. Default `pitaya/`.
    pub etcd_prefix: String,
    /// How long one operation at etcd may take. Default 5 s.
    pub etcd_timeout: Duration,
    /// How long others believe that this server lives without hearing of it. Whole seconds, at least 1. Default 60 s.
    pub lease_ttl: Duration,
    /// Time between full reads of the server list, a safety net. Default 120 s.
    pub sync_interval: Duration,
    /// Time between attempts to reach etcd again. Default 1 s. There is no last attempt.
    pub etcd_retry_delay: Duration,
    /// After etcd was silent: how long a server that is missing in its list is still believed to be there, so that it can
    /// register again. Default 10 s.
    pub rejoin_grace: Duration,
    /// Server types that are ignored, one's own apart.
    pub ignored_types: Vec<String>,
    /// How long to serve on after leaving the list, so that others notice. Default 300 ms.
    pub shutdown_delay: Duration,

    /// How long a caller waits who does not say. Default 5 s.
    pub request_timeout: Duration,
    /// How long a push, and a question to all frontends at once, waits for the answer of a frontend. Never more than half of
    /// [`request_timeout`](Self::request_timeout), so that a handler that pushes can still answer. Default 2 s.
    pub push_timeout: Duration,
    /// After so many time-outs in a row a server is suspected: others of its type are chosen and pushes to it are not waited for, until it
    /// answers again. 0 turns that off. Default 3.
    pub suspect_after: u32,
    /// Time until a suspected server is asked whether it answers. Doubles with each time that it does not, up to 30 s. Default 1 s.
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
    /// How long a bind may take to settle who owns the user, when the present owner does not answer. Default 10 s.
    pub takeover_timeout: Duration,
    /// Subscribe to the subjects of each bound user only while a server that needs them (a Pitaya server) is in the list.
    /// Saves two subscriptions per user; the first pushes of a Pitaya server that just came can be lost. Default off.
    pub lazy_user_subjects: bool,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            nats_urls: vec!["nats://localhost:4222".to_owned()],
            nats_user: None,
            nats_credentials: None,
            nats_connect_timeout: Duration::from_secs(2),
            nats_ping_interval: Duration::from_secs(10),
            nats_reconnect_delay: Duration::from_secs(1),
            etcd_endpoints: vec!["localhost:2379".to_owned()],
            etcd_user: None,
            etcd_prefix: "pitaya/".to_owned(),
            etcd_timeout: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(60),
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
            takeover_timeout: Duration::from_secs(10),
            lazy_user_subjects: false,
        }
    }
}

impl NatsConfig {
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
