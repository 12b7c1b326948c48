//! Why a session ended: one closed set of reasons for clients, listeners, logs and metrics.

use bytes::Bytes;
use shaddock_protocol::{MAX_BODY, PackageType, ProtocolError, encode_package};
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

/// Why a session was closed.
///
/// The code is stable and tells a client whether to come back: 3000 to 3499 yes, 3500 to 3999 no.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The application or an operator kicked it, with this text for the client.
    Kicked {
        /// What the client is told.
        reason: Arc<str>,
    },
    /// A newer session of the same user took its place ([`Conflict::ReplaceOld`](crate::Conflict::ReplaceOld)).
    Replaced,
    /// The client closed the connection.
    ClientClosed,
    /// The client sent nothing for too long although heartbeats were agreed on.
    HeartbeatTimeout,
    /// The client did not finish the handshake in time.
    HandshakeTimeout,
    /// The client sent nothing for too long, without heartbeats.
    Idle,
    /// The client sent bytes that are not the protocol.
    Protocol(ProtocolError),
    /// What the client sent around its packages is wrong: first byte, HTTP upgrade or WebSocket frames. The text names it.
    Framing(&'static str),
    /// The application did not accept the handshake.
    Rejected,
    /// The client does not read: more than [`outbox_bytes`](crate::SessionConfig::outbox_bytes) wait for it.
    SlowClient,
    /// The server is going down.
    Draining,
    /// The socket failed.
    Transport(ErrorKind),
    /// The client sent more requests than allowed.
    RateLimited,
    /// The client asked for the method `constructor`.
    Attack,
    /// The address of the client is not allowed here (any more).
    Denied,
    /// The server has as many clients as it may have.
    Overloaded,
    /// [`SessionService::remove`](crate::SessionService::remove) was called.
    Removed,
    /// A fault of the server, such as a panic in the code that drives the connection.
    Internal,
}

impl CloseReason {
    /// Names of all reasons, for metrics that start at zero. [`name`](Self::name) gives one of these.
    pub const NAMES: [&'static str; 18] = [
        "kicked",
        "replaced",
        "client_closed",
        "heartbeat_timeout",
        "handshake_timeout",
        "idle",
        "protocol",
        "slow_client",
        "draining",
        "transport",
        "rate_limited",
        "attack",
        "denied",
        "overloaded",
        "removed",
        "internal",
        "framing",
        "rejected",
    ];

    /// A kick with a text of the caller's.
    pub fn kicked(reason: impl Into<Arc<str>>) -> Self {
        Self::Kicked {
            reason: reason.into(),
        }
    }

    /// Place in [`NAMES`](Self::NAMES).
    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::Kicked { .. } => 0,
            Self::Replaced => 1,
            Self::ClientClosed => 2,
            Self::HeartbeatTimeout => 3,
            Self::HandshakeTimeout => 4,
            Self::Idle => 5,
            Self::Protocol(_) => 6,
            Self::SlowClient => 7,
            Self::Draining => 8,
            Self::Transport(_) => 9,
            Self::RateLimited => 10,
            Self::Attack => 11,
            Self::Denied => 12,
            Self::Overloaded => 13,
            Self::Removed => 14,
            Self::Internal => 15,
            Self::Framing(_) => 16,
            Self::Rejected => 17,
        }
    }

    /// Short name for metrics and logs, such as `slow_client`. Stable.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Number for clients and logs. Stable; see the type for the ranges.
    pub const fn code(&self) -> u16 {
        match self {
            Self::ClientClosed => 3000,
            Self::Draining => 3001,
            Self::HeartbeatTimeout => 3002,
            Self::HandshakeTimeout => 3003,
            Self::Idle => 3004,
            Self::Transport(_) => 3005,
            Self::SlowClient => 3006,
            Self::Overloaded => 3007,
            Self::Internal => 3008,
            Self::Kicked { .. } => 3500,
            Self::Replaced => 3501,
            Self::Protocol(_) => 3502,
            Self::RateLimited => 3503,
            Self::Attack => 3504,
            Self::Denied => 3505,
            Self::Removed => 3506,
            Self::Framing(_) => 3507,
            Self::Rejected => 3508,
        }
    }

    /// Whether it makes sense for the client to connect again by itself.
    pub const fn may_reconnect(&self) -> bool {
        self.code() < 3500
    }

    /// The text of the KICK package, if the client gets one. The others are closed without a word, as in Pomelo.
    pub fn kick_text(&self) -> Option<&str> {
        match self {
            Self::Kicked { reason } => Some(reason),
            Self::Replaced => Some("replaced"),
            Self::Draining => Some("draining"),
            Self::Attack => Some("attack"),
            Self::RateLimited => Some("rate limited"),
            _ => None,
        }
    }

    /// Whether what is queued is still worth writing: not to a client that is gone or does not read.
    pub(crate) const fn flushes(&self) -> bool {
        !matches!(
            self,
            Self::SlowClient | Self::HeartbeatTimeout | Self::Transport(_)
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kicked { reason } => write!(f, "kicked: {reason}"),
            Self::Replaced => f.write_str("replaced by a newer session of the user"),
            Self::ClientClosed => f.write_str("closed by the client"),
            Self::HeartbeatTimeout => f.write_str("no heartbeat from the client"),
            Self::HandshakeTimeout => f.write_str("handshake not finished in time"),
            Self::Idle => f.write_str("nothing heard from the client for too long"),
            Self::Protocol(error) => write!(f, "protocol error: {error}"),
            Self::Framing(what) => write!(f, "not the protocol: {what}"),
            Self::Rejected => f.write_str("the application rejected the handshake"),
            Self::SlowClient => f.write_str("the client does not read what it is sent"),
            Self::Draining => f.write_str("the server is going down"),
            Self::Transport(kind) => write!(f, "connection lost: {kind}"),
            Self::RateLimited => f.write_str("too many requests"),
            Self::Attack => f.write_str("asked for the method `constructor`"),
            Self::Denied => f.write_str("address not allowed"),
            Self::Overloaded => f.write_str("too many connections"),
            Self::Removed => f.write_str("removed from the session service"),
            Self::Internal => f.write_str("internal error"),
        }
    }
}

/// A whole KICK package with the body `{"reason":text}`.
///
/// The text is JSON-escaped; characters beyond U+FFFF are written as two `\u` escapes, because the decoder of Pomelo's
/// browser clients knows no longer UTF-8 sequences than three bytes. A text too long for a package becomes `kick`.
///
/// ```
/// let package = shaddock_core::kick_package("bye \u{1f600}");
/// assert_eq!(&package[4..], br#"{"reason":"bye \ud83d\ude00"}"#);
/// ```
pub fn kick_package(text: &str) -> Bytes {
    let mut body = String::with_capacity(text.len() + 16);
    body.push_str("{\"reason\":");
    push_json_text(&mut body, text);
    body.push('}');
    let body = if body.len() > MAX_BODY {
        "{\"reason\":\"kick\"}"
    } else {
        &body
    };
    // The bound was checked, so this cannot fail; an empty package would be ignored by the outbox.
    encode_package(PackageType::Kick, body.as_bytes()).unwrap_or_default()
}

fn push_json_text(out: &mut String, text: &str) {
    use fmt::Write;
    out.push('"');
    for c in text.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\u{0}'..='\u{1f}' => write!(out, "\\u{:04x}", u32::from(c)),
            '\u{10000}'.. => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units)
                    .iter()
                    .try_for_each(|unit| write!(out, "\\u{unit:04x}"))
            }
            _ => out.write_char(c),
        };
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all() -> Vec<CloseReason> {
        use CloseReason as R;
        vec![
            R::kicked("x"),
            R::Replaced,
            R::ClientClosed,
            R::HeartbeatTimeout,
            R::HandshakeTimeout,
            R::Idle,
            R::SlowClient,
            R::Draining,
            R::Transport(ErrorKind::ConnectionReset),
            R::RateLimited,
            R::Attack,
            R::Denied,
            R::Overloaded,
            R::Removed,
            R::Internal,
        ]
    }

    #[test]
    fn codes_and_names_are_distinct() {
        let codes: HashSet<_> = all().iter().map(CloseReason::code).collect();
        let names: HashSet<_> = all().iter().map(CloseReason::name).collect();
        assert_eq!((codes.len(), names.len()), (all().len(), all().len()));
        assert!(names.iter().all(|name| CloseReason::NAMES.contains(name)));
    }

    #[test]
    fn the_code_tells_whether_to_come_back() {
        assert!(CloseReason::Draining.may_reconnect());
        assert!(CloseReason::SlowClient.may_reconnect());
        assert!(!CloseReason::kicked("cheat").may_reconnect());
        assert!(!CloseReason::Replaced.may_reconnect());
    }

    #[test]
    fn people_can_read_it() {
        assert_eq!(CloseReason::kicked("cheat").to_string(), "kicked: cheat");
        let lost = CloseReason::Transport(ErrorKind::ConnectionReset);
        assert_eq!(lost.to_string(), "connection lost: connection reset");
    }

    #[test]
    fn kick_bodies_are_json() {
        for text in [
            "",
            "kick",
            "a\"b\\c",
            "\n\u{1}",
            "中文",
            "\u{1f600}\u{ffff}",
        ] {
            let package = kick_package(text);
            assert_eq!(package[0], PackageType::Kick as u8);
            let len = u32::from_be_bytes([0, package[1], package[2], package[3]]);
            assert_eq!(len as usize, package.len() - 4);
            let body: serde_json::Value = serde_json::from_slice(&package[4..]).unwrap();
            assert_eq!(body, serde_json::json!({ "reason": text }));
            assert!(
                std::str::from_utf8(&package[4..])
                    .unwrap()
                    .chars()
                    .all(|c| c <= '\u{ffff}')
            );
        }
    }

    #[test]
    fn an_endless_kick_text_is_cut_to_kick() {
        let package = kick_package(&"x".repeat(MAX_BODY));
        assert_eq!(&package[4..], br#"{"reason":"kick"}"#);
    }
}
