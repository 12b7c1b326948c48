//! Checks that no single key can make: values that contradict each other, and the environment of the process.

use std::{net::SocketAddr, path::Path, time::Duration};

use shaddock_cluster::ClusterError;
use shaddock_net::TlsError;

use super::{
    ClusterMode, Config, ConfigError, CryptoSetting, DialectSetting, KeyInfo, Network, Origin,
    Problem, Secret, Time, section::Section as _,
};

/// The mistakes found so far.
pub(super) struct Found<'a> {
    pub(super) config: &'a Config,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// The optional parts that a program was built with.
pub(super) struct Built {
    pub(super) admin: bool,
    pub(super) logs: bool,
}

impl Built {
    const HERE: Self = Self {
        admin: cfg!(feature = "admin"),
        logs: cfg!(feature = "logs"),
    };
}

impl Found<'_> {
    fn wrong(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: self.config.origin(key).clone(),
            key: key.to_owned(),
            message: message.into(),
        });
    }
}

impl Config {
    /// Checks for values that contradict each other.
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut found = Found {
            config: self,
            problems,
        };
        self.check_features(&Built::HERE, &mut found);
        self.check_admin(&mut found);
        self.check_proxies(&mut found);
        self.check_networks(&mut found);
        self.check_heartbeats(&mut found);
        self.check_crypto(&mut found);
        self.check_cluster(&mut found);
        self.check_drain(&mut found);
        for (key, message) in self.backend_mistakes() {
            found.wrong(&key, message);
        }
        if let Some((key, message)) = self.telemetry_mistake() {
            found.wrong(key, message);
        }
        if !self.tls.address.is_empty()
            && (is_empty(&self.tls.certificate) || is_empty(&self.tls.key))
        {
            found.wrong("tls.address", "requires `tls.certificate` and `tls.key`");
        }
    }

    /// Checks what a server needs to start with this configuration: distinct addresses, a matching certificate and key, a cluster that can
    /// be configured. Commands that only read a server's configuration skip these checks, and may not have permission to read its key.
    ///
    /// # Errors
    /// All mistakes, as in [`load`](Self::load).
    pub fn check_start(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut found = Found {
            config: self,
            problems: &mut problems,
        };
        self.check_addresses(&mut found);
        let own = &self.server.server_type;
        if self.backends.contains_key(own) {
            found.wrong(
                &format!("backends.{own}.url"),
                format!("`{own}` is the type of this server itself (`server.server_type`), so no request would reach the backend; rename one of the two"),
            );
        }
        for (key, message) in self.backend_files() {
            found.wrong(&key, message);
        }
        if let Some((key, message)) = self.telemetry_files() {
            found.wrong(key, message);
        }
        if !self.tls.address.is_empty()
            && let Err(error) = self.tls()
        {
            let key = match &error {
                TlsError::File {
                    what: "private key",
                    ..
                } => "tls.key",
                _ => "tls.certificate",
            };
            found.wrong(key, with_causes(&error));
        }
        if self.cluster.mode == ClusterMode::Nats && !is_empty(&self.cluster.nats_credentials) {
            // The file is read again at each login. A mistake would be noticed only then.
            if let Err(error) = std::fs::File::open(&self.cluster.nats_credentials) {
                found.wrong(
                    "cluster.nats_credentials",
                    format!("cannot be read: {error}"),
                );
            }
        }
        match self.cluster() {
            Ok(_) => {}
            Err(ClusterError::Setting { key, reason }) => found.wrong(key, reason),
            Err(error) => found.wrong("cluster.mode", error.to_string()),
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Problems(problems))
        }
    }

    /// Checks for settings of parts that the program was built without.
    pub(super) fn check_features(&self, built: &Built, found: &mut Found<'_>) {
        let is_set = |key: &str| *self.origin(key) != Origin::Default;
        let mut missing = |key: &str, feature: &str| {
            found.wrong(
                key,
                format!("this program was built without the feature `{feature}` of the crate `shaddock`; add it in Cargo.toml, or remove the key"),
            );
        };
        if !built.admin && is_set("admin.address") && !self.admin.address.is_empty() {
            missing("admin.address", "admin");
        }
        if !built.logs {
            for key in self.log.keys().iter().map(KeyInfo::path) {
                if is_set(&key) {
                    missing(&key, "logs");
                }
            }
        }
    }

    fn check_admin(&self, found: &mut Found<'_>) {
        let is_public = self
            .admin_address()
            .is_some_and(|address| !address.ip().to_canonical().is_loopback());
        if is_public && !self.admin.has_tokens() {
            found.wrong(
                "admin.address",
                "this address can be reached from other machines; set `admin.token`, or use 127.0.0.1",
            );
        }
    }

    fn check_proxies(&self, found: &mut Found<'_>) {
        if !self.access.trusted_proxies.is_empty() {
            return;
        }
        if self.listen.proxy_protocol {
            found.wrong(
                "listen.proxy_protocol",
                "requires `access.trusted_proxies`: the header is trusted from these addresses only",
            );
        }
        if !self.listen.address_header.is_empty() {
            found.wrong(
                "listen.address_header",
                "requires `access.trusted_proxies`: the header is trusted from these addresses only",
            );
        }
    }

    fn check_networks(&self, found: &mut Found<'_>) {
        let access = &self.access;
        let is_denied =
            |network: &Network| access.deny.iter().any(|deny| deny.0.covers(&network.0));
        if !access.allow.is_empty() && access.allow.iter().all(is_denied) {
            found.wrong(
                "access.deny",
                "denies all networks of `access.allow`, so no client could connect; remove the networks from one of the two",
            );
        }
    }

    fn check_heartbeats(&self, found: &mut Found<'_>) {
        let protocol = &self.protocol;
        let (timeout, interval) = (protocol.heartbeat_timeout, protocol.heartbeat);
        if timeout.0.is_zero() {
            return;
        }
        if interval.0.is_zero() && protocol.dialect == DialectSetting::Pomelo {
            found.wrong(
                "protocol.heartbeat_timeout",
                "heartbeats are off; write `heartbeat = \"30s\"`, or remove the timeout (`protocol.idle_timeout` closes silent clients)",
            );
            return;
        }
        let (interval, of) = if interval.0.is_zero() {
            (PITAYA_HEARTBEAT, " of Pitaya clients")
        } else {
            (interval, "")
        };
        if timeout <= interval {
            let twice = Time(interval.0 * 2);
            found.wrong(
                "protocol.heartbeat_timeout",
                format!(
                    "{timeout} is not longer than the heartbeat interval{of}, {interval}: every client would be disconnected between two heartbeats; write \"{twice}\", or \"0s\", which is twice the interval"
                ),
            );
        }
    }

    fn check_crypto(&self, found: &mut Found<'_>) {
        let protocol = &self.protocol;
        if protocol.crypto != CryptoSetting::Off
            && protocol.dialect == DialectSetting::Pitaya
            && !protocol.unsigned_pitaya
        {
            found.wrong(
                "protocol.crypto",
                "Pitaya clients cannot sign, so all clients would be rejected; write `crypto = \"off\"`, or `unsigned_pitaya = true`",
            );
        }
    }

    fn check_cluster(&self, found: &mut Found<'_>) {
        let whole = |user: &str, password: &Secret| user.is_empty() == password.is_empty();
        let pair = |certificate: &Path, key: &Path| is_empty(certificate) == is_empty(key);
        let cluster = &self.cluster;
        let logins = [
            !cluster.nats_user.is_empty(),
            !cluster.nats_token.is_empty(),
            !cluster.nats_nkey.is_empty(),
            !is_empty(&cluster.nats_credentials),
        ];
        if logins.iter().filter(|login| **login).count() > 1 {
            found.wrong(
                "cluster.nats_user",
                "only one login is allowed: `nats_user`, `nats_token`, `nats_nkey` or `nats_credentials`",
            );
        }
        if !pair(&cluster.nats_certificate, &cluster.nats_key) {
            found.wrong(
                "cluster.nats_certificate",
                "requires `cluster.nats_key`, and the reverse",
            );
        }
        if !pair(&cluster.etcd_certificate, &cluster.etcd_key) {
            found.wrong(
                "cluster.etcd_certificate",
                "requires `cluster.etcd_key`, and the reverse",
            );
        }
        if !whole(&cluster.nats_user, &cluster.nats_password) {
            found.wrong(
                "cluster.nats_user",
                "requires `cluster.nats_password`, and the reverse",
            );
        }
        if !whole(&cluster.etcd_user, &cluster.etcd_password) {
            found.wrong(
                "cluster.etcd_user",
                "requires `cluster.etcd_password`, and the reverse",
            );
        }
    }

    fn check_drain(&self, found: &mut Found<'_>) {
        let drain = &self.drain;
        // Connections are closed in two rounds of waves: sessions that cannot be resumed, and the others after `drain.linger`.
        let rounds = if drain.linger.0.is_zero() { 1 } else { 2 };
        if drain.delay.0 + drain.spread.0 * rounds > drain.deadline.0 {
            let twice = if rounds == 2 {
                " twice (with `drain.linger`)"
            } else {
                ""
            };
            found.wrong(
                "drain.deadline",
                format!("must be at least `drain.delay` and `drain.spread`{twice} together"),
            );
        }
        if self.cluster.mode == ClusterMode::Nats
            && self.cluster.shutdown_delay.0 >= drain.deadline.0
        {
            found.wrong(
                "cluster.shutdown_delay",
                format!(
                    "a server that leaves the list would serve on for longer than a drain may take, `drain.deadline` ({}); write a shorter time",
                    drain.deadline
                ),
            );
        }
    }

    /// Checks for two listeners on one address: the second could not start, or would receive half of the connections of the first.
    fn check_addresses(&self, found: &mut Found<'_>) {
        let keys = [
            ("listen.address", &self.listen.address),
            ("tls.address", &self.tls.address),
            ("admin.address", &self.admin.address),
        ];
        let mut seen: Vec<(&str, SocketAddr)> = Vec::new();
        for (key, text) in keys {
            let Ok(address) = text.parse::<SocketAddr>() else {
                continue;
            };
            if let Some((other, taken)) = seen.iter().find(|(_, other)| meet(*other, address)) {
                found.wrong(
                    key,
                    format!("{address} is already used by `{other}` ({taken}); write another port"),
                );
            }
            seen.push((key, address));
        }
    }
}

/// The heartbeat interval of Pitaya clients if none is set: they require one.
const PITAYA_HEARTBEAT: Time = Time(Duration::from_secs(30));

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Whether two listeners with these addresses conflict.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let [one_ip, other_ip] = [one, other].map(|address| address.ip().to_canonical());
    // The system chooses a port for 0. `[::]` includes IPv4.
    let all = one_ip.is_unspecified() || other_ip.is_unspecified();
    one.port() != 0 && one.port() == other.port() && (all || one_ip == other_ip)
}

/// The text of an error, followed by the texts of its causes that it does not contain.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
