//! Compiles a schema from its text form to one where messages and fields are numbers.

use alloc::vec;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};

use super::schema::{Field, Kind, MessageDef, MessageId, Schema, Shape, Tags};
use super::source::{self, Label, SourceField, SourceMessage};
use super::wire::{DELIMITED, FIXED32, FIXED64, VARINT};
use super::{SchemaError, json};

/// Root messages have keys of this form; all other keys are routes.
const ROOT_MESSAGE: &str = "message ";

impl Schema {
    /// Parses a schema file: one JSON object of routes and root messages. Malformed keys, and fields whose tag is taken, are skipped, as in
    /// Pomelo.
    ///
    /// # Errors
    /// If the text is not such a file, a tag is not a number from 0 to 2^29 - 1, or a type is not declared.
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

    /// Parses the parsed form, which a server sends in its handshake (`sys.protos.client` and `.server`).
    ///
    /// # Errors
    /// If the text is not a schema in this form.
    pub fn from_parsed(json_text: &str) -> Result<Self, SchemaError> {
        compile(&source::parse_parsed(json_text)?)
    }
}

fn compile(file: &[(alloc::string::String, SourceMessage)]) -> Result<Schema, SchemaError> {
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
    let only_entries = compiler.only_entries();
    let messages = (0..).zip(&declared).map(|(id, message)| {
        if only_entries.contains(&MessageId(id)) {
            Ok(MessageDef::default())
        } else {
            compiler.message(message)
        }
    });
    Ok(Schema {
        messages: messages.collect::<Result<_, _>>()?,
        json: source::parsed_form(file).into(),
        routes,
    })
}

/// A message during compilation: its number is its index in the list.
struct Declared<'a> {
    name: &'a str,
    source: &'a SourceMessage,
    /// Nested messages, visible to its own fields only.
    beside: HashMap<&'a str, MessageId>,
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
    let nested = source.messages.iter();
    let beside = nested
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
        let required = vec![0; source.fields.len().div_ceil(64)].into();
        let mut def = MessageDef {
            required,
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
        let tags = source.tags.iter();
        def.by_tag = Tags::new(
            tags.filter_map(|(tag, name)| Some((*tag, *def.by_name.get(name.as_str())?)))
                .collect(),
        );
        Ok(def)
    }

    fn field(&self, message: &Declared<'_>, field: &SourceField) -> Result<Field, SchemaError> {
        let (shape, wire_type) = match (field.label, self.field_kind(message, field)?) {
            (Label::Required | Label::Optional, kind) => (Shape::Single(kind), kind.wire_type()),
            (Label::Repeated, kind @ (Kind::Text | Kind::Message(_))) => {
                (Shape::List(kind), DELIMITED)
            }
            (Label::Repeated, kind) => (Shape::Packed(kind), kind.wire_type()),
            (Label::Map | Label::Obj, kind) => {
                let (key, value) = self.entry(message, field, kind)?;
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

    fn field_kind(&self, message: &Declared<'_>, field: &SourceField) -> Result<Kind, SchemaError> {
        self.kind(message, &field.type_name)
            .ok_or_else(|| unknown_type(message, &field.name, &field.type_name))
    }

    /// Looks a type up next to the field, then among the root messages, but not in enclosing messages.
    fn kind(&self, message: &Declared<'_>, type_name: &str) -> Option<Kind> {
        let declared = || {
            message
                .beside
                .get(type_name)
                .or_else(|| self.roots.get(type_name))
        };
        Kind::built_in(type_name).or_else(|| declared().copied().map(Kind::Message))
    }

    /// Key and value of a map's entries. Their types are looked up where the map is, not where the entry is declared, as in Pinus.
    fn entry(
        &self,
        message: &Declared<'_>,
        field: &SourceField,
        kind: Kind,
    ) -> Result<(Kind, Kind), SchemaError> {
        let bad = || SchemaError::BadMap {
            message: message.name.into(),
            field: field.name.as_str().into(),
        };
        let Kind::Message(id) = kind else {
            return Err(bad());
        };
        let entry = &self.declared[id.0 as usize].source.fields;
        let part = |name: &str| {
            let part = entry
                .iter()
                .find(|part| part.name == name)
                .ok_or_else(bad)?;
            if !matches!(part.label, Label::Required | Label::Optional) {
                return Err(bad());
            }
            self.kind(message, &part.type_name)
                .ok_or_else(|| unknown_type(message, &field.name, &part.type_name))
        };
        match part("key")? {
            Kind::Float | Kind::Double | Kind::Message(_) => Err(bad()),
            key => Ok((key, part("value")?)),
        }
    }

    /// Messages that are only the entries of maps. Their own types need not be known where they are declared.
    fn only_entries(&self) -> HashSet<MessageId> {
        let (mut entries, mut others) = (HashSet::new(), HashSet::new());
        for message in self.declared {
            for field in &message.source.fields {
                let kind = self.kind(message, &field.type_name);
                let is_map = matches!(field.label, Label::Map | Label::Obj);
                if let (true, Some(Kind::Message(id))) = (is_map, kind) {
                    entries.insert(id);
                    others.extend(
                        self.declared[id.0 as usize]
                            .source
                            .fields
                            .iter()
                            .filter_map(|part| {
                                // The value type of a map is a message of its own.
                                self.kind(message, &part.type_name)?.message()
                            }),
                    );
                } else {
                    others.extend(kind.and_then(Kind::message));
                }
            }
        }
        &entries - &others
    }
}

fn unknown_type(message: &Declared<'_>, field: &str, type_name: &str) -> SchemaError {
    SchemaError::UnknownType {
        message: message.name.into(),
        field: field.into(),
        type_name: type_name.into(),
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

    fn message(self) -> Option<MessageId> {
        if let Self::Message(id) = self {
            Some(id)
        } else {
            None
        }
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
