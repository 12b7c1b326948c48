//! Data propagated with a request in addition to its argument: the caller's timeout, and values of the application.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::ServerInfo;

mod duration;
pub use duration::{format_duration, parse_duration};

/// The caller's timeout, as Go duration text.
const REQ_TIMEOUT: &str = "reqTimeout";
const PEER_ID: &str = "peer.id";
const PEER_SERVICE: &str = "peer.service";
/// Objects of strings. A Go server fails a remote if they are anything else, so other values are not sent.
const OBJECTS_OF_STRINGS: [&str; 2] = ["otel-span", "metric-tags"];

/// The propagated context of a request.
///
/// A request carries the context from server to server; a handler that makes calls propagates the one it received, so that values of the
/// application and trace ids reach the last server. A received context is kept as text and parsed on demand. Cheap to clone.
#[derive(Clone, Default)]
pub struct Context {
    timeout: Option<Duration>,
    /// The JSON object as received, validated; empty if there was none.
    received: Bytes,
    /// Values that were set since then. `Null` removes a received value.
    values: Option<Arc<Map<String, Value>>>,
}

/// Why a received context is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// No bytes at all.
    #[error("no context found")]
    Empty,
    /// Not a JSON object, or its `reqTimeout` is not a text.
    #[error("the context is not usable: {0}")]
    NotAnObject(String),
    /// The timeout is not a duration.
    #[error("time: invalid duration {0:?}")]
    BadTimeout(String),
}

impl Context {
    /// An empty context without a deadline, so the cluster's request timeout applies.
    pub fn new() -> Self {
        Self::default()
    }

    /// A context that contains only the caller's timeout.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..Self::default()
        }
    }

    /// The caller's timeout, counted from the time the request was sent or arrived.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Sets the caller's timeout. A server that makes its own calls lowers it to the remaining time.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    /// A value of the application, or one that the protocol defines (`request.id`, `peer.id`, ..).
    pub fn get(&self, key: &str) -> Option<Value> {
        match self.values.as_ref().and_then(|values| values.get(key)) {
            Some(Value::Null) => None,
            Some(value) => Some(value.clone()),
            None => self.received_value(key),
        }
    }

    /// A value that is a text.
    pub fn get_str(&self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Sets a value for this server and all servers that the request reaches from here. `Null` removes it. The keys `reqTimeout`, `peer.id`
    /// and `peer.service` belong to the cluster: values set for them are not sent.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        Arc::make_mut(self.values.get_or_insert_default()).insert(key.into(), value);
    }

    /// Reads the metadata of a received request.
    ///
    /// # Errors
    /// [`ContextError`] if the bytes are not a JSON object, or the timeout in it is not a duration text.
    pub fn from_json(json: Bytes) -> Result<Self, ContextError> {
        if json.is_empty() {
            return Err(ContextError::Empty);
        }
        let mut timeout = None;
        let result = each_entry(&json, |key, value| {
            if key == REQ_TIMEOUT {
                timeout = Some(value.to_owned());
            }
        });
        result.map_err(|e| ContextError::NotAnObject(e.to_string()))?;
        let timeout = match timeout {
            None => None,
            Some(raw) => {
                let text: String = serde_json::from_str(raw.get())
                    .map_err(|e| ContextError::NotAnObject(e.to_string()))?;
                let Some(nanos) = parse_duration(&text) else {
                    return Err(ContextError::BadTimeout(text));
                };
                // A negative timeout has passed already.
                Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
            }
        };
        Ok(Self {
            timeout,
            received: json,
            values: None,
        })
    }

    /// The metadata of a request that `from` sends: always an object with a timeout that is a text.
    pub fn to_json(&self, from: &ServerInfo, default_timeout: Duration) -> Bytes {
        let mut out = Vec::with_capacity(self.received.len() + 160);
        out.extend_from_slice(b"{\"reqTimeout\":\"");
        out.extend_from_slice(format_duration(self.timeout.unwrap_or(default_timeout)).as_bytes());
        out.extend_from_slice(b"\",\"peer.id\":");
        put_json_text(&mut out, from.id.as_str());
        out.extend_from_slice(b",\"peer.service\":");
        put_json_text(&mut out, &from.server_type);
        let mut put = |key: &str, value: &str| {
            out.push(b',');
            put_json_text(&mut out, key);
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        };
        if !self.received.is_empty() {
            // It was checked when it arrived, so this cannot fail halfway.
            let _ = each_entry(&self.received, |key, value| {
                let replaced = self
                    .values
                    .as_ref()
                    .is_some_and(|values| values.contains_key(key));
                if !replaced && may_be_sent(key, value.get()) {
                    put(key, value.get());
                }
            });
        }
        for (key, value) in self.values.iter().flat_map(|values| values.iter()) {
            if !value.is_null() {
                let value = value.to_string();
                if may_be_sent(key, &value) {
                    put(key, &value);
                }
            }
        }
        out.push(b'}');
        Bytes::from(out)
    }

    /// Whether nothing travels but how long the caller waits.
    #[cfg(feature = "nats")]
    pub(crate) fn is_plain(&self) -> bool {
        self.received.is_empty() && self.values.is_none()
    }

    /// The same with its own bytes, if it has at most so many and holds nothing but what the cluster itself writes.
    #[cfg(feature = "nats")]
    pub(crate) fn only_of_the_cluster(&self, most: usize) -> Option<Self> {
        let mut only = self.received.len() <= most && self.values.is_none();
        if only {
            let is_ours = |key: &str| matches!(key, REQ_TIMEOUT | PEER_ID | PEER_SERVICE);
            each_entry(&self.received, |key, _| only &= is_ours(key)).ok()?;
        }
        only.then(|| Self {
            timeout: self.timeout,
            received: Bytes::copy_from_slice(&self.received),
            values: None,
        })
    }

    /// The text as it was received.
    #[cfg(feature = "nats")]
    pub(crate) fn received(&self) -> &Bytes {
        &self.received
    }

    fn received_value(&self, key: &str) -> Option<Value> {
        if self.received.is_empty() {
            return None;
        }
        let mut found = None;
        each_entry(&self.received, |k, value| {
            if k == key {
                found = serde_json::from_str(value.get()).ok();
            }
        })
        .ok()?;
        found
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("timeout", &self.timeout)
            .field("received", &String::from_utf8_lossy(&self.received))
            .field("values", &self.values)
            .finish()
    }
}

fn may_be_sent(key: &str, value: &str) -> bool {
    if matches!(key, REQ_TIMEOUT | PEER_ID | PEER_SERVICE) {
        return false;
    }
    !OBJECTS_OF_STRINGS.contains(&key)
        || serde_json::from_str::<std::collections::BTreeMap<Cow<'_, str>, Cow<'_, str>>>(value)
            .is_ok()
}

fn put_json_text(out: &mut Vec<u8>, text: &str) {
    // A text always has a JSON form and a Vec takes all bytes.
    let _ = serde_json::to_writer(out, text);
}

/// Whether a text is a JSON object and nothing else.
#[cfg(feature = "nats")]
pub(crate) fn is_json_object(json: &[u8]) -> bool {
    each_entry(json, |_, _| {}).is_ok()
}

/// Calls `entry` for each member of a JSON object, without building it.
fn each_entry(json: &[u8], entry: impl FnMut(&str, &RawValue)) -> Result<(), serde_json::Error> {
    struct Entries<F>(F);
    impl<'de, F: FnMut(&str, &RawValue)> Visitor<'de> for Entries<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                (self.0)(&key, map.next_value::<&'de RawValue>()?);
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    de::Deserializer::deserialize_map(&mut reader, Entries(entry))?;
    reader.end()
}

/// A key that borrows from the input unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(context: &Context) -> Value {
        let from = ServerInfo::new("s1", "game", false).unwrap();
        serde_json::from_slice(&context.to_json(&from, Duration::from_secs(5))).unwrap()
    }

    #[test]
    fn what_arrived_goes_on_with_the_peer_and_timeout_replaced() {
        let text = br#"{"peer.id":"old","peer.service":"x","reqTimeout":"1.5s","request.id":"r","n":1764000000123456789,"k\u0065y":[1]}"#;
        let mut context = Context::from_json(Bytes::from_static(text)).unwrap();
        assert_eq!(context.timeout(), Some(Duration::from_millis(1500)));
        assert_eq!(context.get_str("request.id").as_deref(), Some("r"));
        context.set("request.id", "r2".into());
        context.set("mine", 7.into());
        let expected = serde_json::json!({"reqTimeout": "1.5s", "peer.id": "s1", "peer.service": "game",
            "request.id": "r2", "n": 1_764_000_000_123_456_789_u64, "key": [1], "mine": 7});
        assert_eq!(sent(&context), expected);
    }

    #[test]
    fn nothing_that_harms_a_go_server_is_sent() {
        let mut context = Context::new();
        context.set("reqTimeout", 5.into());
        context.set("peer.id", Value::Null);
        context.set("otel-span", serde_json::json!({"traceparent": 1}));
        context.set("metric-tags", serde_json::json!({"a": "b"}));
        let expected = serde_json::json!({"reqTimeout": "5s", "peer.id": "s1", "peer.service": "game",
            "metric-tags": {"a": "b"}});
        assert_eq!(sent(&context), expected);
    }

    #[test]
    fn malformed_contexts_are_distinguished() {
        assert_eq!(
            Context::from_json(Bytes::new()).unwrap_err(),
            ContextError::Empty
        );
        for bad in [
            "null",
            "[]",
            "{",
            "x",
            "{}x",
            "{\"reqTimeout\":5}",
            "{\"a\":}",
        ] {
            let error = Context::from_json(Bytes::from_static(bad.as_bytes())).unwrap_err();
            assert!(
                matches!(error, ContextError::NotAnObject(_)),
                "{bad}: {error}"
            );
        }
        let error =
            Context::from_json(Bytes::from_static(b"{\"reqTimeout\":\"soon\"}")).unwrap_err();
        assert_eq!(error, ContextError::BadTimeout("soon".into()));
    }

    #[test]
    fn a_value_set_to_null_is_gone() {
        let mut context = Context::from_json(Bytes::from_static(b"{\"a\":1}")).unwrap();
        context.set("a", Value::Null);
        assert_eq!(context.get("a"), None);
        assert!(sent(&context).get("a").is_none());
    }
}
