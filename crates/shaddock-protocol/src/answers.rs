//! Handshake responses. Texts that do not depend on the client are built once.

use crate::compress::deflate_zlib;
use crate::dictionary::push_json_string;
use crate::handshake::is_truthy;
use crate::package::header;
use crate::text::escape_non_bmp;
use crate::{
    CodecConfig, Dialect, EncodeError, PITAYA_HEARTBEAT, PackageType, RejectCode, ResumeGrant,
};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};
use core::fmt::Write as _;
use core::time::Duration;
use serde_json::Value;

/// The parts that the response to one handshake must contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The client has not cached this dictionary.
    pub(crate) dictionary: bool,
    /// The client has not cached these schemas.
    pub(crate) protos: bool,
}

impl Wanted {
    const fn index(self) -> usize {
        self.dictionary as usize | (self.protos as usize) << 1
    }
}

/// The name of the last member of `sys` in Pitaya's answers.
const SERIALIZER: &[u8] = b"\"serializer\":";

/// The parts that are the same in all responses of one frontend. Texts lack their last brace, because `user` may follow.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Indexed by [`Wanted`].
    pomelo: [Vec<u8>; 4],
    pitaya: Vec<u8>,
    /// Without the dictionary, for clients that keep theirs.
    pitaya_resumed: Vec<u8>,
    /// The complete Pitaya response, deflated if enabled and shorter.
    pitaya_body: Vec<u8>,
    pitaya_refusal: Vec<u8>,
    compress: bool,
}

impl Answers {
    pub(crate) fn new(config: &CodecConfig) -> Self {
        let pomelo = [(false, false), (true, false), (false, true), (true, true)];
        let sys = pitaya_sys(config, true);
        let resumed = pitaya_sys(config, false);
        let pitaya = clean(&["{\"code\":200,", &sys].concat());
        let compress = config.compress_pitaya;
        Self {
            pomelo: pomelo.map(|(dictionary, protos)| {
                clean(&pomelo_text(config, Wanted { dictionary, protos }))
            }),
            pitaya_body: finish(&pitaya, compress),
            pitaya_refusal: finish(&clean(&["{\"code\":400,", &sys].concat()), compress),
            pitaya,
            pitaya_resumed: clean(&["{\"code\":200,", &resumed].concat()),
            compress,
        }
    }

    /// Length in bytes of the longest response, without `user`.
    pub(crate) fn longest(&self) -> usize {
        let pomelo = self.pomelo.iter().map(|text| text.len() + 1);
        let pitaya = [self.pitaya_body.len(), self.pitaya_refusal.len()];
        pomelo.chain(pitaya).max().unwrap_or_default()
    }

    /// Appends the HANDSHAKE package that accepts a client.
    pub(crate) fn put_accept(
        &self,
        dialect: Dialect,
        wanted: Wanted,
        user: Option<&Value>,
        grant: Option<&ResumeGrant>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let user = user.filter(|user| is_truthy(user)).map(user_member);
        let user = user.as_deref().unwrap_or_default();
        if let Some(grant) = grant {
            let open = self.with_grant(dialect, wanted, grant);
            let compress = self.compress && dialect == Dialect::Pitaya;
            let body = finish(&[&open, user].concat(), compress);
            return put_handshake(&[&body], out);
        }
        match dialect {
            Dialect::Pomelo => put_handshake(&[&self.pomelo[wanted.index()], user, b"}"], out),
            Dialect::Pitaya if user.is_empty() => put_handshake(&[&self.pitaya_body], out),
            Dialect::Pitaya => {
                let body = finish(&[&self.pitaya, user].concat(), self.compress);
                put_handshake(&[&body], out)
            }
        }
    }

    /// The text of a response that also grants resumption: at the end of `sys`, for Pitaya in its sorted place.
    fn with_grant(&self, dialect: Dialect, wanted: Wanted, grant: &ResumeGrant) -> Vec<u8> {
        let member = clean_bytes(&grant.member());
        let (before, after) = match dialect {
            Dialect::Pomelo => {
                let wanted = if grant.is_resumed() {
                    Wanted::default()
                } else {
                    wanted
                };
                let text = &self.pomelo[wanted.index()];
                text.split_at(text.len().saturating_sub(1))
            }
            Dialect::Pitaya => {
                let text = if grant.is_resumed() {
                    &self.pitaya_resumed
                } else {
                    &self.pitaya
                };
                // The last member: its name cannot occur after it, because the value is a word.
                let at = text
                    .windows(SERIALIZER.len())
                    .rposition(|part| part == SERIALIZER);
                text.split_at(at.unwrap_or(text.len().saturating_sub(1)))
            }
        };
        let comma = |needed: bool| if needed { &b","[..] } else { b"" };
        [
            before,
            comma(!matches!(before.last(), Some(b'{' | b','))),
            &member,
            comma(after.len() > 1),
            after,
        ]
        .concat()
    }

    /// Appends the HANDSHAKE package that refuses a client.
    pub(crate) fn put_reject(&self, dialect: Dialect, code: RejectCode, out: &mut BytesMut) {
        // Only a dictionary of many megabytes does not fit ([`longest`](Self::longest)), and no server starts with one.
        let _ = match (dialect, code) {
            (Dialect::Pomelo, RejectCode::Failed) => put_handshake(&[b"{\"code\":500}"], out),
            (Dialect::Pomelo, RejectCode::OldClient) => put_handshake(&[b"{\"code\":501}"], out),
            (Dialect::Pitaya, _) => put_handshake(&[&self.pitaya_refusal], out),
        };
    }
}

fn put_handshake(parts: &[&[u8]], out: &mut BytesMut) -> Result<(), EncodeError> {
    let len = parts.iter().map(|part| part.len()).sum();
    out.put_slice(&header(PackageType::Handshake, len)?);
    for part in parts {
        out.put_slice(part);
    }
    Ok(())
}

/// `,"user":..`
fn user_member(user: &Value) -> Vec<u8> {
    // A JSON value always serialises.
    let text = serde_json::to_string(user).unwrap_or_default();
    clean(&[",\"user\":", &text].concat())
}

/// Text in a form that every client can read.
fn clean(text: &str) -> Vec<u8> {
    clean_bytes(text.as_bytes())
}

fn clean_bytes(text: &[u8]) -> Vec<u8> {
    escape_non_bmp(text).into_owned()
}

fn finish(open: &[u8], compress: bool) -> Vec<u8> {
    let text = [open, b"}"].concat();
    if compress {
        let deflated = deflate_zlib(&text);
        if deflated.len() < text.len() {
            return deflated;
        }
    }
    text
}

/// `{"code":200,"sys":{..}`; the order of the members is the original's.
fn pomelo_text(config: &CodecConfig, wanted: Wanted) -> String {
    let mut sys = Members::new();
    if let Some(interval) = interval(config, Dialect::Pomelo) {
        sys.raw("heartbeat", &seconds(interval));
    }
    if let Some(dictionary) = &config.dictionary {
        if wanted.dictionary {
            sys.raw("dict", dictionary.json());
            sys.raw("routeToCode", dictionary.json());
            sys.raw("codeToRoute", dictionary.code_json());
            sys.text("dictVersion", dictionary.version());
        }
        sys.raw("useDict", "true");
    }
    if let Some(protos) = &config.protos {
        if wanted.protos {
            let mut members = Members::new();
            members.raw("server", protos.server_json());
            members.raw("client", protos.client_json());
            members.text("version", protos.version());
            sys.raw("protos", &members.finish());
        }
        sys.raw("useProto", "true");
    }
    ["{\"code\":200,\"sys\":", &sys.finish()].concat()
}

/// `"sys":{..}`; the members are sorted, as Go writes them.
fn pitaya_sys(config: &CodecConfig, with_dictionary: bool) -> String {
    let dictionary = config.dictionary.as_ref();
    let interval = interval(config, Dialect::Pitaya).unwrap_or(PITAYA_HEARTBEAT);
    let mut sys = Members::new();
    if with_dictionary {
        sys.raw(
            "dict",
            &dictionary.map_or(Cow::Borrowed("{}"), |d| Cow::Owned(d.sorted_json())),
        );
    }
    sys.raw("heartbeat", &whole_seconds(interval));
    sys.text("serializer", config.pitaya_serializer.name());
    ["\"sys\":", &sys.finish()].concat()
}

/// The heartbeat interval in the responses to clients of a dialect; `None`: heartbeats are off.
pub(crate) fn interval(config: &CodecConfig, dialect: Dialect) -> Option<Duration> {
    let configured = config.heartbeat.filter(|interval| interval.as_millis() > 0);
    match dialect {
        Dialect::Pomelo => configured,
        Dialect::Pitaya => configured.or(Some(PITAYA_HEARTBEAT)),
    }
}

/// JavaScript's text of a number of seconds.
fn seconds(interval: Duration) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{}.{:03}",
        interval.as_secs(),
        interval.subsec_millis()
    );
    let len = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(len);
    text
}

/// Go clients parse an integer and start a ticker with it: rounded up, so never 0.
fn whole_seconds(interval: Duration) -> String {
    let rounded = interval.as_secs() + u64::from(interval.subsec_nanos() > 0);
    let mut text = String::new();
    let _ = write!(text, "{rounded}");
    text
}

/// A JSON object under construction.
struct Members(String);

impl Members {
    fn new() -> Self {
        Self(String::from("{"))
    }

    fn name(&mut self, name: &str) {
        self.0
            .push_str(if self.0.len() == 1 { "\"" } else { ",\"" });
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_json_string(text, &mut self.0);
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
