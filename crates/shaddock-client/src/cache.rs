//! Cached handshake data, which shorten the next handshake.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_protocol::{Dictionary, Protos, Schema};

use crate::AnswerError;

/// Longest name of a field or message in a schema from a server. A field that takes 4 bytes of a body becomes its name in JSON text: this
/// limits the text to some 35 times the body.
const MAX_NAME: usize = 128;

/// Dictionary and protobuf schemas of a server, with their versions. Cheap to clone.
///
/// Pass it to [`ClientBuilder::cache`](crate::ClientBuilder::cache) and the server omits unchanged parts from its response.
/// [`HandshakeCache::to_json`] and [`HandshakeCache::from_json`] persist it.
#[derive(Clone, Debug, Default)]
pub struct HandshakeCache {
    pub(crate) dictionary: Option<(Arc<str>, Arc<Dictionary>)>,
    pub(crate) protos: Option<(Arc<str>, Arc<Protos>)>,
}

/// `sys.protos` of a handshake, and the form on disk.
#[derive(Deserialize, Serialize)]
pub(crate) struct ProtosText {
    #[serde(default)]
    server: Value,
    #[serde(default)]
    client: Value,
    #[serde(default)]
    version: Value,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dict: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dict_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protos: Option<ProtosText>,
}

impl HandshakeCache {
    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.dictionary.is_none() && self.protos.is_none()
    }

    /// The version of the dictionary, if there is one.
    pub fn dictionary_version(&self) -> Option<&str> {
        self.dictionary.as_ref().map(|(version, _)| &**version)
    }

    /// The version of the schemas, if there are any.
    pub fn protos_version(&self) -> Option<&str> {
        self.protos.as_ref().map(|(version, _)| &**version)
    }

    /// The cache as JSON text, for a file.
    pub fn to_json(&self) -> String {
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let stored = Stored {
            dict: self
                .dictionary
                .as_ref()
                .map(|(_, dictionary)| serde_json::from_str(dictionary.json()).unwrap_or_default()),
            dict_version: self.dictionary_version().map(str::to_owned),
            protos: self.protos.as_ref().map(|(version, protos)| ProtosText {
                server: parsed(protos.server_json()),
                client: parsed(protos.client_json()),
                version: Value::from(&**version),
            }),
        };
        // Texts and numbers always serialise.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Parses the text of [`HandshakeCache::to_json`].
    ///
    /// # Errors
    ///
    /// The text is invalid.
    pub fn from_json(text: &str) -> Result<Self, AnswerError> {
        let stored: Stored =
            serde_json::from_str(text).map_err(|error| AnswerError::Json(error.to_string()))?;
        let dictionary = match (&stored.dict, &stored.dict_version) {
            (Some(dict), Some(version)) => {
                Some((version.as_str().into(), Arc::new(dictionary(dict)?)))
            }
            _ => None,
        };
        Ok(Self {
            dictionary,
            protos: stored.protos.map(protos).transpose()?,
        })
    }
}

/// `sys.dict`: route to code.
pub(crate) fn dictionary(dict: &Map<String, Value>) -> Result<Dictionary, AnswerError> {
    let entries = dict
        .iter()
        .map(|(route, code)| {
            let code = code.as_u64().and_then(|code| u16::try_from(code).ok());
            let error = || AnswerError::Dictionary(format!("code of {route}"));
            Ok((route.as_str(), code.ok_or_else(error)?))
        })
        .collect::<Result<Vec<_>, AnswerError>>()?;
    Dictionary::with_codes(entries).map_err(|error| AnswerError::Dictionary(error.to_string()))
}

/// `sys.protos`: both schemas in parsed form, and their version.
pub(crate) fn protos(text: ProtosText) -> Result<(Arc<str>, Arc<Protos>), AnswerError> {
    let version = match text.version {
        Value::String(version) => version,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let protos = Protos::new(schema(&text.server)?, schema(&text.client)?);
    Ok((version.into(), Arc::new(protos)))
}

fn schema(parsed: &Value) -> Result<Schema, AnswerError> {
    let Value::Object(routes) = parsed else {
        return Ok(Schema::empty());
    };
    if !routes.values().all(names_are_short) {
        return Err(AnswerError::LongName);
    }
    Ok(Schema::from_parsed(&parsed.to_string())?)
}

/// JSON is nested at most 128 levels deep, by its parser.
fn names_are_short(value: &Value) -> bool {
    value.as_object().is_none_or(|members| {
        members
            .iter()
            .all(|(name, value)| name.len() <= MAX_NAME && names_are_short(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_survives_the_disk() {
        let schema = Schema::parse(r#"{"onChat":{"required string msg":1}}"#).unwrap();
        let cache = HandshakeCache {
            dictionary: Some((
                "v1".into(),
                Arc::new(Dictionary::with_codes([("b", 2), ("a", 700)]).unwrap()),
            )),
            protos: Some(("v2".into(), Arc::new(Protos::new(schema, Schema::empty())))),
        };
        let read = HandshakeCache::from_json(&cache.to_json()).unwrap();
        assert_eq!(read.dictionary_version(), Some("v1"));
        assert_eq!(read.protos_version(), Some("v2"));
        assert_eq!(read.dictionary.unwrap().1.code("a"), Some(700));
        assert!(read.protos.unwrap().1.server().has("onChat"));

        let nothing = HandshakeCache::from_json(&HandshakeCache::default().to_json()).unwrap();
        assert!(nothing.is_empty());
        assert!(HandshakeCache::from_json("[1").is_err());
    }

    #[test]
    fn names_are_bounded() {
        let text = |name: &str| ProtosText {
            server: serde_json::json!({"r": {
                name: {"option": "optional", "type": "string", "tag": 1},
                "__messages": {},
                "__tags": {"1": name},
            }}),
            client: Value::Null,
            version: Value::Null,
        };
        assert!(protos(text(&"n".repeat(128))).is_ok());
        assert_eq!(
            protos(text(&"n".repeat(129))).unwrap_err(),
            AnswerError::LongName
        );
    }

    #[test]
    fn codes_are_checked() {
        for dict in [
            serde_json::json!({"a": 65536}),
            serde_json::json!({"a": -1}),
            serde_json::json!({"a": "1"}),
            serde_json::json!({"a": 1, "b": 1}),
        ] {
            let error = dictionary(dict.as_object().unwrap()).unwrap_err();
            assert!(matches!(error, AnswerError::Dictionary(_)), "{dict}");
        }
    }
}
