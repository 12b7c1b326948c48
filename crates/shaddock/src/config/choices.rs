//! Values of keys that are one of a few words.

use shaddock_core::Conflict;

use super::value::{Setting, choice, words};

choice! {
    /// The format of logs.
    pub enum LogFormat {
        /// Human-readable if standard error is a terminal, otherwise JSON.
        Auto = "auto",
        /// One human-readable line per event, in colour on a terminal.
        Human = "human",
        /// One JSON object per line.
        Json = "json",
    }
}

impl Setting for Conflict {
    const KIND: &'static str = words!("reject_new" "replace_old");
}

choice! {
    /// The policy when the kept messages of a client have reached their limits.
    pub enum OnFullSetting {
        /// The oldest message is discarded, and the client receives the number of missed messages.
        Gap = "gap",
        /// Senders that await their pushes wait, at most `max_wait`; meanwhile up to twice the limits is kept. Above that as `gap`.
        Wait = "wait",
    }
}

choice! {
    /// The client protocols that are accepted.
    pub enum DialectSetting {
        /// Chosen by the handshake.
        Auto = "auto",
        /// Pomelo and Pinus clients.
        Pomelo = "pomelo",
        /// Pitaya and nano clients.
        Pitaya = "pitaya",
    }
}

choice! {
    /// The encoding of bodies for Pitaya clients.
    pub enum Serializer {
        /// JSON.
        Json = "json",
        /// Google protobuf, passed through unchanged.
        Protobuf = "protobuf",
    }
}

choice! {
    /// The error format for Pomelo clients.
    pub enum PomeloErrorsSetting {
        /// `{"code":500}`.
        Code = "code",
        /// Code and text.
        Text = "text",
    }
}

choice! {
    /// Signatures of Pomelo clients.
    pub enum CryptoSetting {
        /// No signature is required.
        Off = "off",
        /// SHA-256 or SHA-512.
        Sha2 = "sha2",
        /// SHA-1 and MD5 too. Both are broken.
        Legacy = "legacy",
    }
}

choice! {
    /// The way in which the servers of an application find each other.
    pub enum ClusterMode {
        /// All servers are in this process.
        Local = "local",
        /// Over NATS and etcd, together with Pitaya v3 servers if there are any.
        Nats = "nats",
    }
}

choice! {
    /// The strategy that chooses a server of a type for a message.
    pub enum RoutingSetting {
        /// A random server.
        Random = "random",
        /// Each server in turn.
        RoundRobin = "round_robin",
        /// The same server for the same user.
        ConsistentHash = "consistent_hash",
    }
}

choice! {
    /// The form of users in traces.
    pub enum TracedUsersSetting {
        /// The hash of the uid.
        Hashed = "hashed",
        /// The uid.
        Plain = "plain",
        /// Users are left out.
        Left = "none",
    }
}

choice! {
    /// The strategy that chooses a URL of a backend.
    pub enum BalanceSetting {
        /// Each URL in turn.
        RoundRobin = "round_robin",
        /// The same URL for the same user.
        UserHash = "user_hash",
    }
}

choice! {
    /// The HTTP version for a backend.
    pub enum ProtocolSetting {
        /// HTTP/2 if TLS negotiates it, otherwise HTTP/1.1.
        Auto = "auto",
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
    }
}
