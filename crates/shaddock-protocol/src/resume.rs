//! Resumable sessions: their part of the handshake and of heartbeats.
//!
//! Both ends count DATA packages. A HEARTBEAT of a counted connection may contain a number: how many packages its sender has received.

use crate::members::{Members, string};
use crate::message::put_varint;
use crate::{HEADER_LEN, PackageType};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};
use core::fmt;
use core::time::Duration;

/// The supported version of the protocol.
const VERSION: u64 = 1;

/// Longest token, in bytes.
pub const MAX_TOKEN_LEN: usize = 128;

/// The client's value of `sys.resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ResumeRequest {
    /// Absent, or an unsupported version: a normal connection.
    #[default]
    No,
    /// Malformed. Treated as absent, and counted.
    Malformed,
    /// The client requests a resumable session.
    New,
    /// The client resumes a session.
    Back(ReturningClient),
}

/// The credentials of a client that resumes its session.
#[derive(Clone, PartialEq, Eq)]
pub struct ReturningClient {
    /// The token from the server. Empty if it is too long to be valid.
    pub token: String,
    /// The number of DATA packages that the client has received.
    pub received: u64,
    /// The number of DATA packages that the client has sent.
    pub sent: u64,
    /// The client takes what is sent again directly behind the response: it need not wait until the client has acknowledged the response.
    pub early: bool,
}

/// Never prints the token, which is equivalent to a password.
impl fmt::Debug for ReturningClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturningClient")
            .field("received", &self.received)
            .field("sent", &self.sent)
            .field("early", &self.early)
            .finish_non_exhaustive()
    }
}

impl ResumeRequest {
    /// Parses the JSON text of the member, which is valid JSON; `No` if there is no such member.
    pub(crate) fn read(json: Option<&str>) -> Self {
        match json {
            None => Self::No,
            Some(json) => Self::parse(json).unwrap_or(Self::Malformed),
        }
    }

    /// `None`: it is malformed.
    fn parse(json: &str) -> Option<Self> {
        if !json.starts_with('{') {
            return None;
        }
        let (mut version, mut token, mut received, mut sent, mut early) = Default::default();
        for member in Members::of(json) {
            let place: &mut Option<&str> = match &*member.name {
                "v" => &mut version,
                "token" => &mut token,
                "received" => &mut received,
                "sent" => &mut sent,
                "early" => &mut early,
                _ => continue,
            };
            if place.replace(member.value).is_some() {
                return None;
            }
        }
        let number = |json: &str| json.parse::<u64>().ok();
        let unless_null = |json: &&str| *json != "null";
        let version = number(version?)?;
        let token = match token.filter(unless_null) {
            Some(token) => Some(string(token)?),
            None => None,
        };
        let counts = [received, sent].map(|count| count.filter(unless_null).map(number));
        let early = match early {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return None,
        };
        match (token, counts) {
            (_, [Some(None), _] | [_, Some(None)]) => None,
            _ if version != VERSION => Some(Self::No),
            (None, _) => Some(Self::New),
            (Some(token), [Some(Some(received)), Some(Some(sent))]) => {
                let token = if token.len() > MAX_TOKEN_LEN {
                    String::new()
                } else {
                    token.into_owned()
                };
                Some(Self::Back(ReturningClient {
                    token,
                    received,
                    sent,
                    early,
                }))
            }
            (Some(_), _) => None,
        }
    }
}

/// The server's value of `sys.resume` in its response.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeGrant {
    /// The token with which the client resumes. URL-safe, at most [`MAX_TOKEN_LEN`] bytes.
    pub token: String,
    /// How long the session is kept for its client. Sent in whole seconds, rounded down.
    pub window: Duration,
    /// Each end acknowledges at the latest after this number of unacknowledged DATA packages. At least 1. Clients keep 256.
    pub ack: u8,
    /// The address to try first when resuming.
    pub address: Option<Arc<str>>,
    /// Whether the session is new or continues.
    pub outcome: ResumeOutcome,
}

/// Never prints the token, which is equivalent to a password.
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
    /// A new session, for a client without one.
    Granted,
    /// The client's session continues.
    Resumed {
        /// The number of the client's DATA packages that the server has received: the client sends later ones again.
        received: u64,
        /// The position from which the client counts on: the next DATA package of the server has the following number.
        position: u64,
        /// The number of DATA packages that the client has permanently missed.
        missed: u64,
    },
    /// A new session, because the requested one cannot continue.
    Restarted(ResumeRefusal),
}

/// Why a client does not resume its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumeRefusal {
    /// No session has this token any more, or its counts do not match.
    Unknown,
    /// The window has ended.
    Expired,
    /// The client uses another dialect.
    Changed,
    /// The application refused.
    Denied,
    /// Too many clients resume at once, or from one address.
    Busy,
}

impl ResumeRefusal {
    /// All reasons, for counters.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Expired,
        Self::Changed,
        Self::Denied,
        Self::Busy,
    ];

    /// The word in the response, also for logs and metrics.
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
    /// Whether the client keeps its dictionary, its schemas and all other state of its session.
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

/// Appends a HEARTBEAT package; with a number, it acknowledges that many DATA packages.
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
    use alloc::vec;
    use proptest::{prelude::*, sample::select};

    /// The request as a derived parser reads it.
    fn reference(json: &str) -> ResumeRequest {
        #[derive(serde::Deserialize)]
        struct Text {
            v: u64,
            token: Option<String>,
            received: Option<u64>,
            sent: Option<u64>,
            #[serde(default)]
            early: bool,
        }
        if !json.starts_with('{') {
            return ResumeRequest::Malformed;
        }
        match serde_json::from_str::<Text>(json) {
            Ok(text) if text.v != VERSION => ResumeRequest::No,
            Ok(Text { token: None, .. }) => ResumeRequest::New,
            Ok(Text {
                token: Some(token),
                received: Some(received),
                sent: Some(sent),
                early,
                ..
            }) => ResumeRequest::Back(ReturningClient {
                token: Some(token)
                    .filter(|token| token.len() <= MAX_TOKEN_LEN)
                    .unwrap_or_default(),
                received,
                sent,
                early,
            }),
            _ => ResumeRequest::Malformed,
        }
    }

    proptest! {
        #[test]
        fn any_members_are_read_as_by_a_derived_parser(
            members in proptest::collection::vec(
                (
                    select(vec!["v", "v", "token", "received", "sent", "early", "x", "\\u0076", "tok\\u0065n"]),
                    select(vec![
                        "1", "1", "0", "2", "-0", "1.0", "1e0", "18446744073709551615", "18446744073709551616", "null", "true", "false",
                        "\"t\"", "\"\"", "\"\\u0074\\\"\"", "{}", "[1]", "{\"v\":2}",
                    ]),
                ),
                0..7,
            ),
            space in select(vec!["", " ", "\n\t"]),
        ) {
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| alloc::format!("\"{name}\"{space}:{space}{value}{space}"))
                .collect();
            let json = alloc::format!("{{{space}{}}}", members.join(","));
            prop_assert_eq!(ResumeRequest::read(Some(&json)), reference(&json), "{}", json);
        }
    }

    #[test]
    fn what_a_client_asks_for() {
        let back = |token: &str, received, sent| {
            ResumeRequest::Back(ReturningClient {
                token: token.to_string(),
                received,
                sent,
                early: false,
            })
        };
        let early = ResumeRequest::Back(ReturningClient {
            token: "t".to_string(),
            received: 2,
            sent: 3,
            early: true,
        });
        let long = alloc::format!(
            r#"{{"v":1,"token":"{}","received":0,"sent":0}}"#,
            "t".repeat(129)
        );
        for (json, expected) in [
            (r#"{"v":1}"#, ResumeRequest::New),
            (r#"{"v":1,"later":[{}]}"#, ResumeRequest::New),
            (r#"{"v":1,"token":null}"#, ResumeRequest::New),
            (r#"{"v":2}"#, ResumeRequest::No),
            (r#"{"v":2,"token":"t"}"#, ResumeRequest::No),
            (
                r#"{"v":1,"token":"t","received":2,"sent":3}"#,
                back("t", 2, 3),
            ),
            (
                r#"{"v":1,"token":"t","received":2,"sent":3,"early":false}"#,
                back("t", 2, 3),
            ),
            (
                r#"{"v":1,"token":"t","received":2,"sent":3,"early":true}"#,
                early.clone(),
            ),
            (&long, back("", 0, 0)),
            (
                r#"{"v":1,"token":"t","received":2}"#,
                ResumeRequest::Malformed,
            ),
            (
                r#"{"v":1,"token":"t","received":-1,"sent":0}"#,
                ResumeRequest::Malformed,
            ),
            (
                r#"{"v":1,"token":"t","received":0.5,"sent":0}"#,
                ResumeRequest::Malformed,
            ),
            (
                r#"{"v":1,"token":7,"received":0,"sent":0}"#,
                ResumeRequest::Malformed,
            ),
            (
                r#"{"v":1,"token":"t","received":0,"sent":0,"early":1}"#,
                ResumeRequest::Malformed,
            ),
            (r#"{"v":"1"}"#, ResumeRequest::Malformed),
            (r#"[1,"t",0,0]"#, ResumeRequest::Malformed),
            ("{}", ResumeRequest::Malformed),
            ("true", ResumeRequest::Malformed),
            ("null", ResumeRequest::Malformed),
        ] {
            assert_eq!(ResumeRequest::read(Some(json)), expected, "{json}");
        }
        assert_eq!(ResumeRequest::read(None), ResumeRequest::No);
    }

    #[test]
    fn a_token_is_not_written_to_logs() {
        let back = ReturningClient {
            token: "secret".to_string(),
            received: 1,
            sent: 2,
            early: false,
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
