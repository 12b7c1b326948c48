//! A session that outlives its socket: what the handshake and the heartbeats say of it.
//!
//! Both ends count DATA packages. A HEARTBEAT of a counted connection may carry a number: how many its sender has received.

use crate::message::put_varint;
use crate::{HEADER_LEN, PackageType};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};
use core::fmt;
use core::time::Duration;
use serde::Deserialize;

/// The version of the protocol that is spoken.
const VERSION: u64 = 1;

/// Longest token, in bytes.
pub const MAX_TOKEN_LEN: usize = 128;

/// What a client says under `sys.resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ResumeAsked {
    /// Nothing, or a version that is not spoken here: the connection is one as ever.
    #[default]
    No,
    /// Something that cannot be read. As if it were absent, and to be counted.
    Malformed,
    /// It wants a session that it can come back to.
    New,
    /// It comes back.
    Back(ComingBack),
}

/// What a client shows to get its session back.
#[derive(Clone, PartialEq, Eq)]
pub struct ComingBack {
    /// What the server gave it. Empty if it is too long to be one of ours.
    pub token: String,
    /// DATA packages that it has received.
    pub received: u64,
    /// DATA packages that it has sent.
    pub sent: u64,
}

/// Never the token: it is as good as a password.
impl fmt::Debug for ComingBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComingBack")
            .field("received", &self.received)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl ResumeAsked {
    /// Reads the JSON text of the member; none if there is no such member.
    pub(crate) fn read(json: Option<&str>) -> Self {
        #[derive(Deserialize)]
        struct Text {
            v: u64,
            token: Option<String>,
            received: Option<u64>,
            sent: Option<u64>,
        }
        let Some(json) = json else {
            return Self::No;
        };
        // A list would be read as the members in their order.
        if !json.starts_with('{') {
            return Self::Malformed;
        }
        match serde_json::from_str::<Text>(json) {
            Ok(text) if text.v != VERSION => Self::No,
            Ok(Text { token: None, .. }) => Self::New,
            Ok(Text {
                token: Some(token),
                received: Some(received),
                sent: Some(sent),
                ..
            }) => Self::Back(ComingBack {
                token: if token.len() > MAX_TOKEN_LEN {
                    String::new()
                } else {
                    token
                },
                received,
                sent,
            }),
            _ => Self::Malformed,
        }
    }
}

/// What the server says under `sys.resume` of its answer.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeGrant {
    /// What the client shows when it comes back. URL-safe, at most [`MAX_TOKEN_LEN`] bytes.
    pub token: String,
    /// How long the session waits for its client. Told in whole seconds, rounded down.
    pub window: Duration,
    /// Each end acknowledges at the latest when so many DATA packages are not acknowledged. At least 1. Clients keep 256.
    pub ack: u8,
    /// Where to come back to first.
    pub address: Option<Arc<str>>,
    /// Whether it is a new session or one that goes on.
    pub outcome: ResumeOutcome,
}

/// Never the token: it is as good as a password.
impl fmt::Debug for ResumeGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeGrant")
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

/// Whether the session of a [`ResumeGrant`] is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeOutcome {
    /// A new session, of a client that had none.
    Granted,
    /// The client's session goes on.
    Resumed {
        /// DATA packages of the client that the server has received: it sends those behind again.
        received: u64,
        /// What the client counts on from: the next DATA package of the server has the number behind it.
        position: u64,
        /// DATA packages that the client has missed for good.
        missed: u64,
    },
    /// A new session, because the one asked for cannot go on.
    Restarted(ResumeRefusal),
}

/// Why a client does not get its session back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumeRefusal {
    /// There is none with this token, or not any more, or its counts are not those of this session.
    Unknown,
    /// The window has ended.
    Expired,
    /// It speaks another dialect.
    Changed,
    /// The application does not let it.
    Denied,
    /// Too many come back at once, or from one address.
    Busy,
}

impl ResumeRefusal {
    /// The reasons, for counters.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Expired,
        Self::Changed,
        Self::Denied,
        Self::Busy,
    ];

    /// The word in the answer, also for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Changed => "changed",
            Self::Denied => "denied",
            Self::Busy => "busy",
        }
    }
}

impl ResumeGrant {
    /// Whether the client keeps its dictionary, its schemas and all else of its session.
    pub(crate) const fn is_resumed(&self) -> bool {
        matches!(self.outcome, ResumeOutcome::Resumed { .. })
    }

    /// `"resume":{..}`
    pub(crate) fn member(&self) -> Vec<u8> {
        use fmt::Write as _;
        let mut text = String::from("\"resume\":{\"v\":1,\"token\":");
        crate::dictionary::push_json_string(&self.token, &mut text);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            ",\"window\":{},\"ack\":{}",
            self.window.as_secs(),
            self.ack.max(1)
        );
        if let Some(address) = &self.address {
            text.push_str(",\"address\":");
            crate::dictionary::push_json_string(address, &mut text);
        }
        let _ = match self.outcome {
            ResumeOutcome::Granted => Ok(()),
            ResumeOutcome::Resumed {
                received,
                position,
                missed,
            } => write!(
                text,
                ",\"resumed\":true,\"received\":{received},\"position\":{position},\"missed\":{missed}"
            ),
            ResumeOutcome::Restarted(why) => {
                write!(text, ",\"resumed\":false,\"why\":\"{}\"", why.name())
            }
        };
        text.push('}');
        text.into_bytes()
    }
}

/// Appends a HEARTBEAT package; with a number it acknowledges so many DATA packages.
pub fn put_heartbeat(acknowledged: Option<u64>, out: &mut BytesMut) {
    let length_at = out.len() + HEADER_LEN - 1;
    out.put_slice(&[PackageType::Heartbeat as u8, 0, 0, 0]);
    if let Some(count) = acknowledged {
        put_varint(count, out);
        let length = out.len() - length_at - 1;
        // At most ten bytes.
        out[length_at] = u8::try_from(length).unwrap_or(u8::MAX);
    }
}

/// The body of a HEARTBEAT is not empty and not exactly one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcknowledgementError;

impl fmt::Display for AcknowledgementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of a heartbeat is neither empty nor one number")
    }
}

impl core::error::Error for AcknowledgementError {}

/// The number in the body of a HEARTBEAT; `None` if it is empty.
///
/// # Errors
///
/// The body is not exactly one number.
pub fn read_acknowledgement(body: &[u8]) -> Result<Option<u64>, AcknowledgementError> {
    const WRONG: AcknowledgementError = AcknowledgementError;
    let mut value = 0_u64;
    for (place, byte) in body.iter().enumerate() {
        let low = u64::from(byte & 0x7f);
        let shift = 7 * u32::try_from(place).map_err(|_| WRONG)?;
        let moved = low.checked_shl(shift).ok_or(WRONG)?;
        if moved >> shift != low {
            return Err(WRONG);
        }
        value |= moved;
        if byte & 0x80 == 0 {
            return if place + 1 == body.len() {
                Ok(Some(value))
            } else {
                Err(WRONG)
            };
        }
    }
    if body.is_empty() {
        Ok(None)
    } else {
        Err(WRONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn what_a_client_asks_for() {
        let back = |token: &str, received, sent| {
            ResumeAsked::Back(ComingBack {
                token: token.to_string(),
                received,
                sent,
            })
        };
        let long = alloc::format!(
            r#"{{"v":1,"token":"{}","received":0,"sent":0}}"#,
            "t".repeat(129)
        );
        for (json, expected) in [
            (r#"{"v":1}"#, ResumeAsked::New),
            (r#"{"v":1,"later":[{}]}"#, ResumeAsked::New),
            (r#"{"v":1,"token":null}"#, ResumeAsked::New),
            (r#"{"v":2}"#, ResumeAsked::No),
            (r#"{"v":2,"token":"t"}"#, ResumeAsked::No),
            (
                r#"{"v":1,"token":"t","received":2,"sent":3}"#,
                back("t", 2, 3),
            ),
            (&long, back("", 0, 0)),
            (
                r#"{"v":1,"token":"t","received":2}"#,
                ResumeAsked::Malformed,
            ),
            (
                r#"{"v":1,"token":"t","received":-1,"sent":0}"#,
                ResumeAsked::Malformed,
            ),
            (
                r#"{"v":1,"token":"t","received":0.5,"sent":0}"#,
                ResumeAsked::Malformed,
            ),
            (
                r#"{"v":1,"token":7,"received":0,"sent":0}"#,
                ResumeAsked::Malformed,
            ),
            (r#"{"v":"1"}"#, ResumeAsked::Malformed),
            (r#"[1,"t",0,0]"#, ResumeAsked::Malformed),
            ("{}", ResumeAsked::Malformed),
            ("true", ResumeAsked::Malformed),
            ("null", ResumeAsked::Malformed),
        ] {
            assert_eq!(ResumeAsked::read(Some(json)), expected, "{json}");
        }
        assert_eq!(ResumeAsked::read(None), ResumeAsked::No);
    }

    #[test]
    fn a_token_is_not_written_to_logs() {
        let back = ComingBack {
            token: "secret".to_string(),
            received: 1,
            sent: 2,
        };
        let grant = ResumeGrant {
            token: "secret".to_string(),
            window: Duration::ZERO,
            ack: 1,
            address: None,
            outcome: ResumeOutcome::Granted,
        };
        assert!(!alloc::format!("{back:?} {grant:?}").contains("secret"));
    }

    #[test]
    fn acknowledgements_go_there_and_back() {
        for count in [0, 1, 127, 128, 300, 1 << 31, 1 << 53, u64::MAX] {
            let mut out = BytesMut::from(&b"before"[..]);
            put_heartbeat(Some(count), &mut out);
            let package = &out[6..];
            assert_eq!(package[..3], [3, 0, 0]);
            assert_eq!(usize::from(package[3]), package.len() - 4);
            assert_eq!(read_acknowledgement(&package[4..]), Ok(Some(count)));
        }
        let mut out = BytesMut::new();
        put_heartbeat(None, &mut out);
        assert_eq!(&out[..], [3, 0, 0, 0]);
        assert_eq!(read_acknowledgement(&[]), Ok(None));
    }

    #[test]
    fn acknowledgements_that_are_no_number() {
        for body in [
            &[0x80][..],
            &[1, 1],
            &[0x80, 0x80],
            &[0xff; 10],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            b"{}",
        ] {
            assert_eq!(
                read_acknowledgement(body),
                Err(AcknowledgementError),
                "{body:02x?}"
            );
        }
    }
}
