//! A schema in the form used for encoding and decoding: messages and fields are numbers.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;

/// Messages by route. Cheap to look up, built once at start-up.
#[derive(Clone)]
pub struct Schema {
    pub(super) json: Box<str>,
    pub(super) routes: HashMap<Box<str>, MessageId>,
    pub(super) messages: Vec<MessageDef>,
}

/// Index into the messages of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MessageId(pub(super) u32);

/// Index into the fields of a message.
pub(super) type FieldIndex = u32;

#[derive(Debug, Clone, Default)]
pub(super) struct MessageDef {
    pub(super) fields: Vec<Field>,
    pub(super) by_tag: Tags,
    pub(super) by_name: HashMap<Box<str>, FieldIndex>,
    /// One bit per field, set for the required ones.
    pub(super) required: Box<[u64]>,
}

/// From tag to field. Tags are usually small, so this is one table lookup.
#[derive(Debug, Clone)]
pub(super) enum Tags {
    Table(Vec<Option<FieldIndex>>),
    Sorted(Vec<(u32, FieldIndex)>),
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    /// The name as JSON text, and the colon.
    pub(super) label: Box<[u8]>,
    pub(super) shape: Shape,
    /// The bytes before a value: tag and wire type.
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
    /// The schema of an application without a schema file: no route has a schema.
    pub fn empty() -> Self {
        Self {
            json: "{}".into(),
            routes: HashMap::new(),
            messages: Vec::new(),
        }
    }

    /// Whether there are neither routes nor root messages.
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

    /// `expected` is a hint: objects usually have their members in the order of the schema.
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
    pub(super) fn new(sorted: Vec<(u32, FieldIndex)>) -> Self {
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
