//! What single keys cannot know: values that do not go together, and what is outside of the configuration.

use std::{net::SocketAddr, path::Path, time::Duration};

use shaddock_cluster::ClusterError;
use shaddock_net::TlsError;

use super::{
    ClusterMode, Config, ConfigError, CryptoSetting, DialectSetting, Network, Problem, Secret, Time,
};

/// Mistakes that are found.
struct Found<'a> {
    config: &'a Config,
    problems: &'a mut Vec<Problem>,
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
    /// Values that do not go together.
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut found = Found {
            config: self,
            problems,
        };
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
            found.wrong("tls.address", "needs `tls.certificate` and `tls.key`");
        }
    }

    /// What a server that starts with this configuration needs besides: addresses that do not meet, certificate and key that fit, a cluster
    /// that can be named. Commands that only read a server's configuration do without, and may not even be allowed to read its key.
    ///
    /// # Errors
    /// All mistakes, as of [`load`](Self::load).
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
                format!("`{own}` is the type of this server itself (`server.server_type`), so no request would go to the backend; name one of the two otherwise"),
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
            // As certificate and key, it is read when it is needed; then nobody may be looking.
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

    fn check_admin(&self, found: &mut Found<'_>) {
        let is_public = self
            .admin_address()
            .is_some_and(|address| !address.ip().to_canonical().is_loopback());
        if is_public && crate::admin::Tokens::of(&self.admin).is_empty() {
            found.wrong(
                "admin.address",
                "others can reach this address, so `admin.token` must be set (or use 127.0.0.1)",
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
                "needs `access.trusted_proxies`: from nobody else such a head is believed",
            );
        }
        if !self.listen.address_header.is_empty() {
            found.wrong(
                "listen.address_header",
                "needs `access.trusted_proxies`: from nobody else such a header is believed",
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
                "denies all that `access.allow` lets in, so nobody could connect; take the networks that are meant out of one of the two",
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
                "there are no heartbeats; write `heartbeat = \"30s\"`, or leave the time-out out (silent clients have `protocol.idle_timeout`)",
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
                    "{timeout} is not longer than the heartbeat interval{of}, {interval}: every client would be cut off between two heartbeats; write \"{twice}\", or \"0s\", which is twice the interval"
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
                "Pitaya clients cannot sign, so all clients would be refused; write `crypto = \"off\"`, or `unsigned_pitaya = true`",
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
                "one login is enough: `nats_user`, `nats_token`, `nats_nkey` or `nats_credentials`",
            );
        }
        if !pair(&cluster.nats_certificate, &cluster.nats_key) {
            found.wrong(
                "cluster.nats_certificate",
                "needs `cluster.nats_key`, and the other way round",
            );
        }
        if !pair(&cluster.etcd_certificate, &cluster.etcd_key) {
            found.wrong(
                "cluster.etcd_certificate",
                "needs `cluster.etcd_key`, and the other way round",
            );
        }
        if !whole(&cluster.nats_user, &cluster.nats_password) {
            found.wrong(
                "cluster.nats_user",
                "needs `cluster.nats_password`, and the other way round",
            );
        }
        if !whole(&cluster.etcd_user, &cluster.etcd_password) {
            found.wrong(
                "cluster.etcd_user",
                "needs `cluster.etcd_password`, and the other way round",
            );
        }
    }

    fn check_drain(&self, found: &mut Found<'_>) {
        let drain = &self.drain;
        // Connections are closed in two rounds of waves: those that are not resumed, and after `drain.linger` the rest.
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

    /// Two listeners on one address: the second could not start, or would take half of what the first one is sent.
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
                    format!("{address} is taken by `{other}` ({taken}); write another port"),
                );
            }
            seen.push((key, address));
        }
    }
}

/// What Pitaya clients get when no interval is set: they cannot do without.
const PITAYA_HEARTBEAT: Time = Time(Duration::from_secs(30));

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Whether two listeners cannot have these addresses.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let [one_ip, other_ip] = [one, other].map(|address| address.ip().to_canonical());
    // The system chooses a port for 0. `[::]` takes IPv4 along, and the other way round nothing is lost by another port.
    let all = one_ip.is_unspecified() || other_ip.is_unspecified();
    one.port() != 0 && one.port() == other.port() && (all || one_ip == other_ip)
}

/// What an error says, and then what its causes say that it has not said itself.
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

/// Whether each is an origin as browsers send it, which is compared as it stands.
pub(super) fn origins(list: &[String]) -> Result<(), String> {
    list.iter().try_for_each(|origin| check_origin(origin))
}

fn check_origin(origin: &str) -> Result<(), String> {
    // What pages without an origin of their own send, such as those from a file.
    if origin == "null" {
        return Ok(());
    }
    if origin == "*" {
        return Err(
            "\"*\" is no origin; leave the list empty, `origins = []`, and all pages may connect"
                .to_owned(),
        );
    }
    if origin.contains('*') {
        return Err(format!(
            "\"{origin}\" has a wildcard, which is not supported; write every origin, such as \"https://play.example.com\""
        ));
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Err(format!(
            "\"{origin}\" is no origin; write it with its scheme, \"https://{origin}\""
        ));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || origin.contains(char::is_whitespace) || host.contains('@') {
        return Err(format!(
            "\"{origin}\" is no origin; write \"https://play.example.com\" or \"https://play.example.com:8443\""
        ));
    }
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        other => other.to_owned(),
    };
    let host = match scheme.as_str() {
        "http" => host.strip_suffix(":80"),
        "https" => host.strip_suffix(":443"),
        _ => None,
    }
    .unwrap_or(host);
    let right = format!("{scheme}://{host}");
    if right.eq_ignore_ascii_case(origin) {
        return Ok(());
    }
    Err(format!(
        "browsers never send \"{origin}\" as the origin of a page (no path, no slash at the end, no usual port, not `ws`); write \"{right}\""
    ))
}
