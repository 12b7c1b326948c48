//! The handshake: the request of this client, and the response of the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_protocol::{Dialect, PackageType, encode_package, inflate, looks_compressed};

use crate::cache::{ProtosText, dictionary, protos};
use crate::resume::{Grant, ResumeRequest};
use crate::settings::Settings;
use crate::wire::Wire;
use crate::{AnswerError, CloseKind, ConnectError, EncodeError, HandshakeCache, SigningKey};

/// The parsed response of the server.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) wire: Wire,
    pub(crate) heartbeat: Option<Duration>,
    /// The server's value for resumption, if it was requested.
    pub(crate) resume: Option<Grant>,
    pub(crate) user: Option<Value>,
    /// For the next connection.
    pub(crate) cache: HandshakeCache,
}

#[derive(Serialize)]
struct Request<'a> {
    sys: RequestSys<'a>,
    user: &'a Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RequestSys<'a> {
    #[serde(rename_all = "camelCase")]
    Pomelo {
        r#type: &'a str,
        version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        dict_version: Option<&'a str>,
        proto_version: Version<'a>,
        rsa: Rsa<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<&'a ResumeRequest>,
    },
    #[serde(rename_all = "camelCase")]
    Pitaya {
        platform: &'a str,
        lib_version: &'a str,
        client_build_number: &'a str,
        client_version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<&'a ResumeRequest>,
    },
}

/// Clients without schemas send the number 0.
#[derive(Serialize)]
#[serde(untagged)]
enum Version<'a> {
    Known(&'a str),
    None(u8),
}

#[derive(Default, Serialize)]
struct Rsa<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    rsa_n: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rsa_e: Option<u64>,
}

#[derive(Deserialize)]
struct Answer {
    code: i64,
    #[serde(default)]
    sys: Option<AnswerSys>,
    #[serde(default)]
    user: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AnswerSys {
    heartbeat: Value,
    dict: Option<Map<String, Value>>,
    dict_version: Option<String>,
    use_dict: bool,
    protos: Option<ProtosText>,
    use_proto: bool,
    serializer: Option<String>,
    resume: Value,
}

/// The HANDSHAKE package.
pub(crate) fn request(
    settings: &Settings,
    resume: Option<&ResumeRequest>,
) -> Result<Bytes, EncodeError> {
    // A resuming client names no versions: if its session is gone, it starts over with all data of the server.
    let none = HandshakeCache::default();
    let cache = match resume {
        Some(asked) if asked.is_back() => &none,
        _ => &settings.cache,
    };
    let sys = match settings.dialect {
        Dialect::Pomelo => RequestSys::Pomelo {
            r#type: &settings.client_type,
            version: &settings.client_version,
            dict_version: cache.dictionary_version(),
            proto_version: cache
                .protos_version()
                .map_or(Version::None(0), Version::Known),
            rsa: Rsa {
                rsa_n: settings.key.as_ref().map(SigningKey::modulus),
                rsa_e: settings.key.as_ref().map(SigningKey::exponent),
            },
            resume,
        },
        Dialect::Pitaya => RequestSys::Pitaya {
            platform: &settings.client_type,
            lib_version: env!("CARGO_PKG_VERSION"),
            client_build_number: &settings.build_number,
            client_version: &settings.client_version,
            resume,
        },
    };
    let request = Request {
        sys,
        user: &settings.user,
    };
    let text =
        serde_json::to_vec(&request).map_err(|error| EncodeError::Json(error.to_string()))?;
    Ok(encode_package(PackageType::Handshake, &text)?)
}

/// Parses the body of the response.
pub(crate) fn answer(settings: &Settings, body: &[u8]) -> Result<Agreed, ConnectError> {
    let inflated;
    let text = if looks_compressed(body) {
        inflated = inflate(body, settings.max_package_size).map_err(AnswerError::from)?;
        &inflated
    } else {
        body
    };
    let answer: Answer =
        serde_json::from_slice(text).map_err(|error| AnswerError::Json(error.to_string()))?;
    if answer.code != 200 {
        return Err(ConnectError::Refused { code: answer.code });
    }
    let sys = answer.sys.unwrap_or_default();
    let resume = match settings.reconnect {
        Some(_) => Grant::read(&sys.resume)
            .map_err(|violation| ConnectError::Closed(CloseKind::Protocol(violation)))?,
        None => None,
    };
    let heartbeat = sys.heartbeat.as_f64().filter(|seconds| *seconds > 0.0);
    let raw_protobuf = sys.serializer.as_deref() == Some("protobuf");
    let (dictionary, protos, cache) = agreed(settings, sys)?;
    Ok(Agreed {
        wire: Wire {
            generation: 0,
            dialect: settings.dialect,
            dictionary,
            protos,
            raw_protobuf: raw_protobuf && settings.dialect == Dialect::Pitaya,
            key: settings.key.clone(),
            max_inflated: settings.max_package_size,
        },
        resume,
        heartbeat: heartbeat
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
        user: answer.user,
        cache,
    })
}

type Tables = (
    Option<Arc<shaddock_protocol::Dictionary>>,
    Option<Arc<shaddock_protocol::Protos>>,
    HandshakeCache,
);

/// The received tables, or the cached ones if the server confirms them.
fn agreed(settings: &Settings, sys: AnswerSys) -> Result<Tables, AnswerError> {
    let mut cache = settings.cache.clone();
    let known = cache.dictionary.clone().map(|(_, dictionary)| dictionary);
    let dictionary = match sys.dict {
        Some(dict) => {
            let dictionary = Arc::new(dictionary(&dict)?);
            cache.dictionary = sys
                .dict_version
                .map(|version| (version.into(), dictionary.clone()));
            Some(dictionary)
        }
        None => known.filter(|_| sys.use_dict),
    };
    let known = cache.protos.clone().map(|(_, protos)| protos);
    let protos = match sys.protos {
        Some(text) => {
            let (version, protos) = protos(text)?;
            cache.protos = (!version.is_empty()).then(|| (version, protos.clone()));
            Some(protos)
        }
        None => known.filter(|_| sys.use_proto),
    };
    Ok((dictionary, protos, cache))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientBuilder;
    use proptest::prelude::*;
    use shaddock_protocol::deflate_zlib;

    fn settings() -> Settings {
        ClientBuilder::new().settings
    }

    fn text(settings: &Settings) -> String {
        String::from_utf8(request(settings, None).unwrap()[4..].to_vec()).unwrap()
    }

    #[test]
    fn handshakes_of_clients() {
        let mut settings = ClientBuilder::new().client("rust", "1.2.3").settings;
        assert_eq!(
            text(&settings),
            r#"{"sys":{"type":"rust","version":"1.2.3","protoVersion":0,"rsa":{}},"user":{}}"#
        );
        settings.cache =
            HandshakeCache::from_json(r#"{"dict":{},"dictVersion":"d","protos":{"version":"p"}}"#)
                .unwrap();
        settings.user = serde_json::json!({"token": "t"});
        assert_eq!(
            text(&settings),
            r#"{"sys":{"type":"rust","version":"1.2.3","dictVersion":"d","protoVersion":"p","rsa":{}},"user":{"token":"t"}}"#
        );
        settings.dialect = Dialect::Pitaya;
        assert_eq!(
            text(&settings),
            concat!(
                r#"{"sys":{"platform":"rust","libVersion":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","clientBuildNumber":"1","clientVersion":"1.2.3"},"user":{"token":"t"}}"#
            )
        );
    }

    #[test]
    fn the_answers_of_the_original_are_understood() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/handshake.json"
        );
        let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let Some(response) = case["response"].as_str() else {
                continue;
            };
            let expected: Value = serde_json::from_str(response).unwrap();
            match answer(&settings(), response.as_bytes()) {
                Ok(agreed) => {
                    assert_eq!(expected["code"], 200);
                    let dict = expected["sys"]["dict"].as_object();
                    let codes = agreed.wire.dictionary.as_ref().map(|d| d.len());
                    assert_eq!(codes, dict.map(Map::len), "{response}");
                    assert_eq!(
                        agreed.wire.protos.is_some(),
                        expected["sys"].get("protos").is_some()
                    );
                    assert_eq!(
                        agreed.heartbeat.map(|h| h.as_secs_f64()),
                        expected["sys"]["heartbeat"].as_f64()
                    );
                }
                Err(ConnectError::Refused { code }) => assert_eq!(expected["code"], code),
                Err(error) => panic!("{error}: {response}"),
            }
        }
    }

    #[test]
    fn compressed_answers_and_bombs() {
        let mut settings = settings();
        settings.dialect = Dialect::Pitaya;
        let body =
            br#"{"code":200,"sys":{"dict":{"a.b":7},"heartbeat":30,"serializer":"protobuf"}}"#;
        let agreed = answer(&settings, &deflate_zlib(body)).unwrap();
        assert!(agreed.wire.raw_protobuf);
        assert_eq!(agreed.wire.dictionary.unwrap().code("a.b"), Some(7));
        let bomb = deflate_zlib(&vec![b' '; settings.max_package_size + 1]);
        assert!(matches!(
            answer(&settings, &bomb),
            Err(ConnectError::Answer(AnswerError::Compression(_)))
        ));
    }

    #[test]
    fn a_cache_is_used_only_if_the_server_confirms_it() {
        let mut settings = settings();
        settings.cache =
            HandshakeCache::from_json(r#"{"dict":{"a":1},"dictVersion":"d"}"#).unwrap();
        let with = answer(&settings, br#"{"code":200,"sys":{"useDict":true}}"#).unwrap();
        assert_eq!(with.wire.dictionary.unwrap().code("a"), Some(1));
        let without = answer(&settings, br#"{"code":200,"sys":{}}"#).unwrap();
        assert!(without.wire.dictionary.is_none());
        assert_eq!(without.cache.dictionary_version(), Some("d"));
    }

    proptest! {
        #[test]
        fn any_answer_is_an_answer_or_an_error(body: Vec<u8>) {
            let _ = answer(&settings(), &body);
        }
    }
}
