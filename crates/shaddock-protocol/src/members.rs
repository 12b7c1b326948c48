//! The members of a JSON object as slices of its text, for reading without building a tree.

use alloc::borrow::Cow;
use core::ops::Range;

/// Iterates over the members of a JSON object, in order. Yields none if the text is not an object; if it is not JSON, iteration ends early,
/// but does not fail.
pub(crate) struct Members<'a> {
    json: &'a str,
    scanner: Scanner<'a>,
    comma_before: Option<usize>,
    is_over: bool,
}

/// A member. All positions are bytes of the object's text.
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    /// Start of the name.
    pub(crate) at: usize,
    /// The text of the value, and its position.
    pub(crate) value: &'a str,
    pub(crate) value_at: Range<usize>,
    pub(crate) comma_before: Option<usize>,
    pub(crate) comma_after: Option<usize>,
}

impl<'a> Members<'a> {
    /// Creates an iterator over `json`, which must be valid JSON.
    pub(crate) fn of(json: &'a str) -> Self {
        let mut scanner = Scanner {
            text: json.as_bytes(),
            at: 0,
        };
        let is_object = scanner.peek() == Some(b'{');
        scanner.at += 1;
        Self {
            json,
            is_over: !is_object || scanner.peek() == Some(b'}'),
            scanner,
            comma_before: None,
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        if self.is_over {
            return None;
        }
        let scanner = &mut self.scanner;
        scanner.peek();
        let name = scanner.value();
        scanner.peek();
        scanner.at += 1;
        scanner.peek();
        let value_at = scanner.value();
        let comma_after = (scanner.peek() == Some(b',')).then_some(scanner.at);
        scanner.at += 1;
        self.is_over = comma_after.is_none();
        let comma_before = core::mem::replace(&mut self.comma_before, comma_after);
        Some(Member {
            at: name.start,
            name: string(self.json.get(name)?)?,
            value: self.json.get(value_at.clone())?,
            value_at,
            comma_before,
            comma_after,
        })
    }
}

/// The value of a JSON string, if it is one.
pub(crate) fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Iterates over the values of JSON text. On other input it ends early, but does not fail.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// The next byte that is not whitespace.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self) -> Range<usize> {
        let start = self.at.min(self.text.len());
        let mut depth = 0usize;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => break,
                _ => self.at += 1,
            }
            if depth == 0 && matches!(byte, b'"' | b'}' | b']') {
                break;
            }
        }
        start..self.at.min(self.text.len()).max(start)
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString as _};
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(json: &str) -> Vec<(&str, &str)> {
        Members::of(json)
            .map(|member| {
                let Cow::Borrowed(name) = member.name else {
                    panic!("{json}")
                };
                (name, member.value)
            })
            .collect()
    }

    #[test]
    fn members_are_slices_in_order() {
        assert_eq!(read("{}"), []);
        assert_eq!(read(" { } "), []);
        assert_eq!(read("[1,2]"), []);
        assert_eq!(
            read(" {\"a\" : [1,{\"b\":2}] ,\n\"c\":\"x,\\\"}\",\"a\":-1.5e3 , \"d\":null} "),
            [
                ("a", "[1,{\"b\":2}]"),
                ("c", "\"x,\\\"}\""),
                ("a", "-1.5e3"),
                ("d", "null")
            ]
        );
        let escaped = Members::of(r#"{"\u0061\"":1}"#).next().unwrap();
        assert_eq!(escaped.name, "a\"");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\"\\\\{},:\\[\\] \u{e9}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"\\\\{},:]{0,4}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The members are those of the tree.
        #[test]
        fn members_are_those_of_a_tree(value in values(), is_pretty: bool) {
            let json = if is_pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let found: Vec<_> = Members::of(&json)
                .map(|member| {
                    assert_eq!(&json[member.value_at], member.value);
                    (member.name.to_string(), serde_json::from_str(member.value).unwrap())
                })
                .collect();
            let wanted: Vec<(_, Value)> = match value {
                Value::Object(map) => map.into_iter().collect(),
                _ => Vec::new(),
            };
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn any_text_is_taken(text: String) {
            prop_assert!(Members::of(&text).count() <= text.len() + 1);
        }
    }
}
