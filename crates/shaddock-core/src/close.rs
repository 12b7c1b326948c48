//! Close reasons: one closed set for clients, listeners, logs and metrics.

use bytes::Bytes;
use shaddock_protocol::{MAX_BODY, PackageType, ProtocolError, encode_package};
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

/// Why a session was closed.
///
/// The code is stable and tells a client whether to reconnect: 3000 to 3499 yes, 3500 to 3999 no.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The application or an operator kicked the session, with this text for the client.
    Kicked {
        /// The text for the client.
        reason: Arc<str>,
    },
    /// A newer session of the same user replaced it ([`Conflict::ReplaceOld`](crate::Conflict::ReplaceOld)).
    Replaced,
    /// The client closed the connection.
    ClientClosed,
    /// The client sent nothing for too long although heartbeats were negotiated.
    HeartbeatTimeout,
    /// The client did not finish the handshake in time.
    HandshakeTimeout,
    /// The client sent nothing for too long, without heartbeats.
    Idle,
    /// The client violated the protocol.
    Protocol(ProtocolError),
    /// Invalid bytes around the client's packages: first byte, HTTP upgrade or WebSocket frames. The text names the error.
    Framing(&'static str),
    /// The application rejected the handshake.
    Rejected,
    /// The client does not read: more than [`outbox_bytes`](crate::SessionConfig::outbox_bytes) are queued for it.
    SlowClient,
    /// The server is shutting down.
    Draining,
    /// The socket failed.
    Transport(ErrorKind),
    /// The client sent more requests than allowed.
    RateLimited,
    /// The client requested the method `constructor`.
    Attack,
    /// The address of the client is not (or no longer) allowed.
    Denied,
    /// The server has reached its limit of clients.
    Overloaded,
    /// The application removed the session (Pomelo's `remove`).
    Removed,
    /// An internal error of the server, such as a panic in the code that drives the connection.
    Internal,
    /// The user's credentials have expired and were not renewed.
    Expired,
}

/// One row per reason: its pattern, its name, its code, and an example. Everything that enumerates the reasons is generated from these
/// rows, and a variant without a row does not compile. Append new ones at the end: the position is the index of counters.
macro_rules! reasons {
    ($($variant:ident $fields:tt $name:literal $code:literal $example:expr;)*) => {
        /// Positions of the rows.
        enum Place { $($variant),* }

        impl CloseReason {
            /// The names of all reasons, for metrics that start at zero. [`name`](Self::name) returns one of these.
            pub const NAMES: [&'static str; [$($name),*].len()] = [$($name),*];

            /// Position in [`NAMES`](Self::NAMES).
            pub(crate) const fn index(&self) -> usize {
                match self { $(Self::$variant $fields => Place::$variant as usize),* }
            }

            /// Number for clients and logs. Stable; see the type for the ranges.
            pub const fn code(&self) -> u16 {
                match self { $(Self::$variant $fields => $code),* }
            }

            /// One example of each kind.
            #[cfg(test)]
            fn all() -> Vec<Self> {
                vec![$($example),*]
            }
        }
    };
}

reasons! {
    Kicked { .. } "kicked" 3500 Self::kicked("x");
    Replaced {} "replaced" 3501 Self::Replaced;
    ClientClosed {} "client_closed" 3000 Self::ClientClosed;
    HeartbeatTimeout {} "heartbeat_timeout" 3002 Self::HeartbeatTimeout;
    HandshakeTimeout {} "handshake_timeout" 3003 Self::HandshakeTimeout;
    Idle {} "idle" 3004 Self::Idle;
    Protocol { .. } "protocol" 3502 Self::Protocol(ProtocolError::Compression);
    SlowClient {} "slow_client" 3006 Self::SlowClient;
    Draining {} "draining" 3001 Self::Draining;
    Transport { .. } "transport" 3005 Self::Transport(ErrorKind::ConnectionReset);
    RateLimited {} "rate_limited" 3503 Self::RateLimited;
    Attack {} "attack" 3504 Self::Attack;
    Denied {} "denied" 3505 Self::Denied;
    Overloaded {} "overloaded" 3007 Self::Overloaded;
    Removed {} "removed" 3506 Self::Removed;
    Internal {} "internal" 3008 Self::Internal;
    Framing { .. } "framing" 3507 Self::Framing("first byte");
    Rejected {} "rejected" 3508 Self::Rejected;
    Expired {} "expired" 3509 Self::Expired;
}

impl CloseReason {
    /// A kick with a custom text.
    pub fn kicked(reason: impl Into<Arc<str>>) -> Self {
        Self::Kicked {
            reason: reason.into(),
        }
    }

    /// Short name for metrics and logs, such as `slow_client`. Stable.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Whether the client should reconnect automatically.
    pub const fn may_reconnect(&self) -> bool {
        self.code() < 3500
    }

    /// The text of the KICK package, if the client receives one. Other sessions are closed without a KICK, as in Pomelo.
    pub fn kick_text(&self) -> Option<&str> {
        match self {
            Self::Kicked { reason } => Some(reason),
            Self::Replaced => Some("replaced"),
            Self::Draining => Some("draining"),
            Self::Attack => Some("attack"),
            Self::RateLimited => Some("rate limited"),
            Self::Expired => Some("expired"),
            _ => None,
        }
    }

    /// The KICK package, if the client receives one.
    pub fn kick_package(&self) -> Option<Bytes> {
        Some(kick_package(self.kick_text()?, self.code()))
    }

    /// Whether queued data are still written: not to a client that is gone or does not read.
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
            Self::Expired => f.write_str("the user's login has expired"),
        }
    }
}

/// A complete KICK package with the body `{"reason":text,"code":code}`. The code is that of a [`CloseReason`]: it tells a client whether to
/// reconnect, which texts do not.
///
/// The text is JSON-escaped; characters beyond U+FFFF are written as two `\u` escapes, because the decoder of Pomelo's browser clients
/// supports UTF-8 sequences of at most three bytes. A text too long for a package becomes `kick`.
///
/// ```
/// let package = shaddock_core::kick_package("bye \u{1f600}", 3500);
/// assert_eq!(&package[4..], br#"{"reason":"bye \ud83d\ude00","code":3500}"#);
/// ```
pub fn kick_package(text: &str, code: u16) -> Bytes {
    let mut body = kick_body(text, code);
    if body.len() > MAX_BODY {
        body = kick_body("kick", code);
    }
    // The length was checked, so this cannot fail; an empty package would be ignored by the outbox.
    encode_package(PackageType::Kick, body.as_bytes()).unwrap_or_default()
}

fn kick_body(text: &str, code: u16) -> String {
    let mut body = String::with_capacity(text.len() + 32);
    body.push_str("{\"reason\":");
    push_json_text(&mut body, text);
    body.push_str(",\"code\":");
    body.push_str(&code.to_string());
    body.push('}');
    body
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

    #[test]
    fn every_reason_has_its_row() {
        let all = CloseReason::all();
        let codes: HashSet<_> = all.iter().map(CloseReason::code).collect();
        let names: HashSet<_> = all.iter().map(CloseReason::name).collect();
        assert_eq!((codes.len(), names.len()), (all.len(), all.len()));
        for (place, reason) in all.iter().enumerate() {
            assert_eq!(reason.index(), place, "{reason}");
        }
    }

    /// The names and codes of the table in a guide, with the text of the KICK where it is fixed.
    fn table(guide: &str) -> Vec<(u16, String, Option<String>)> {
        let cell = |text: &str| text.trim().trim_matches('`').to_owned();
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('|').collect();
            let [_, code, name, _, kick, _] = cells[..] else {
                return None;
            };
            let kick = kick.trim().starts_with('`').then(|| cell(kick));
            Some((code.trim().parse().ok()?, cell(name), kick))
        };
        guide.lines().filter_map(row).collect()
    }

    #[test]
    fn the_guides_list_all_reasons() {
        let expected: HashSet<_> = CloseReason::all()
            .iter()
            .map(|reason| {
                // The text of a kick is the kicker's.
                let fixed = !matches!(reason, CloseReason::Kicked { .. });
                let kick = reason.kick_text().filter(|_| fixed).map(str::to_owned);
                (reason.code(), reason.name().to_owned(), kick)
            })
            .collect();
        for guide in [
            include_str!("../../../docs/sessions.md"),
            include_str!("../../../docs/zh-CN/sessions.md"),
        ] {
            let listed = table(guide);
            assert_eq!(listed.len(), expected.len());
            assert_eq!(listed.into_iter().collect::<HashSet<_>>(), expected);
        }
    }

    #[test]
    fn the_close_code_decides_about_reconnecting() {
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
            let package = kick_package(text, 3500);
            assert_eq!(package[0], PackageType::Kick as u8);
            let len = u32::from_be_bytes([0, package[1], package[2], package[3]]);
            assert_eq!(len as usize, package.len() - 4);
            let body: serde_json::Value = serde_json::from_slice(&package[4..]).unwrap();
            assert_eq!(body, serde_json::json!({ "reason": text, "code": 3500 }));
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
        let package = kick_package(&"x".repeat(MAX_BODY), 3500);
        assert_eq!(&package[4..], br#"{"reason":"kick","code":3500}"#);
    }
}
