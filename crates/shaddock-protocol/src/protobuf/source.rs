//! Schemas in text form: a file written by people, and the parsed form of a handshake.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use alloc::{boxed::Box, collections::BTreeMap};

use serde_json::{Map, Value};

use super::SchemaError;

const MAX_TAG: u32 = (1 << 29) - 1;
const MESSAGES: &str = "__messages";
const TAGS: &str = "__tags";

/// How often a field occurs, or how its entries are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Required,
    Optional,
    Repeated,
    Map,
    Obj,
}

impl Label {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "required" => Self::Required,
            "optional" => Self::Optional,
            "repeated" => Self::Repeated,
            "map" => Self::Map,
            "obj" => Self::Obj,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Repeated => "repeated",
            Self::Map => "map",
            Self::Obj => "obj",
        }
    }
}

pub(super) struct SourceField {
    pub(super) name: String,
    pub(super) label: Label,
    pub(super) type_name: String,
    pub(super) tag: u32,
}

/// One message. Types are still names.
#[derive(Default)]
pub(super) struct SourceMessage {
    pub(super) fields: Vec<SourceField>,
    pub(super) messages: Vec<(String, SourceMessage)>,
    /// The field of each tag. Two tags can belong to the same field: the later entry of a name replaces the earlier one, but not its tag.
    pub(super) tags: BTreeMap<u32, String>,
}

/// All routes and root messages, in file order.
pub(super) fn parse_file(text: &str) -> Result<Vec<(String, SourceMessage)>, SchemaError> {
    parse_members(text, parse_message)
}

/// The same for the parsed form.
pub(super) fn parse_parsed(text: &str) -> Result<Vec<(String, SourceMessage)>, SchemaError> {
    parse_members(text, parse_parsed_message)
}

type ParseMessage = fn(&str, &Map<String, Value>) -> Result<SourceMessage, SchemaError>;

fn parse_members(
    text: &str,
    parse: ParseMessage,
) -> Result<Vec<(String, SourceMessage)>, SchemaError> {
    let file: Value = serde_json::from_str(text).map_err(|e| SchemaError::Json {
        line: e.line(),
        column: e.column(),
    })?;
    let Value::Object(file) = file else {
        return Err(SchemaError::NotAnObject {
            name: Box::default(),
        });
    };
    file.iter()
        .map(|(name, value)| Ok((name.clone(), parse(name, object(name, value)?)?)))
        .collect()
}

fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, SchemaError> {
    value
        .as_object()
        .ok_or_else(|| SchemaError::NotAnObject { name: name.into() })
}

fn parse_message(name: &str, entries: &Map<String, Value>) -> Result<SourceMessage, SchemaError> {
    let mut message = SourceMessage::default();
    for (entry, value) in entries {
        let mut words = entry.split(' ');
        match [words.next(), words.next(), words.next(), words.next()] {
            [Some("message"), Some(nested), None, None] => {
                message.messages.push((
                    nested.to_owned(),
                    parse_message(nested, object(nested, value)?)?,
                ));
            }
            [Some(label), Some(type_name), Some(field), None] => {
                // Unknown entries are skipped, as in the original.
                let Some(label) = Label::parse(label) else {
                    continue;
                };
                let tag = tag(name, entry, value)?;
                message.add(
                    name,
                    SourceField {
                        name: field.to_owned(),
                        label,
                        type_name: type_name.to_owned(),
                        tag,
                    },
                )?;
            }
            _ => {}
        }
    }
    Ok(message)
}

fn tag(message: &str, entry: &str, value: &Value) -> Result<u32, SchemaError> {
    let tag = value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n <= MAX_TAG);
    tag.ok_or_else(|| SchemaError::BadTag {
        message: message.into(),
        entry: entry.into(),
    })
}

fn parse_parsed_message(
    name: &str,
    members: &Map<String, Value>,
) -> Result<SourceMessage, SchemaError> {
    let bad = |entry: &str| SchemaError::NotParsedForm {
        message: name.into(),
        entry: entry.into(),
    };
    let mut message = SourceMessage::default();
    for (member, value) in members.iter().filter(|(member, _)| *member != TAGS) {
        let value = object(member, value)?;
        if member == MESSAGES {
            for (nested, value) in value {
                message.messages.push((
                    nested.clone(),
                    parse_parsed_message(nested, object(nested, value)?)?,
                ));
            }
            continue;
        }
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| bad(member))
        };
        let label = Label::parse(text("option")?).ok_or_else(|| bad(member))?;
        let type_name = text("type")?.to_owned();
        let tag = tag(name, member, value.get("tag").unwrap_or(&Value::Null))?;
        message.fields.push(SourceField {
            name: member.clone(),
            label,
            type_name,
            tag,
        });
    }
    let tags = members
        .get(TAGS)
        .and_then(Value::as_object)
        .ok_or_else(|| bad(TAGS))?;
    for (tag, field) in tags {
        let number = tag
            .parse()
            .ok()
            .filter(|n| *n <= MAX_TAG)
            .ok_or_else(|| bad(TAGS))?;
        let known = field
            .as_str()
            .filter(|field| members.contains_key(*field))
            .ok_or_else(|| bad(TAGS))?;
        message.tags.insert(number, known.to_owned());
    }
    Ok(message)
}

impl SourceMessage {
    /// Adds a field, unless an earlier one has the same tag.
    fn add(&mut self, message: &str, field: SourceField) -> Result<(), SchemaError> {
        if field.name == MESSAGES || field.name == TAGS {
            return Err(SchemaError::ReservedName {
                message: message.into(),
                field: field.name.into(),
            });
        }
        if self.tags.contains_key(&field.tag) {
            return Ok(());
        }
        self.tags.insert(field.tag, field.name.clone());
        match self
            .fields
            .iter_mut()
            .find(|known| known.name == field.name)
        {
            Some(known) => *known = field,
            None => self.fields.push(field),
        }
        Ok(())
    }
}

/// The parsed form, compact.
pub(super) fn parsed_form(messages: &[(String, SourceMessage)]) -> String {
    parsed_members(messages).to_string()
}

fn parsed_members(messages: &[(String, SourceMessage)]) -> Value {
    javascript_object(
        messages
            .iter()
            .map(|(name, message)| (name.clone(), parsed_message(message)))
            .collect(),
    )
}

fn parsed_message(message: &SourceMessage) -> Value {
    let field = |field: &SourceField| {
        let mut value = Map::new();
        value.insert("option".to_owned(), field.label.name().into());
        value.insert("type".to_owned(), field.type_name.as_str().into());
        value.insert("tag".to_owned(), field.tag.into());
        (field.name.clone(), Value::Object(value))
    };
    let tags = message
        .tags
        .iter()
        .map(|(tag, field)| (tag.to_string(), field.as_str().into()))
        .collect();
    let mut members: Vec<_> = message.fields.iter().map(field).collect();
    members.push((MESSAGES.to_owned(), parsed_members(&message.messages)));
    members.push((TAGS.to_owned(), Value::Object(tags)));
    javascript_object(members)
}

/// In JavaScript members whose names are whole numbers come first, ascending.
fn javascript_object(mut members: Vec<(String, Value)>) -> Value {
    members.sort_by_key(|(name, _)| array_index(name).map_or((true, 0), |n| (false, n)));
    Value::Object(members.into_iter().collect())
}

fn array_index(name: &str) -> Option<u32> {
    let canonical = name == "0" || !name.starts_with(['0', '+']);
    name.parse().ok().filter(|n| canonical && *n < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that JavaScript treats as indices, and therefore sorts first.
    #[test]
    fn indices_are_canonical_and_below_the_largest() {
        for (name, index) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("4294967294", Some(u32::MAX - 1)),
            ("4294967295", None),
            ("4294967296", None),
            ("01", None),
            ("+1", None),
            ("-1", None),
            ("1.0", None),
            ("", None),
            ("a", None),
        ] {
            assert_eq!(array_index(name), index, "{name}");
        }
    }
}
