//! The JSON between a frontend and a backend.

use std::{fmt, marker::PhantomData, net::SocketAddr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value, value::RawValue};

use super::failure::{Failure, Fault};
use crate::{error::HandlerError, request::RequestContext, session::SessionView};

/// The most characters of a response that is not JSON in the log.
const MOST_SHOWN: usize = 60;

/// The body of a request to a backend.
#[derive(Serialize)]
pub(super) struct Envelope<'a> {
    /// `request`, `notify` or `event`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientJson<'a>>,
    /// The time that the frontend waits, in milliseconds from when it sent the request.
    timeout_ms: u64,
}

/// A session.
#[derive(Serialize)]
struct SessionJson<'a> {
    /// A string, because languages with floating-point numbers only would round it.
    sid: String,
    frontend: &'a str,
    uid: Option<&'a str>,
    settings: &'a shaddock_core::Settings,
    address: Option<SocketAddr>,
    transport: Option<&'static str>,
}

impl<'a> SessionJson<'a> {
    fn of(view: &'a SessionView) -> Self {
        let session = view.session();
        Self {
            // The view of a session of this frontend.
            sid: view.id().map_or_else(String::new, |sid| sid.to_string()),
            frontend: view.frontend_id(),
            uid: view.uid().map(shaddock_core::Uid::as_str),
            settings: view.settings(),
            address: session.and_then(|session| session.client().address),
            transport: session.map(|session| session.client().transport.name()),
        }
    }
}

/// A client without a session.
#[derive(Serialize)]
pub(super) struct ClientJson<'a> {
    #[serde(rename = "type")]
    pub(super) client_type: Option<&'a str>,
    pub(super) version: Option<&'a str>,
    pub(super) address: SocketAddr,
    pub(super) transport: &'static str,
}

impl<'a> Envelope<'a> {
    fn empty(kind: &'static str, limit: Duration) -> Self {
        Self {
            kind,
            route: None,
            event: None,
            body: None,
            uid: None,
            reason: None,
            session: None,
            client: None,
            timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn to_json(&self) -> Result<Vec<u8>, HandlerError> {
        serde_json::to_vec(self).map_err(|error| {
            HandlerError::internal("the request cannot be written as JSON").with_source(error)
        })
    }

    pub(super) fn request(
        request: &'a RequestContext,
        limit: Duration,
    ) -> Result<Vec<u8>, HandlerError> {
        let kind = if request.id().is_some() {
            "request"
        } else {
            "notify"
        };
        let body: Option<&RawValue> = if request.body().is_empty() {
            None
        } else {
            let read = serde_json::from_slice(request.body());
            Some(read.map_err(|_| HandlerError::bad_request("the body is not JSON"))?)
        };
        let envelope = Self {
            route: Some(request.route().as_str()),
            body,
            session: Some(SessionJson::of(request.session())),
            ..Self::empty(kind, limit)
        };
        envelope.to_json()
    }

    /// An event of a session.
    pub(super) fn event(
        event: &'static str,
        view: &'a SessionView,
        uid: Option<&'a str>,
        reason: Option<&'a str>,
        limit: Duration,
    ) -> Result<Vec<u8>, HandlerError> {
        let envelope = Self {
            event: Some(event),
            uid,
            reason,
            session: Some(SessionJson::of(view)),
            ..Self::empty("event", limit)
        };
        envelope.to_json()
    }

    /// A handshake: `user` is the data that the client sent with it.
    pub(super) fn handshake(
        client: ClientJson<'a>,
        user: Option<&'a RawValue>,
        limit: Duration,
    ) -> Result<Vec<u8>, HandlerError> {
        let envelope = Self {
            event: Some("handshake"),
            body: user,
            client: Some(client),
            ..Self::empty("event", limit)
        };
        envelope.to_json()
    }
}

/// The last part of the URL's path: `handler.method`, escaped. It contains a dot between other characters, so it is neither `..` nor the
/// name of an event.
pub(super) fn path_of(short: Option<&str>) -> Result<String, HandlerError> {
    let parts = short.and_then(|short| short.split_once('.'));
    let is_whole = |(handler, method): &(&str, &str)| {
        !handler.is_empty() && !method.is_empty() && !method.contains('.')
    };
    let Some((handler, method)) = parts.filter(is_whole) else {
        return Err(HandlerError::bad_request("invalid route"));
    };
    let mut path = String::with_capacity(handler.len() + method.len() + 1);
    escape(&mut path, handler);
    path.push('.');
    escape(&mut path, method);
    Ok(path)
}

fn escape(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// A `T` as a JSON object. Derived types also accept a list of their members in order, which would accept malformed data.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for AsMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(AsMap(PhantomData))
    }
}

/// The response of a backend. Unknown members are errors; otherwise they would be ignored silently.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(super) body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<Object<ErrorJson<'a>>>,
    #[serde(default)]
    pub(super) actions: Vec<Action>,
}

impl<'a> Answer<'a> {
    /// Reads a response. An empty one has no body and no actions.
    pub(super) fn read(text: &'a [u8]) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Object(answer): Object<Self> =
            serde_json::from_slice(text).map_err(|error| unreadable(text, &error))?;
        let form = |reason: &str| Err(Failure::broken(Fault::Form, reason));
        if let Some(Object(error)) = &answer.error {
            if answer.body.is_some() || !answer.actions.is_empty() {
                return form(
                    "its response contains both an `error` and a `body` or `actions`; write one of them",
                );
            }
            if error.code.is_empty() {
                return form("the `code` of its error is empty");
            }
        }
        Ok(answer)
    }
}

/// Tells a page or another text from JSON with a mistake.
fn unreadable(text: &[u8], error: &serde_json::Error) -> Failure {
    let start = text.trim_ascii_start();
    if error.is_data() || matches!(start.first(), Some(b'{' | b'[')) {
        return Failure::broken(Fault::Form, format!("its response is invalid: {error}"));
    }
    let what = match start.first() {
        Some(b'<') => "HTML or XML",
        _ => "text",
    };
    // A character has at most four bytes.
    let shown = start.get(..MOST_SHOWN * 4).unwrap_or(start);
    let shown: String = String::from_utf8_lossy(shown)
        .chars()
        .take(MOST_SHOWN)
        .collect();
    let reason = format!("its response is {what}, not JSON; it begins with {shown:?}");
    Failure::broken(Fault::NotJson, reason)
}

/// An error for the client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorJson<'a> {
    code: String,
    #[serde(default)]
    message: String,
    /// The body for Pomelo clients instead of `{"code":500}`.
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

impl ErrorJson<'_> {
    pub(super) fn into_error(self) -> HandlerError {
        let error = HandlerError::new(self.code, self.message);
        match self.body {
            Some(body) => error.with_raw_body(body.get().to_owned().into()),
            None => error,
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }
}

/// An action that is executed before the response is sent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// `{"bind": "ann"}`
    Bind(String),
    /// `"unbind"`
    Unbind,
    /// `{"set": {"room": "lobby"}}`
    Set(Map<String, Value>),
    /// `{"remove": ["room"]}`
    Remove(Vec<String>),
    /// `{"join": "room:lobby"}`
    Join(String),
    /// `{"leave": "room:lobby"}`
    Leave(String),
    /// `{"push": {"route": "onChat", "body": {}, "users": ["ann"]}}`
    Push(Object<PushJson>),
    /// `{"kick": {"reason": "cheats", "users": ["bob"]}}`
    Kick(Object<KickJson>),
}

/// A push to the session itself, to all sessions of users, or to a topic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PushJson {
    pub(super) route: String,
    pub(super) body: Box<RawValue>,
    #[serde(default)]
    pub(super) users: Option<Vec<String>>,
    #[serde(default)]
    pub(super) topic: Option<String>,
    /// A member of the topic that is skipped.
    #[serde(default)]
    pub(super) except: Option<String>,
    /// The key of which only the newest message matters.
    #[serde(default)]
    pub(super) latest: Option<String>,
}

/// The close of the session itself, or of all sessions of users.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KickJson {
    pub(super) reason: String,
    #[serde(default)]
    pub(super) users: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every route of a client, the path stays below the backend's URL, in one segment, and is never an event's.
    #[test]
    fn routes_cannot_leave_their_place() {
        for (short, path) in [
            ("room.say", "room.say"),
            ("a/b.c", "a%2Fb.c"),
            ("/./", "%2F.%2F"),
            ("a?x=1.b#c", "a%3Fx%3D1.b%23c"),
            ("a b\r\nHost: x.y", "a%20b%0D%0AHost%3A%20x.y"),
            ("房.说", "%E6%88%BF.%E8%AF%B4"),
            ("%2e.%2e", "%252e.%252e"),
        ] {
            assert_eq!(path_of(Some(short)).unwrap(), path);
        }
        for short in [
            None,
            Some(""),
            Some("."),
            Some(".."),
            Some(".a"),
            Some("a."),
            Some("a"),
            Some(".../x"),
            Some("a.b/.."),
        ] {
            assert_eq!(path_of(short).unwrap_err().code(), "PIT-400", "{short:?}");
        }
    }

    #[test]
    fn answers_that_are_not_understood() {
        for (text, part) in [
            (" ", "is text, not JSON; it begins with \"\""),
            (
                "\n<html>Hello</html>",
                r#"is HTML or XML, not JSON; it begins with "<html>Hello</html>""#,
            ),
            ("OK", r#"is text, not JSON; it begins with "OK""#),
            ("\u{feff}{}", r#"it begins with "\u{feff}{}""#),
            ("3", "expected a JSON object"),
            ("[]", "expected a JSON object"),
            ("{", "EOF"),
            ("{]", "key must be a string"),
            (r#"{"body":1"#, "EOF"),
            (
                r#"{"boddy":1}"#,
                "unknown field `boddy`, expected one of `body`, `error`, `actions`",
            ),
            (
                r#"{"actions":[{"fly":1}]}"#,
                "unknown variant `fly`, expected one of `bind`, `unbind`",
            ),
            (r#"{"actions":[{"bind":1}]}"#, "invalid type"),
            (
                r#"{"actions":[{"push":{"route":"a","body":1,"room":"t"}}]}"#,
                "unknown field `room`",
            ),
            (r#"{"actions":{"bind":"ann"}}"#, "invalid type"),
            (r#"{"error":{"code":"A"},"body":1}"#, "write one of them"),
            (
                r#"{"error":{"code":"A"},"actions":["unbind"]}"#,
                "write one of them",
            ),
            (r#"{"error":{"code":""}}"#, "is empty"),
            (r#"{"error":["A"]}"#, "expected a JSON object"),
            (
                r#"{"actions":[{"push":["a",1]}]}"#,
                "expected a JSON object",
            ),
            (r#"{"actions":[{"kick":["a"]}]}"#, "expected a JSON object"),
            (r#"{"error":"A"}"#, "invalid type"),
            (r#"{"body":1} x"#, "trailing characters"),
        ] {
            let error = Answer::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
