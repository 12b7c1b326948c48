//! From settings to what the layers below are configured with.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shaddock_core::{Conflict, SessionConfig};
use shaddock_net::{
    AccessPolicy, ConnectionLimits, ListenConfig, TlsError, TlsFiles, TlsReloader, UpgradePolicy,
};
use shaddock_protocol::{CodecConfig, DialectChoice, HashPolicy, Limits, PitayaSerializer};

use super::{Config, CryptoSetting, DialectSetting, Network, OnConflict, Serializer};
use crate::app::AppConfig;

fn networks(list: &[Network]) -> Vec<ipnet::IpNet> {
    list.iter().map(|network| network.0).collect()
}

fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

impl Config {
    /// Where the admin server listens, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address.parse().ok()
    }

    /// The policies of sessions.
    pub fn session_config(&self) -> SessionConfig {
        let session = &self.session;
        SessionConfig {
            single_session: session.single_session,
            on_conflict: match session.on_conflict {
                OnConflict::ReplaceOld => Conflict::ReplaceOld,
                OnConflict::RejectNew => Conflict::RejectNew,
            },
            outbox_bytes: session.outbox_bytes.0,
            max_listeners: session.max_listeners,
            max_settings: session.max_settings,
        }
    }

    /// The bounds on what a client may send.
    pub fn limits(&self) -> Limits {
        let protocol = &self.protocol;
        Limits {
            max_package_size: protocol.max_package_size.0,
            max_handshake_size: protocol.max_handshake_size.0,
            max_inflated_size: protocol.max_inflated_size.0,
            handshake_timeout: protocol.handshake_timeout.0,
            idle_timeout: protocol.idle_timeout.0,
        }
    }

    /// How a frontend speaks; dictionary and schemas are the application's.
    pub fn codec_config(&self) -> CodecConfig {
        let protocol = &self.protocol;
        CodecConfig {
            dialect: match protocol.dialect {
                DialectSetting::Auto => DialectChoice::Auto,
                DialectSetting::Pomelo => DialectChoice::Pomelo,
                DialectSetting::Pitaya => DialectChoice::Pitaya,
            },
            limits: self.limits(),
            heartbeat: unless_zero(protocol.heartbeat.0),
            heartbeat_timeout: unless_zero(protocol.heartbeat_timeout.0),
            crypto: match protocol.crypto {
                CryptoSetting::Off => None,
                CryptoSetting::Sha2 => Some(HashPolicy::Sha2),
                CryptoSetting::Legacy => Some(HashPolicy::Legacy),
            },
            pitaya_serializer: match protocol.pitaya_serializer {
                Serializer::Json => PitayaSerializer::Json,
                Serializer::Protobuf => PitayaSerializer::Protobuf,
            },
            compress_pitaya: protocol.compress_pitaya,
            ..CodecConfig::default()
        }
    }

    /// Bounds and times of an app.
    pub fn app_config(&self) -> AppConfig {
        let handlers = &self.handlers;
        AppConfig {
            handler_timeout: handlers.timeout.0,
            rpc_timeout: handlers.rpc_timeout.0,
            max_concurrent: handlers.max_concurrent,
            max_tasks: handlers.max_tasks,
            max_waiting_events: handlers.max_waiting_events,
            event_timeout: handlers.event_timeout.0,
            handshake_timeout: handlers.handshake_timeout.0,
            start_timeout: handlers.start_timeout.0,
            stop_timeout: handlers.stop_timeout.0,
        }
    }

    /// Address lists and numbers of connections.
    pub fn access_policy(&self) -> AccessPolicy {
        let access = &self.access;
        AccessPolicy {
            allow: networks(&access.allow),
            deny: networks(&access.deny),
            trusted_proxies: networks(&access.trusted_proxies),
            max_connections: access.max_connections,
            max_connections_per_address: access.max_connections_per_address,
        }
    }

    /// Bounds of one connection.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let listen = &self.listen;
        let mut limits = ConnectionLimits::default();
        limits.messages_per_second = listen.messages_per_second;
        limits.burst = listen.burst;
        limits.pings_per_second = listen.pings_per_second;
        limits.waiting_messages = listen.waiting_messages;
        limits.waiting_bytes = listen.waiting_bytes.0;
        limits.linger = listen.linger.0;
        limits
    }

    /// Who may open a WebSocket.
    pub fn upgrade_policy(&self) -> UpgradePolicy {
        let listen = &self.listen;
        UpgradePolicy {
            origins: listen.origins.clone(),
            address_header: (!listen.address_header.is_empty())
                .then(|| listen.address_header.clone()),
        }
    }

    /// A listener on `address` without TLS, with all bounds as configured.
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
    /// Certificate or key cannot be used.
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

    fn tls(&self) -> Result<Arc<TlsReloader>, TlsError> {
        TlsReloader::new(TlsFiles {
            certificate: self.tls.certificate.clone(),
            key: self.tls.key.clone(),
        })
    }
}
