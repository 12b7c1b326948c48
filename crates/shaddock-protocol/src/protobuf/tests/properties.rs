//! Random schemas, values and bytes.

use proptest::collection::vec as vec_of;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Scalar {
    Unsigned,
    Signed,
    Bool,
    Float,
    Double,
    Text,
}

impl Scalar {
    const ALL: [(&'static str, Self); 9] = [
        ("uInt32", Self::Unsigned),
        ("uInt64", Self::Unsigned),
        ("int32", Self::Signed),
        ("sInt32", Self::Signed),
        ("sInt64", Self::Signed),
        ("bool", Self::Bool),
        ("float", Self::Float),
        ("double", Self::Double),
        ("string", Self::Text),
    ];
}

/// A schema and an object that fits, made from a stream of random words. Names and tags are spread over what is allowed.
struct Generator<'a> {
    words: core::iter::Copied<core::slice::Iter<'a, u64>>,
}

impl Generator<'_> {
    /// 0 when the words are used up, which ends everything.
    fn word(&mut self) -> u64 {
        self.words.next().unwrap_or(0)
    }

    fn below(&mut self, n: u64) -> usize {
        usize::try_from(self.word() % n).unwrap()
    }

    /// A message declaration and an object of it.
    fn message(&mut self, depth: usize) -> (Value, Value) {
        let (mut file, mut object) = (Map::new(), Map::new());
        let mut tag = 0;
        for index in 0..self.below(if depth == 0 { 80 } else { 5 }) {
            tag += 1 + [0, 0, 0, 10, 500, 100_000][self.below(6)];
            let name = format!(
                "{}{index}",
                [
                    "a",
                    "é",
                    "\"",
                    "longer name".replace(' ', "_").as_str(),
                    "😀"
                ][self.below(5)]
            );
            self.field(&mut file, &mut object, &name, tag, depth);
        }
        (Value::Object(file), Value::Object(object))
    }

    fn field(
        &mut self,
        file: &mut Map<String, Value>,
        object: &mut Map<String, Value>,
        name: &str,
        tag: u64,
        depth: usize,
    ) {
        let (type_name, scalar) = Scalar::ALL[self.below(9)];
        let nested = format!("M{tag}");
        let value = match self.below(if depth < 4 { 6 } else { 3 }) {
            0 => {
                file.insert(format!("optional {type_name} {name}"), tag.into());
                self.scalar(scalar)
            }
            1 => {
                file.insert(format!("required {type_name} {name}"), tag.into());
                let value = self.scalar(scalar);
                object.insert(name.to_owned(), value);
                return;
            }
            2 => {
                file.insert(format!("repeated {type_name} {name}"), tag.into());
                // An empty array is absent after decoding.
                (0..=self.below(5)).map(|_| self.scalar(scalar)).collect()
            }
            3 => {
                let (declared, value) = self.message(depth + 1);
                file.insert(format!("optional {nested} {name}"), tag.into());
                file.insert(format!("message {nested}"), declared);
                value
            }
            4 => {
                let (declared, value) = self.message(depth + 1);
                file.insert(format!("message {nested}"), declared);
                file.insert(format!("repeated {nested} {name}"), tag.into());
                (0..=self.below(3)).map(|_| value.clone()).collect()
            }
            _ => {
                file.insert(format!("map {nested} {name}"), tag.into());
                file.insert(
                    format!("message {nested}"),
                    json!({"required sInt32 key": 1, format!("optional {type_name} value"): 2}),
                );
                let count = i64::try_from(self.below(4)).unwrap();
                Value::Object(
                    (0..count)
                        .map(|i| (format!("{}", i - 2), self.scalar(scalar)))
                        .collect(),
                )
            }
        };
        if self.below(4) > 0 {
            object.insert(name.to_owned(), value);
        }
    }

    /// A value in the form that decoding gives.
    fn scalar(&mut self, scalar: Scalar) -> Value {
        let shift = self.below(64);
        let n = self.word() >> shift;
        let float = |x: f64| {
            let mut out = vec![];
            json::put_float(&mut out, if x.is_finite() { x } else { 1.5 });
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        match scalar {
            Scalar::Unsigned => json!(n),
            Scalar::Signed => json!(n.cast_signed()),
            Scalar::Bool => json!(n & 1 == 1),
            Scalar::Float => float(f32::from_bits(u32::try_from(n >> 32).unwrap()).into()),
            Scalar::Double => float(f64::from_bits(n)),
            Scalar::Text => json!(
                [
                    "",
                    "x",
                    "\u{0}\u{1f}\"\\",
                    "中文",
                    "😀\u{7f}",
                    &"long".repeat(40)
                ][usize::try_from(n % 6).unwrap()]
            ),
        }
    }
}

/// The longest name of a schema as JSON text, with its colon.
fn longest_label(file: &Value) -> usize {
    match file {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let name = name.rsplit(' ').next().unwrap_or_default();
                longest_label(value).max(json!(name).to_string().len() + 1)
            })
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(words in vec_of(any::<u64>(), 0..400)) {
        let (file, object) = Generator { words: words.iter().copied() }.message(0);
        let schema = schema(&json!({"t": file}));
        let source = javascript_text(&object);
        let bytes = schema.encode("t", source.as_bytes()).unwrap();
        // The first byte distinguishes it from JSON.
        prop_assert!(!matches!(bytes.first(), Some(b'{' | b'[')), "{}", source);
        prop_assert_eq!(&schema.encode_value("t", &object).unwrap(), &bytes);
        prop_assert_eq!(&schema.decode_both("t", &bytes).unwrap(), &source);
        let parsed = Schema::from_parsed(schema.json()).unwrap();
        prop_assert_eq!(parsed.json(), schema.json());
        prop_assert_eq!(parsed.encode("t", source.as_bytes()).unwrap(), bytes);
    }

    /// Cut short, twice, damaged: an error, or the same text both ways, valid and bounded.
    #[test]
    fn damaged_bodies_are_taken(
        words in vec_of(any::<u64>(), 0..200),
        cut: prop::sample::Index,
        flips in vec_of((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        twice: bool,
    ) {
        let (file, object) = Generator { words: words.iter().copied() }.message(0);
        let longest = longest_label(&file);
        let schema = schema(&json!({"t": file}));
        let mut bytes = schema.encode_value("t", &object).unwrap();
        if twice {
            let copy = bytes.clone();
            bytes.extend_from_slice(&copy);
            let once = schema.decode_both("t", &copy).unwrap();
            let text = schema.decode_both("t", &bytes).unwrap();
            // Singles are the same, lists are longer.
            prop_assert!(text.len() >= once.len());
        }
        for (at, flip) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
        if let Ok(text) = schema.decode_both("t", &bytes) {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            prop_assert!(text.len() <= 2 + bytes.len() * (longest + 8), "{} from {}", text.len(), bytes.len());
        }
    }

    #[test]
    fn any_bytes_are_taken(bytes in vec_of(prop_oneof![Just(0x0a), 0..0x60u8, any::<u8>()], 0..200)) {
        let schema = schema(&json!({
            "message T": {"repeated T t": 1, "optional uInt32 u": 2, "repeated sInt32 s": 3, "optional string str": 4,
                "repeated float f": 5, "repeated double d": 6, "map KV m": 7, "repeated bool b": 8, "repeated string strs": 9, "optional T one": 10},
            "message KV": {"optional string key": 1, "optional T value": 2},
            "t": {"repeated T t": 1, "optional uInt32 u": 2, "repeated double d": 3, "optional T one": 4, "map KV m": 5},
        }));
        if let Ok(text) = schema.decode_both("t", &bytes) {
            let value: Value = serde_json::from_str(&text).unwrap();
            // A decoded message can be encoded and is then the same, except for numbers that JSON does not have.
            if let Ok(again) = schema.encode_value("t", &value) {
                prop_assert_eq!(schema.decode_value("t", &again).unwrap().to_string(), without_empty_lists(value).to_string());
            }
        }
    }

    #[test]
    fn any_schema_text_is_taken(text in "[{}\":, a-cM_0-3\\[\\]]{0,60}", words in vec_of(0..12usize, 0..30)) {
        let _ = Schema::parse(&text);
        let _ = Schema::from_parsed(&text);
        let pieces = ["{", "}", "\"t\":", "\"message M\":", "\"optional M m\":", "\"map M m\":", "\"required string key\":", "\"repeated uInt32 value\":", "1", "2", ",", "5e9"];
        let text: String = words.iter().map(|at| pieces[*at]).collect();
        let _ = Schema::parse(&text);
    }
}

/// A list that was sent with a count of 0 is not sent again.
fn without_empty_lists(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty()))
            .map(|(name, value)| (name, without_empty_lists(value)))
            .collect(),
        Value::Array(elements) => elements.into_iter().map(without_empty_lists).collect(),
        other => other,
    }
}

/// Every kind of field with every number that a key of one or two bytes holds.
#[test]
fn no_encoding_begins_as_json_does() {
    for tag in (1..200).chain([2047, 2048, 1 << 20]) {
        let mut kinds: Vec<(String, Value)> = Vec::new();
        for (type_name, value) in [
            ("uInt32", json!(1)),
            ("int32", json!(-1)),
            ("sInt64", json!(-1)),
            ("bool", json!(true)),
            ("float", json!(1.5)),
            ("double", json!(1.5)),
            ("string", json!("{")),
            ("M", json!({"a": 1})),
        ] {
            kinds.push((format!("optional {type_name} x"), value.clone()));
            kinds.push((format!("repeated {type_name} x"), json!([value])));
        }
        kinds.push(("map KV x".to_owned(), json!({"1": "["})));
        for (field, value) in kinds {
            let schema = schema(&json!({
                "message M": {"optional uInt32 a": 1},
                "message KV": {"required sInt32 key": 1, "optional string value": 2},
                "t": {field.clone(): tag},
            }));
            let bytes = schema.encode_value("t", &json!({"x": value})).unwrap();
            assert!(
                !matches!(bytes.first(), None | Some(b'{' | b'[')),
                "{field} = {tag}"
            );
        }
    }
}
