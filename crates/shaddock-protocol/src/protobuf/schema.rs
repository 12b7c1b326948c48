//! A schema in the form that encoding and decoding use: messages and fields are numbers.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{borrow::ToOwned as _, vec};
use core::fmt;

use hashbrown::HashMap;

use super::source::{self, Label, SourceField, SourceMessage};
use super::wire::{DELIMITED, FIXED32, FIXED64, VARINT};
use super::{SchemaError, json};

/// Root messages have keys of this form; all other keys are routes.
const ROOT_MESSAGE: &str = "message ";

/// Messages by route. Cheap to look up, built once at start-up.
#[derive(Clone)]
pub struct Schema {
    json: Box<str>,
    routes: HashMap<Box<str>, MessageId>,
    messages: Vec<MessageDef>,
}

/// Index into the messages of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId(u32);

/// Index into the fields of a message.
pub(super) type FieldIndex = u32;

#[derive(Debug, Clone, Default)]
pub(super) struct MessageDef {
    pub(super) fields: Vec<Field>,
    by_tag: Tags,
    by_name: HashMap<Box<str>, FieldIndex>,
    /// One bit per field, set for the required ones.
    pub(super) required: Box<[u64]>,
}

/// From tag to field. Tags are small as a rule, then this is one look into a table.
#[derive(Debug, Clone)]
enum Tags {
    Table(Vec<Option<FieldIndex>>),
    Sorted(Vec<(u32, FieldIndex)>),
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    /// The name as JSON text, and the colon.
    pub(super) label: Box<[u8]>,
    pub(super) shape: Shape,
    /// What is written before a value: tag and wire type.
    pub(super) key: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Single(Kind),
    /// One key, a count, bare elements.
    Packed(Kind),
    /// A key before each element.
    List(Kind),
    /// One key, a count, bare keys and values.
    Map {
        key: Kind,
        value: Kind,
        write_empty: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unsigned,
    Signed,
    Bool,
    Float,
    Double,
    Text,
    Message(MessageId),
}

impl Schema {
    /// Reads a schema file: one JSON object of routes and root messages. Badly formed keys, and fields whose tag is taken, are
    /// skipped, as Pomelo does.
    ///
    /// # Errors
    /// If the text is not such a file, a tag is no number from 0 to 2^29 - 1, or a type is not declared.
    ///
    /// # Example
    /// ```
    /// use shaddock_protocol::Schema;
    /// let schema = Schema::parse(r#"{"onChat": {"required string from": 1, "repeated uInt32 to": 2}}"#)?;
    /// assert_eq!(schema.encode("onChat", br#"{"from":"a","to":[1,2]}"#).unwrap(), b"\x0a\x01a\x10\x02\x01\x02");
    /// # Ok::<(), shaddock_protocol::SchemaError>(())
    /// ```
    pub fn parse(json_text: &str) -> Result<Self, SchemaError> {
        compile(&source::parse_file(json_text)?)
    }

    /// Reads the parsed form, which a server sends in its handshake (`sys.protos.client` and `.server`).
    ///
    /// # Errors
    /// If the text is not a schema in this form.
    pub fn from_parsed(json_text: &str) -> Result<Self, SchemaError> {
        compile(&source::parse_parsed(json_text)?)
    }

    /// The schema of an application without a file: no route has one.
    pub fn empty() -> Self {
        Self {
            json: "{}".into(),
            routes: HashMap::new(),
            messages: Vec::new(),
        }
    }

    /// Neither routes nor root messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether bodies of this route are protobuf.
    pub fn has(&self, route: &str) -> bool {
        self.routes.contains_key(route)
    }

    /// The parsed form, compact JSON text.
    pub fn json(&self) -> &str {
        &self.json
    }

    pub(super) fn route(&self, route: &str) -> Option<MessageId> {
        self.routes.get(route).copied()
    }

    pub(super) fn message(&self, id: MessageId) -> &MessageDef {
        &self.messages[id.0 as usize]
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("routes", &self.routes.len())
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

impl MessageDef {
    pub(super) fn field_of_tag(&self, tag: u64) -> Option<FieldIndex> {
        match &self.by_tag {
            Tags::Table(table) => table.get(usize::try_from(tag).ok()?).copied().flatten(),
            Tags::Sorted(tags) => {
                let tag = u32::try_from(tag).ok()?;
                tags.binary_search_by_key(&tag, |(tag, _)| *tag)
                    .ok()
                    .map(|at| tags[at].1)
            }
        }
    }

    /// `expected` is a guess: objects mostly have their members in the order of the schema.
    pub(super) fn field_of_name(&self, name: &str, expected: FieldIndex) -> Option<FieldIndex> {
        match self.fields.get(expected as usize) {
            Some(field) if *field.name == *name => Some(expected),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// Words of 64 bits that hold one bit per field.
    pub(super) fn words(&self) -> usize {
        self.required.len()
    }
}

impl Tags {
    fn new(sorted: Vec<(u32, FieldIndex)>) -> Self {
        let Some(&(largest, _)) = sorted.last() else {
            return Self::default();
        };
        let largest = largest as usize;
        if largest > 64 + 4 * sorted.len() {
            return Self::Sorted(sorted);
        }
        let mut table = vec![None; largest + 1];
        for (tag, field) in sorted {
            table[tag as usize] = Some(field);
        }
        Self::Table(table)
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self::Table(Vec::new())
    }
}

impl Kind {
    fn built_in(name: &str) -> Option<Self> {
        Some(match name {
            "uInt32" | "uInt64" => Self::Unsigned,
            "int32" | "sInt32" | "sInt64" => Self::Signed,
            "bool" => Self::Bool,
            "float" => Self::Float,
            "double" => Self::Double,
            "string" => Self::Text,
            _ => return None,
        })
    }

    fn wire_type(self) -> u32 {
        match self {
            Self::Unsigned | Self::Signed | Self::Bool => VARINT,
            Self::Float => FIXED32,
            Self::Double => FIXED64,
            Self::Text | Self::Message(_) => DELIMITED,
        }
    }
}

/// A message on its way from names to numbers: its number is its place in the list.
struct Declared<'a> {
    name: &'a str,
    source: &'a SourceMessage,
    /// Messages declared in it, which only its own fields can use.
    beside: HashMap<&'a str, MessageId>,
}

fn compile(file: &[(String, SourceMessage)]) -> Result<Schema, SchemaError> {
    let mut declared = Vec::new();
    let mut roots = HashMap::new();
    let mut routes = HashMap::new();
    for (name, source) in file {
        let id = declare(name, source, &mut declared);
        match name.strip_prefix(ROOT_MESSAGE) {
            Some(type_name) => roots.insert(type_name, id).map(drop),
            None => routes.insert(name.as_str().into(), id).map(drop),
        };
    }
    let compiler = Compiler {
        declared: &declared,
        roots,
    };
    let messages = declared
        .iter()
        .map(|message| compiler.message(message))
        .collect::<Result<_, _>>()?;
    Ok(Schema {
        json: source::parsed_form(file).into(),
        routes,
        messages,
    })
}

fn declare<'a>(
    name: &'a str,
    source: &'a SourceMessage,
    declared: &mut Vec<Declared<'a>>,
) -> MessageId {
    let at = declared.len();
    declared.push(Declared {
        name,
        source,
        beside: HashMap::new(),
    });
    let beside = source
        .messages
        .iter()
        .map(|(name, nested)| (name.as_str(), declare(name, nested, declared)))
        .collect();
    declared[at].beside = beside;
    // A file with 2^32 messages does not fit into memory.
    MessageId(u32::try_from(at).unwrap_or(u32::MAX))
}

struct Compiler<'a> {
    declared: &'a [Declared<'a>],
    roots: HashMap<&'a str, MessageId>,
}

impl Compiler<'_> {
    fn message(&self, message: &Declared<'_>) -> Result<MessageDef, SchemaError> {
        let source = message.source;
        let mut def = MessageDef {
            required: vec![0; source.fields.len().div_ceil(64)].into(),
            ..MessageDef::default()
        };
        for (index, source) in (0..).zip(&source.fields) {
            let field = self.field(message, source)?;
            def.by_name.insert(field.name.clone(), index);
            def.fields.push(field);
            if source.label == Label::Required {
                def.required[index as usize / 64] |= 1 << (index % 64);
            }
        }
        let tags = source
            .tags
            .iter()
            .filter_map(|(tag, name)| Some((*tag, *def.by_name.get(name.as_str())?)))
            .collect();
        def.by_tag = Tags::new(tags);
        Ok(def)
    }

    fn field(&self, message: &Declared<'_>, field: &SourceField) -> Result<Field, SchemaError> {
        let kind = self.kind(message, field)?;
        let (shape, wire_type) = match field.label {
            Label::Required | Label::Optional => (Shape::Single(kind), kind.wire_type()),
            Label::Repeated if kind.wire_type() == DELIMITED => (Shape::List(kind), DELIMITED),
            Label::Repeated => (Shape::Packed(kind), kind.wire_type()),
            Label::Map | Label::Obj => {
                let (key, value) = self.entry(kind).ok_or_else(|| SchemaError::BadMap {
                    message: message.name.into(),
                    field: field.name.as_str().into(),
                })?;
                (
                    Shape::Map {
                        key,
                        value,
                        write_empty: field.label == Label::Map,
                    },
                    DELIMITED,
                )
            }
        };
        let mut label = Vec::new();
        json::put_string(&mut label, &field.name);
        label.push(b':');
        Ok(Field {
            name: field.name.as_str().into(),
            label: label.into(),
            shape,
            key: field.tag * 8 + wire_type,
        })
    }

    fn kind(&self, message: &Declared<'_>, field: &SourceField) -> Result<Kind, SchemaError> {
        let name = field.type_name.as_str();
        let declared = || {
            message
                .beside
                .get(name)
                .or_else(|| self.roots.get(name))
                .copied()
                .map(Kind::Message)
        };
        Kind::built_in(name)
            .or_else(declared)
            .ok_or_else(|| SchemaError::UnknownType {
                message: message.name.into(),
                field: field.name.as_str().into(),
                type_name: name.into(),
            })
    }

    /// Key and value of a map's entries.
    fn entry(&self, kind: Kind) -> Option<(Kind, Kind)> {
        let Kind::Message(id) = kind else { return None };
        let entry = &self.declared[id.0 as usize];
        let part = |name: &str| {
            let field = entry
                .source
                .fields
                .iter()
                .find(|field| field.name == name)?;
            let single = matches!(field.label, Label::Required | Label::Optional);
            single.then(|| self.kind(entry, field).ok()).flatten()
        };
        let key = part("key")?;
        let usable = matches!(key, Kind::Unsigned | Kind::Signed | Kind::Bool | Kind::Text);
        usable.then_some((key, part("value")?))
    }
}
