//! Converts settings into the configuration types of the layers below.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shaddock_cluster::{Cluster, ClusterError, LocalCluster, Strategy};
use shaddock_core::{OnFull, ResumeConfig, SessionConfig, SessionsPerUser};
use shaddock_net::{
    AccessPolicy, ConnectionLimits, ListenConfig, TlsError, TlsFiles, TlsReloader, UpgradePolicy,
};
use shaddock_protocol::{
    BrowserClients, CodecConfig, DialectChoice, HashPolicy, Limits, PitayaSerializer, PomeloErrors,
};

use super::{
    AdminSettings, ClusterMode, Config, CryptoSetting, DialectSetting, Network, OnFullSetting,
    PomeloErrorsSetting, RoutingSetting, Serializer,
};
use crate::{app::AppConfig, operators::ViewConfig, resume::ResumePolicy};

fn networks(list: &[Network]) -> Vec<shaddock_net::Network> {
    list.iter().map(|network| network.0).collect()
}

fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

impl AdminSettings {
    /// Limits of the admin server's connections. Needs the feature `admin`.
    #[cfg(feature = "admin")]
    pub fn http_limits(&self) -> crate::http::HttpLimits {
        crate::http::HttpLimits {
            max_connections: self.max_connections,
            head_timeout: self.head_timeout.0,
            idle_timeout: self.idle_timeout.0,
        }
    }

    /// Whether callers need a token.
    pub(crate) fn has_tokens(&self) -> bool {
        let lists = [&self.operate_tokens, &self.push_tokens, &self.read_tokens];
        !self.token.is_empty() || lists.iter().any(|list| !list.0.is_empty())
    }

    /// Limits of operators' requests about the whole cluster.
    pub fn view_config(&self) -> ViewConfig {
        ViewConfig {
            deadline: self.cluster_timeout.0,
            at_once: self.cluster_calls,
        }
    }
}

impl Config {
    /// The address of the admin server, if it is enabled. `None` without the feature `admin`.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let is_built = cfg!(feature = "admin");
        self.admin.address.parse().ok().filter(|_| is_built)
    }

    /// Whether the cluster spans several processes.
    pub fn is_clustered(&self) -> bool {
        self.cluster.mode != ClusterMode::Local
    }

    /// The policies of sessions.
    pub fn session_config(&self) -> SessionConfig {
        let session = &self.session;
        SessionConfig::default()
            .sessions_per_user(if session.single_session {
                SessionsPerUser::One(session.on_conflict)
            } else {
                SessionsPerUser::Any
            })
            .outbox_bytes(session.outbox_bytes.0)
            .max_listeners(session.max_listeners)
            .max_settings(session.max_settings)
            .max_memberships(session.max_memberships)
            .resume(self.resume_config())
    }

    /// Limits of resumable sessions.
    fn resume_config(&self) -> ResumeConfig {
        let resume = &self.resume;
        ResumeConfig::default()
            .window(resume.window.0)
            .ack(u8::try_from(resume.ack).unwrap_or(u8::MAX))
            .max_messages(resume.max_messages)
            .max_bytes(resume.max_bytes.0)
            .max_total_bytes(resume.max_total_bytes.0)
            .max_suspended(resume.max_suspended)
            .on_full(match resume.on_full {
                OnFullSetting::Gap => OnFull::Gap,
                OnFullSetting::Wait => OnFull::Wait,
            })
            .max_wait(resume.max_wait.0)
    }

    /// The clients that get resumable sessions.
    pub fn resume_policy(&self) -> ResumePolicy {
        let resume = &self.resume;
        let bound = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ResumePolicy {
            enabled: resume.enabled,
            require_tls: resume.require_tls,
            other_frontends: resume.other_frontends,
            address: (!resume.address.is_empty()).then(|| resume.address.as_str().into()),
            max_refused: bound(resume.max_refused),
            max_returns: bound(resume.max_returns),
        }
    }

    /// Limits on the data of a client.
    pub fn limits(&self) -> Limits {
        let protocol = &self.protocol;
        Limits::default()
            .max_package_size(protocol.max_package_size.0)
            .max_handshake_size(protocol.max_handshake_size.0)
            .max_inflated_size(protocol.max_inflated_size.0)
            .handshake_timeout(protocol.handshake_timeout.0)
            .idle_timeout(protocol.idle_timeout.0)
    }

    /// Encoding for a frontend's clients; dictionary and schemas are set by the application.
    pub fn codec_config(&self) -> CodecConfig {
        let protocol = &self.protocol;
        CodecConfig::default()
            .dialect(match protocol.dialect {
                DialectSetting::Auto => DialectChoice::Auto,
                DialectSetting::Pomelo => DialectChoice::Pomelo,
                DialectSetting::Pitaya => DialectChoice::Pitaya,
            })
            .limits(self.limits())
            .heartbeat(unless_zero(protocol.heartbeat.0))
            .heartbeat_timeout(unless_zero(protocol.heartbeat_timeout.0))
            .crypto(match protocol.crypto {
                CryptoSetting::Off => None,
                CryptoSetting::Sha2 => Some(HashPolicy::Sha2),
                CryptoSetting::Legacy => Some(HashPolicy::Legacy),
            })
            .unsigned_pitaya(protocol.unsigned_pitaya)
            .pomelo_errors(match protocol.pomelo_errors {
                PomeloErrorsSetting::Code => PomeloErrors::Code,
                PomeloErrorsSetting::Text => PomeloErrors::Text,
            })
            .browser_clients(BrowserClients(protocol.browser_clients.clone()))
            .pitaya_serializer(match protocol.pitaya_serializer {
                Serializer::Json => PitayaSerializer::Json,
                Serializer::Protobuf => PitayaSerializer::Protobuf,
            })
            .compress_pitaya(protocol.compress_pitaya)
    }

    /// Limits and times of an app.
    pub fn app_config(&self) -> AppConfig {
        let handlers = &self.handlers;
        AppConfig {
            handler_timeout: handlers.timeout.0,
            rpc_timeout: handlers.rpc_timeout.0,
            max_concurrent: handlers.max_concurrent,
            max_tasks: handlers.max_tasks,
            max_waiting_events: handlers.max_waiting_events,
            kept_events: self.admin.kept_events,
            event_timeout: handlers.event_timeout.0,
            handshake_timeout: handlers.handshake_timeout.0,
            handshake_bytes: self.session.handshake_bytes.0,
            start_timeout: handlers.start_timeout.0,
            stop_timeout: handlers.stop_timeout.0,
        }
    }

    /// The strategy that chooses a server of another type.
    pub fn routing(&self) -> Strategy {
        match self.cluster.routing {
            RoutingSetting::Random => Strategy::Random,
            RoutingSetting::RoundRobin => Strategy::RoundRobin,
            RoutingSetting::ConsistentHash => Strategy::ConsistentHash,
        }
    }

    /// The connection to NATS and etcd.
    #[cfg(feature = "nats")]
    pub fn nats_config(&self) -> shaddock_cluster::NatsConfig {
        let cluster = &self.cluster;
        let mut config = shaddock_cluster::NatsConfig::default();
        config.nats_urls.clone_from(&cluster.nats_urls);
        config.nats_login = nats::login(cluster);
        config.nats_tls = nats::tls(
            &cluster.nats_ca,
            &cluster.nats_certificate,
            &cluster.nats_key,
        );
        config.etcd_tls = nats::tls(
            &cluster.etcd_ca,
            &cluster.etcd_certificate,
            &cluster.etcd_key,
        );
        config.nats_ping_interval = cluster.nats_ping_interval.0;
        config.nats_reconnect_delay = cluster.nats_reconnect_delay.0;
        config.nats_waiting_bytes = cluster.nats_waiting_bytes.0;
        config.etcd_endpoints.clone_from(&cluster.etcd_endpoints);
        config.etcd_user = nats::user(&cluster.etcd_user, &cluster.etcd_password);
        config.etcd_prefix.clone_from(&cluster.etcd_prefix);
        config.etcd_timeout = cluster.etcd_timeout.0;
        config.lease_ttl = cluster.lease_ttl.0;
        config.sync_interval = cluster.sync_interval.0;
        config.rejoin_grace = cluster.rejoin_grace.0;
        config.ignored_types.clone_from(&cluster.ignored_types);
        config.shutdown_delay = cluster.shutdown_delay.0;
        config.request_timeout = cluster.request_timeout.0;
        config.push_timeout = cluster.push_timeout.0;
        config.suspect_after = cluster.suspect_after;
        config.probe_interval = cluster.probe_interval.0;
        config.calls_per_pitaya_server = cluster.calls_per_pitaya_server;
        config.calls_per_server = cluster.calls_per_server;
        config.waiting_calls_per_server = cluster.waiting_calls_per_server;
        config.max_serving = cluster.max_serving;
        config.takeover_timeout = cluster.takeover_timeout.0;
        config.lazy_user_subjects = cluster.lazy_user_subjects;
        config.directory_size = cluster.directory_size;
        config
    }

    /// The cluster that `[cluster]` describes. It is not connected yet.
    ///
    /// # Errors
    /// A setting is invalid, or the program was built without the feature `nats` and the mode is `nats`.
    pub fn cluster(&self) -> Result<Arc<dyn Cluster>, ClusterError> {
        match self.cluster.mode {
            ClusterMode::Local => Ok(Arc::new(LocalCluster::with_request_timeout(
                self.cluster.request_timeout.0,
            ))),
            #[cfg(feature = "nats")]
            ClusterMode::Nats => Ok(Arc::new(shaddock_cluster::NatsCluster::new(
                self.nats_config(),
            )?)),
            #[cfg(not(feature = "nats"))]
            ClusterMode::Nats => Err(ClusterError::Setting {
                key: "cluster.mode",
                reason: "this program was built without the feature `nats`".to_owned(),
            }),
        }
    }

    /// Address lists and limits on the number of connections.
    pub fn access_policy(&self) -> AccessPolicy {
        let access = &self.access;
        AccessPolicy::default()
            .allow(networks(&access.allow))
            .deny(networks(&access.deny))
            .trusted_proxies(networks(&access.trusted_proxies))
            .max_connections(access.max_connections)
            .max_connections_per_address(access.max_connections_per_address)
    }

    /// Limits of one connection.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let listen = &self.listen;
        let mut limits = ConnectionLimits::default();
        limits.messages_per_second = listen.messages_per_second;
        limits.burst = listen.burst;
        limits.pings_per_second = listen.pings_per_second;
        limits.waiting_messages = listen.waiting_messages;
        limits.waiting_bytes = listen.waiting_bytes.0;
        limits.slow_after = listen.slow_after.0;
        limits.linger = listen.linger.0;
        limits
    }

    /// The rules for WebSocket upgrades.
    pub fn upgrade_policy(&self) -> UpgradePolicy {
        let listen = &self.listen;
        UpgradePolicy::default()
            .origins(listen.origins.clone())
            .address_header(
                (!listen.address_header.is_empty()).then(|| listen.address_header.clone()),
            )
            .subprotocols(listen.subprotocols.clone())
    }

    /// A listener on `address` without TLS, with the configured limits.
    pub fn listen_config(&self, address: SocketAddr) -> ListenConfig {
        let listen = &self.listen;
        let mut config = ListenConfig::new(address);
        config.backlog = listen.backlog;
        config.nodelay = listen.nodelay;
        config.proxy_protocol = listen.proxy_protocol;
        config.access = self.access_policy();
        config.limits = self.connection_limits();
        config.upgrade = self.upgrade_policy();
        config
    }

    /// The listeners of `[listen]` and `[tls]`.
    ///
    /// # Errors
    /// The certificate or the key is invalid.
    pub fn listeners(&self) -> Result<Vec<ListenConfig>, TlsError> {
        let mut listeners = Vec::new();
        if let Ok(address) = self.listen.address.parse() {
            listeners.push(self.listen_config(address));
        }
        if let Ok(address) = self.tls.address.parse() {
            let mut config = self.listen_config(address);
            config.tls = Some(self.tls()?);
            listeners.push(config);
        }
        Ok(listeners)
    }

    /// The number of [`listeners`](Self::listeners).
    pub(crate) fn listener_count(&self) -> usize {
        [&self.listen.address, &self.tls.address]
            .into_iter()
            .filter(|address| address.parse::<SocketAddr>().is_ok())
            .count()
    }

    pub(super) fn tls(&self) -> Result<Arc<TlsReloader>, TlsError> {
        TlsReloader::new(TlsFiles {
            certificate: self.tls.certificate.clone(),
            key: self.tls.key.clone(),
        })
    }
}

/// The logins and certificates for NATS and etcd, from the keys of the configuration.
#[cfg(feature = "nats")]
mod nats {
    use std::path::Path;

    use shaddock_cluster::{NatsLogin, Secret, TlsFiles};

    use crate::config::ClusterSettings;

    pub(super) fn user(user: &str, password: &Secret) -> Option<(String, Secret)> {
        (!user.is_empty()).then(|| (user.to_owned(), password.clone()))
    }

    pub(super) fn login(cluster: &ClusterSettings) -> NatsLogin {
        match user(&cluster.nats_user, &cluster.nats_password) {
            Some((user, password)) => NatsLogin::User(user, password),
            None if !cluster.nats_token.is_empty() => NatsLogin::Token(cluster.nats_token.clone()),
            None if !cluster.nats_nkey.is_empty() => NatsLogin::Nkey(cluster.nats_nkey.clone()),
            None if !cluster.nats_credentials.as_os_str().is_empty() => {
                NatsLogin::Credentials(cluster.nats_credentials.clone())
            }
            None => NatsLogin::None,
        }
    }

    pub(super) fn tls(ca: &Path, certificate: &Path, key: &Path) -> TlsFiles {
        let mut files = TlsFiles::default();
        if !ca.as_os_str().is_empty() {
            files = files.ca(ca);
        }
        if !certificate.as_os_str().is_empty() {
            files = files.client(certificate, key);
        }
        files
    }
}
