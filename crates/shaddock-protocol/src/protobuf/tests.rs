//! The vectors, and properties over random schemas and values.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use super::schema::MessageId;
use super::*;

mod properties;

const POMELO: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/vectors/protobuf.json"
));
const PINUS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/vectors/pinus-protobuf.json"
));

fn schema(schema: &Value) -> Schema {
    Schema::parse(&schema.to_string()).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

impl Schema {
    fn id(&self, route: &str) -> MessageId {
        self.route(route).unwrap()
    }

    /// Decodes both ways and expects the same.
    fn decode_both(&self, route: &str, bytes: &[u8]) -> Result<String, ProtobufError> {
        let streamed = self.decode(route, bytes);
        assert_eq!(streamed, self.decode_message(self.id(route), bytes, true));
        streamed.map(text)
    }
}

/// A number that JSON has no text for, as vectors write it.
fn special(value: &Value) -> Option<f64> {
    value
        .get("$number")
        .map(|text| text.as_str().unwrap().parse().unwrap())
}

/// A value of a vector as the internal text has it: what decoding must give.
fn internal(value: &Value) -> Value {
    if let Some(x) = special(value) {
        // As JSON.stringify does.
        return if x.is_finite() { json!(0) } else { Value::Null };
    }
    if let Some(entries) = value.get("$map") {
        let name = |key: &Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        let entry = |entry: &Value| (name(&entry[0]), internal(&entry[1]));
        return entries.as_array().unwrap().iter().map(entry).collect();
    }
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), internal(value)))
            .collect(),
        Value::Array(elements) => elements.iter().map(internal).collect(),
        Value::Number(number) => javascript_number(number),
        other => other.clone(),
    }
}

/// 1.0 is 1 in JavaScript, in files and in text alike; serde_json tells them apart.
fn javascript_number(number: &serde_json::Number) -> Value {
    let mut out = vec![];
    match number.as_f64() {
        Some(x) if !number.is_i64() && !number.is_u64() => json::put_float(&mut out, x),
        _ => return Value::Number(number.clone()),
    }
    serde_json::from_slice(&out).unwrap()
}

/// Encodes an object with one special number in it: text cannot carry it, serde's data model can.
fn encode_special(schema: &Schema, route: &str, name: &str, x: f64) -> Vec<u8> {
    use serde::de::value::MapDeserializer;
    let source: MapDeserializer<'_, _, serde_json::Error> =
        MapDeserializer::new([(name, x)].into_iter());
    schema
        .encode_from(encoder::Strings::Utf8, route, source)
        .unwrap()
}

fn run_cases(vectors: &Value) -> usize {
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let schema = schema(&vectors["schemas"][case["schema"].as_str().unwrap()]);
        let (route, bytes) = (
            case["route"].as_str().unwrap(),
            unhex(case["hex"].as_str().unwrap()),
        );
        let input = &case["input"];
        if case["op"] != "decode" {
            let (field, value) = input.as_object().unwrap().iter().next().unwrap();
            if let Some(x) = special(value) {
                assert_eq!(encode_special(&schema, route, field, x), bytes, "{name}");
            } else {
                let input = internal(input);
                assert_eq!(
                    schema
                        .encode(route, input.to_string().as_bytes())
                        .as_deref(),
                    Ok(&*bytes),
                    "{name}"
                );
                assert_eq!(
                    schema.encode_value(route, &input).as_deref(),
                    Ok(&*bytes),
                    "{name}"
                );
            }
        }
        let expected = internal(case.get("decoded").unwrap_or(input));
        let decoded = schema.decode_both(route, &bytes).unwrap();
        // Text, not values: member order and the look of numbers count.
        assert_eq!(decoded, javascript_text(&expected), "{name}");
        assert_eq!(
            internal(&schema.decode_value(route, &bytes).unwrap()),
            expected,
            "{name}"
        );
    }
    cases.len()
}

/// As JSON.stringify: serde_json writes large numbers in another way.
fn javascript_text(value: &Value) -> String {
    match value {
        Value::Number(number) if !number.is_i64() && !number.is_u64() => {
            let mut out = vec![];
            json::put_float(&mut out, number.as_f64().unwrap());
            text(out)
        }
        Value::Array(elements) => {
            format!(
                "[{}]",
                elements
                    .iter()
                    .map(javascript_text)
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                format!("{}:{}", json!(name), javascript_text(value))
            };
            format!(
                "{{{}}}",
                members.iter().map(member).collect::<Vec<_>>().join(",")
            )
        }
        other => other.to_string(),
    }
}

#[test]
fn pomelo_vectors() {
    let vectors: Value = serde_json::from_str(POMELO).unwrap();
    assert_eq!(run_cases(&vectors), 127);
}

#[test]
fn pinus_vectors() {
    let vectors: Value = serde_json::from_str(PINUS).unwrap();
    assert_eq!(run_cases(&vectors), 13);
}

#[test]
fn parsed_forms_and_versions() {
    for vectors in [POMELO, PINUS] {
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        let parsed = vectors["parsed"].as_object().unwrap();
        assert_eq!(parsed.len(), vectors["schemas"].as_object().unwrap().len());
        for (name, parsed) in parsed {
            let schema = schema(&vectors["schemas"][name]);
            assert_eq!(schema.json(), parsed.as_str().unwrap(), "{name}");
            assert_eq!(
                Schema::from_parsed(schema.json()).unwrap().json(),
                schema.json(),
                "{name}"
            );
        }
        for case in vectors["versions"].as_array().unwrap_or(&vec![]) {
            let side = |side: &str| {
                case[side]
                    .as_str()
                    .map_or_else(Schema::empty, |name| schema(&vectors["schemas"][name]))
            };
            let protos = Protos::new(side("server"), side("client"));
            assert_eq!(protos.version(), case["version"].as_str().unwrap());
            assert_eq!(protos.client_json(), side("client").json());
        }
    }
    assert_eq!(Protos::new(Schema::empty(), Schema::empty()).version(), "");
}

#[test]
fn the_parsed_form_works_as_the_file_does() {
    for vectors in [POMELO, PINUS] {
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let file = schema(&vectors["schemas"][case["schema"].as_str().unwrap()]);
            let parsed = Schema::from_parsed(file.json()).unwrap();
            let (route, bytes) = (
                case["route"].as_str().unwrap(),
                unhex(case["hex"].as_str().unwrap()),
            );
            assert_eq!(parsed.decode(route, &bytes), file.decode(route, &bytes));
        }
    }
}

fn field_error(result: Result<Vec<u8>, ProtobufError>) -> (String, FieldProblem) {
    match result {
        Err(ProtobufError::Field { field, problem }) => (field, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn errors_name_the_field() {
    use FieldProblem::{Missing, Range, Type};
    let schema = schema(&json!({"t": {
        "optional uInt32 u": 1, "optional sInt32 s": 2, "optional double d": 3, "optional string str": 4,
        "repeated uInt32 us": 5, "repeated string strs": 6, "optional M m": 7, "repeated M ms": 8, "optional bool b": 9,
        "map KV map": 10, "message KV": {"required sInt32 key": 1, "required M value": 2},
        "message M": {"required uInt32 x": 1, "optional N n": 2, "message N": {"required float f": 1}},
    }}));
    let number = Type {
        expected: "a whole number",
    };
    for (body, field, problem) in [
        (json!({"u": -1}), "u", Range),
        (json!({"u": -1.5}), "u", Range),
        (json!({"u": null}), "u", number),
        (json!({"u": true}), "u", number),
        (json!({"u": "x"}), "u", number),
        (json!({"u": ""}), "u", number),
        (json!({"u": "12x"}), "u", number),
        (json!({"u": "NaN"}), "u", number),
        (json!({"u": 1e20}), "u", Range),
        (json!({"u": [1]}), "u", number),
        (json!({"u": {}}), "u", number),
        (json!({"s": 1e19}), "s", Range),
        (json!({"s": u64::MAX}), "s", Range),
        (
            json!({"d": "x"}),
            "d",
            Type {
                expected: "a number",
            },
        ),
        (
            json!({"d": "inf"}),
            "d",
            Type {
                expected: "a number",
            },
        ),
        (
            json!({"d": null}),
            "d",
            Type {
                expected: "a number",
            },
        ),
        (
            json!({"str": 5}),
            "str",
            Type {
                expected: "a string",
            },
        ),
        (
            json!({"str": null}),
            "str",
            Type {
                expected: "a string",
            },
        ),
        (
            json!({"b": "true"}),
            "b",
            Type {
                expected: "true or false",
            },
        ),
        (
            json!({"us": 1}),
            "us",
            Type {
                expected: "an array",
            },
        ),
        (
            json!({"us": "12"}),
            "us",
            Type {
                expected: "an array",
            },
        ),
        (json!({"us": [1, null]}), "us", number),
        (
            json!({"strs": ["a", 1]}),
            "strs",
            Type {
                expected: "a string",
            },
        ),
        (
            json!({"m": null}),
            "m",
            Type {
                expected: "an object",
            },
        ),
        (
            json!({"m": [1]}),
            "m",
            Type {
                expected: "an object",
            },
        ),
        (json!({"m": {}}), "m.x", Missing),
        (json!({"m": {"x": 1, "n": {}}}), "m.n.f", Missing),
        (
            json!({"m": {"x": 1, "n": {"f": "y"}}}),
            "m.n.f",
            Type {
                expected: "a number",
            },
        ),
        (json!({"ms": [{"x": 1}, {"x": -1}]}), "ms.x", Range),
        (
            json!({"map": [[1, {"x": 1}]]}),
            "map",
            Type {
                expected: "an object",
            },
        ),
        (json!({"map": {"a": {"x": 1}}}), "map", number),
        (json!({"map": {"1": {}}}), "map.x", Missing),
    ] {
        assert_eq!(
            field_error(schema.encode_value("t", &body)),
            (field.to_owned(), problem),
            "{body}"
        );
        assert_eq!(
            field_error(schema.encode("t", body.to_string().as_bytes())),
            (field.to_owned(), problem),
            "{body}"
        );
    }
    assert_eq!(
        schema
            .encode("t", br#"{"m":{"x":"y"}}"#)
            .unwrap_err()
            .to_string(),
        "field `m.x`: must be a whole number"
    );
}

#[test]
fn bodies_that_are_no_objects() {
    let schema = schema(&json!({"t": {"optional uInt32 u": 1}}));
    for body in ["null", "5", "\"u\"", "[]", "true", "1.5"] {
        assert_eq!(
            schema.encode("t", body.as_bytes()),
            Err(ProtobufError::NotAnObject),
            "{body}"
        );
    }
    for body in [
        "",
        "{",
        "{\"u\":1}x",
        "{\"u\":}",
        "{\"u\":1e999}",
        "{\"x\":[1,}",
        "{\"u\":1,}",
    ] {
        assert!(
            matches!(
                schema.encode("t", body.as_bytes()),
                Err(ProtobufError::Json { .. })
            ),
            "{body}"
        );
    }
    for body in [&b"{\"u\":1,\"x\":\"\xff\"}"[..], b"{\"\xff\":1}"] {
        assert_eq!(schema.encode("t", body), Err(ProtobufError::NotUtf8));
    }
    assert_eq!(schema.encode("t", b"{}").as_deref(), Ok(&b""[..]));
    assert_eq!(
        schema.encode("t", b"{\"x\":[[{}]]}").as_deref(),
        Ok(&b""[..])
    );
    assert_eq!(
        schema.encode("other", b"{}"),
        Err(ProtobufError::UnknownRoute)
    );
    assert_eq!(
        schema.decode("other", b""),
        Err(ProtobufError::UnknownRoute)
    );
}

#[test]
fn a_member_that_comes_twice_is_written_once() {
    let schema = schema(
        &json!({"t": {"optional uInt32 a": 1, "repeated uInt32 b": 2, "optional T n": 3}, "message T": {"optional uInt32 x": 1}}),
    );
    assert_eq!(
        schema
            .encode("t", br#"{"a":1,"b":[1],"a":2,"b":[3]}"#)
            .unwrap(),
        b"\x08\x02\x10\x01\x03"
    );
    assert_eq!(
        schema.encode("t", br#"{"n":{"x":1,"x":2}}"#).unwrap(),
        b"\x1a\x02\x08\x02"
    );
    // The first value is not looked at.
    assert_eq!(
        schema
            .encode("t", br#"{"z":1,"a":1,"a":2,"z":[]}"#)
            .unwrap(),
        b"\x08\x02"
    );
}

#[test]
fn null_in_place_of_an_array_or_map_is_absent() {
    let schema = schema(&json!({"t": {
        "repeated uInt32 a": 1, "repeated string b": 2, "map KV m": 3, "obj KV o": 4,
        "message KV": {"required string key": 1, "required uInt32 value": 2},
    }}));
    assert_eq!(
        schema
            .encode("t", br#"{"a":null,"b":null,"m":null,"o":null}"#)
            .unwrap(),
        b""
    );
    assert_eq!(
        schema
            .encode("t", br#"{"a":[],"b":[],"m":{},"o":{}}"#)
            .unwrap(),
        b"\x1a\x00"
    );
}

#[test]
fn keys_of_maps_are_names_in_json() {
    let schema = schema(&hoist(json!({"t": {
        "map I i": 1, "message I": {"required sInt32 key": 1, "required uInt32 value": 2},
        "map B b": 2, "message B": {"required bool key": 1, "required string value": 2},
        "map S s": 3, "message S": {"required string key": 1, "optional S2 value": 2},
        "message S2": {"map S deep": 1}, "optional uInt32 last": 4,
    }})));
    let body = r#"{"i":{"-5":1,"7":2},"b":{"true":"x","false":"y"},"s":{"a":{"deep":{"":{}}},"\"":{}},"last":1}"#;
    let bytes = schema.encode("t", body.as_bytes()).unwrap();
    assert_eq!(schema.decode_both("t", &bytes).as_deref(), Ok(body));
    let (field, _) = field_error(schema.encode("t", br#"{"b":{"yes":"x"}}"#));
    assert_eq!(field, "b");
}

/// Root messages can be used from everywhere, also from one another.
fn hoist(mut file: Value) -> Value {
    let route = file["t"].as_object_mut().unwrap();
    let names: Vec<_> = route
        .keys()
        .filter(|name| name.starts_with("message "))
        .cloned()
        .collect();
    let moved: Map<_, _> = names
        .into_iter()
        .map(|name| (name.clone(), route.remove(&name).unwrap()))
        .collect();
    file.as_object_mut().unwrap().extend(moved);
    file
}

#[test]
fn malformed_bytes() {
    use ProtobufError::{Truncated, UnknownTag, VarintTooLong};
    let vectors: Value = serde_json::from_str(POMELO).unwrap();
    for (name, hex, error) in [
        ("scalars", "7801", UnknownTag(15)),
        ("scalars", "00", UnknownTag(0)),
        ("scalars", "f8ffffff7f01", UnknownTag(0xffff_ffff)),
        (
            "scalars",
            "f8ffffffffffffffff0101",
            UnknownTag(0x1fff_ffff_ffff_ffff),
        ),
        ("scalars", "0880", Truncated),
        ("scalars", "08", Truncated),
        ("scalars", "290000", Truncated),
        ("scalars", "2500", Truncated),
        ("scalars", "3205616263", Truncated),
        ("scalars", "32ffffffffffffffffff01", Truncated),
        ("scalars", "08ffffffffffffffffffff01", VarintTooLong),
        ("scalars", "08ffffffffffffffffff02", VarintTooLong),
        ("repeated", "080501", Truncated),
        ("repeated", "08ffffffff0f", Truncated),
        ("repeated", "250300000000000000000000000000", UnknownTag(0)),
        ("repeated", "2504000000000000000000000000", Truncated),
        ("repeated", "290200000000000000000000000000", Truncated),
        ("nested", "0a050801", Truncated),
        ("nested", "0a0108011809", Truncated),
        ("nested", "0a027801", UnknownTag(15)),
    ] {
        let schema = schema(&vectors["schemas"][name]);
        assert_eq!(
            schema.decode_both("t", &unhex(hex)),
            Err(error),
            "{name} {hex}"
        );
    }
}

#[test]
fn strings_of_browsers_are_repaired() {
    let schema = schema(
        &json!({"t": {"optional string s": 1, "map KV m": 2, "message KV": {"optional string key": 1, "optional string value": 2}}}),
    );
    for (hex, expected) in [
        ("0a06eda0bdedb880", "{\"s\":\"😀\"}"),
        ("0a03ff8061", "{\"s\":\"\u{fffd}\u{fffd}a\"}"),
        ("0a03eda0bd", "{\"s\":\"\u{fffd}\"}"),
        ("120101ff01ff", "{\"m\":{\"\u{fffd}\":\"\u{fffd}\"}}"),
    ] {
        assert_eq!(
            schema.decode_both("t", &unhex(hex)).as_deref(),
            Ok(expected),
            "{hex}"
        );
    }
}

#[test]
fn nesting_is_limited_both_ways() {
    let schema = schema(
        &json!({"message T": {"optional T t": 1, "repeated T ts": 2}, "t": {"optional T t": 1, "repeated T ts": 2}}),
    );
    for member in ["t", "ts"] {
        for (levels, fits) in [(MAX_DEPTH - 1, true), (MAX_DEPTH, false), (60, false)] {
            let mut body = json!({});
            let mut bytes = vec![];
            for _ in 0..levels {
                body = if member == "t" {
                    json!({"t": body})
                } else {
                    json!({"ts": [body]})
                };
                let mut outer = vec![if member == "t" { 0x0a } else { 0x12 }];
                wire::put_varint(&mut outer, bytes.len() as u64);
                outer.append(&mut bytes);
                bytes = outer;
            }
            let encoded = schema.encode("t", body.to_string().as_bytes());
            assert_eq!(schema.encode_value("t", &body), encoded);
            let decoded = schema.decode_both("t", &bytes);
            if fits {
                assert_eq!(encoded.as_ref(), Ok(&bytes));
                assert_eq!(decoded, Ok(body.to_string()));
            } else {
                assert_eq!(encoded, Err(ProtobufError::TooDeep));
                assert_eq!(decoded, Err(ProtobufError::TooDeep));
            }
        }
    }
}

#[test]
fn large_messages_take_long_lengths() {
    let schema = schema(
        &json!({"t": {"optional M m": 1, "repeated double d": 2, "message M": {"optional string s": 1, "repeated uInt32 u": 2}}}),
    );
    for len in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
        let body =
            json!({"m": {"s": "x".repeat(len), "u": vec![1; len + 1]}, "d": vec![0.5; len + 1]})
                .to_string();
        let bytes = schema.encode("t", body.as_bytes()).unwrap();
        assert!(schema.decode_both("t", &bytes).unwrap() == body, "{len}");
    }
}

#[test]
fn a_name_may_have_two_tags() {
    // The later entry replaces the earlier one, but not its tag.
    let schema = Schema::parse(
        r#"{"t":{"optional uInt32 a":1,"optional string a":2,"optional uInt32 7":3}}"#,
    )
    .unwrap();
    assert_eq!(
        schema.json(),
        r#"{"t":{"7":{"option":"optional","type":"uInt32","tag":3},"a":{"option":"optional","type":"string","tag":2},"__messages":{},"__tags":{"1":"a","2":"a","3":"7"}}}"#
    );
    assert_eq!(schema.encode("t", br#"{"a":"x"}"#).unwrap(), b"\x12\x01x");
    assert_eq!(
        schema.decode_both("t", b"\x0a\x01y").as_deref(),
        Ok(r#"{"a":"y"}"#)
    );
    assert_eq!(
        Schema::from_parsed(schema.json()).unwrap().json(),
        schema.json()
    );
}

#[test]
fn schemas_that_cannot_be_used() {
    for (file, message) in [
        ("", "the schema is not JSON: line 1, column 0"),
        ("[]", "`` must be an object"),
        (r#"{"t":5}"#, "`t` must be an object"),
        (r#"{"t":{"message M":5}}"#, "`M` must be an object"),
        (
            r#"{"t":{"optional uInt32 a":-1}}"#,
            "`optional uInt32 a` in `t`: the tag must be a whole number from 0 to 536870911",
        ),
        (
            r#"{"t":{"optional uInt32 a":"1"}}"#,
            "`optional uInt32 a` in `t`: the tag must be a whole number from 0 to 536870911",
        ),
        (
            r#"{"t":{"optional uInt32 a":536870912}}"#,
            "`optional uInt32 a` in `t`: the tag must be a whole number from 0 to 536870911",
        ),
        (
            r#"{"t":{"optional Bool a":1}}"#,
            "field `a` of `t`: unknown type `Bool`",
        ),
        (
            r#"{"t":{"message A":{"message B":{"optional A a":1}}}}"#,
            "field `a` of `B`: unknown type `A`",
        ),
        (
            r#"{"t":{"map string m":1}}"#,
            "field `m` of `t`: a map needs a message with the single fields `key` and `value`",
        ),
        (
            r#"{"t":{"map M m":1,"message M":{"required string key":1}}}"#,
            "field `m` of `t`: a map needs a message with the single fields `key` and `value`",
        ),
        (
            r#"{"t":{"obj M m":1,"message M":{"required float key":1,"required float value":2}}}"#,
            "field `m` of `t`: a map needs a message with the single fields `key` and `value`",
        ),
        (
            r#"{"t":{"obj M m":1,"message M":{"required string key":1,"repeated float value":2}}}"#,
            "field `m` of `t`: a map needs a message with the single fields `key` and `value`",
        ),
        (
            r#"{"t":{"optional uInt32 __tags":1}}"#,
            "field `__tags` of `t`: the name is taken by the format",
        ),
    ] {
        assert_eq!(
            Schema::parse(file).unwrap_err().to_string(),
            message,
            "{file}"
        );
    }
    assert!(Schema::parse(r#"{"t":{"optional uInt32 a":536870911}}"#).is_ok());
    for parsed in [
        r#"{"t":{}}"#,
        r#"{"t":{"a":{"option":"optional","type":"uInt32"},"__messages":{},"__tags":{}}}"#,
        r#"{"t":{"a":{"option":"any","type":"uInt32","tag":1},"__messages":{},"__tags":{"1":"a"}}}"#,
        r#"{"t":{"a":{"option":"optional","type":"uInt32","tag":1},"__messages":{},"__tags":{"1":"b"}}}"#,
        r#"{"t":{"a":{"option":"optional","type":"uInt32","tag":1},"__messages":{},"__tags":{"x":"a"}}}"#,
        r#"{"t":{"a":5,"__messages":{},"__tags":{}}}"#,
    ] {
        assert!(Schema::from_parsed(parsed).is_err(), "{parsed}");
    }
}

#[test]
fn messages_may_have_many_fields() {
    let label = |n: u32| {
        if n.is_multiple_of(3) {
            "required"
        } else {
            "optional"
        }
    };
    let file: Map<_, _> = (0..150)
        .map(|n| (format!("{} uInt32 f{n}", label(n)), n.into()))
        .collect();
    let schema = schema(&json!({"t": file}));
    let body: Map<_, _> = (0..150).map(|n| (format!("f{n}"), n.into())).collect();
    for missing in 0..150u32 {
        let mut body = body.clone();
        let name = format!("f{missing}");
        body.shift_remove(&name);
        let text = Value::Object(body).to_string();
        match schema.encode("t", text.as_bytes()) {
            Ok(bytes) => {
                assert!(!missing.is_multiple_of(3));
                assert_eq!(schema.decode_both("t", &bytes), Ok(text));
            }
            error => {
                assert!(missing.is_multiple_of(3));
                assert_eq!(field_error(error), (name, FieldProblem::Missing));
            }
        }
    }
}

#[test]
fn root_messages_are_no_routes() {
    let schema =
        Schema::parse(r#"{"message P":{"optional uInt32 a":1},"t":{"optional P p":1}}"#).unwrap();
    assert!(schema.has("t"));
    assert!(!schema.has("message P"));
    assert!(!schema.has("P"));
    assert!(!schema.is_empty());
    assert!(Schema::empty().is_empty());
    assert_eq!(Schema::empty().json(), "{}");
}
