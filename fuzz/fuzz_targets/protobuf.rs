//! Protobuf: schemas of the vectors, or one of the input; bytes as a body, text as a body.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shaddock_fuzz::{Choices, bounded};
use shaddock_protocol::{JsonError, ProtobufError, Schema, check_json};

static SCHEMAS: LazyLock<Vec<(Schema, Vec<String>)>> = LazyLock::new(|| {
    let pomelo = include_str!("../../tests/vectors/protobuf.json");
    let pinus = include_str!("../../tests/vectors/pinus-protobuf.json");
    let recursive = r#"{"recursive":{
        "message T":{"optional T one":1,"repeated T many":2,"map KV m":3,"repeated double d":4,"optional string s":5,"required bool b":6},
        "message KV":{"required string key":1,"optional T value":2},
        "t":{"optional T one":1,"repeated T many":2,"map KV m":300,"obj KV o":4,"repeated string s":5,"repeated float f":6}}}"#;
    let mut schemas = Vec::new();
    for text in [pomelo, pinus, &format!("{{\"schemas\":{recursive}}}")] {
        let vectors: Value = serde_json::from_str(text).unwrap();
        for schema in vectors["schemas"].as_object().unwrap().values() {
            schemas.push(with_routes(&schema.to_string()).unwrap());
        }
    }
    schemas
});

fn with_routes(text: &str) -> Option<(Schema, Vec<String>)> {
    let schema = Schema::parse(text).ok()?;
    let parsed: Value = serde_json::from_str(schema.json()).unwrap();
    let routes = parsed
        .as_object()
        .unwrap()
        .keys()
        .filter(|route| schema.has(route))
        .cloned()
        .collect();
    assert_eq!(
        Schema::from_parsed(schema.json()).unwrap().json(),
        schema.json()
    );
    Some((schema, routes))
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let own;
    let index = usize::from(choices.byte());
    let (schema, routes) = if let Some(known) = SCHEMAS.get(index) {
        known
    } else {
        let text = String::from_utf8_lossy(choices.long_bytes());
        let _ = Schema::from_parsed(&text);
        let Some(schema) = with_routes(&text) else {
            return;
        };
        own = schema;
        &own
    };
    let longest = schema.json().len();
    for route in routes {
        both_ways(schema, route, choices.0, longest);
    }
});

fn both_ways(schema: &Schema, route: &str, bytes: &[u8], longest: usize) {
    // Text for each byte is at most a label and a value; texts are doubled while they grow, and gathered texts exist twice.
    let limit = 64 * 1024 + 8 * bytes.len() * (longest.min(256) + 32);
    if let Ok(text) = bounded(limit, || schema.decode(route, bytes)) {
        let value: Value = serde_json::from_slice(&text).expect("JSON comes out");
        assert_eq!(schema.decode_value(route, bytes).unwrap(), value);
        if let Ok(again) = schema.encode_value(route, &value) {
            let stable = schema
                .decode(route, &again)
                .expect("what was encoded can be decoded");
            assert_eq!(schema.encode(route, &stable).unwrap(), again);
        }
    }
    match bounded(64 * 1024 + 256 * bytes.len(), || {
        schema.encode(route, bytes)
    }) {
        Ok(encoded) => {
            assert!(!matches!(check_json(bytes), Err(JsonError::Syntax(_))));
            schema
                .decode(route, &encoded)
                .expect("what was encoded can be decoded");
            // Of members that are skipped only the grammar counts: a tree may refuse their numbers and surrogates.
            if let Ok(value) = serde_json::from_slice(bytes) {
                assert_eq!(schema.encode_value(route, &value).unwrap(), encoded);
            }
        }
        Err(ProtobufError::UnknownRoute) => unreachable!(),
        Err(_) => {}
    }
}
