//! Writes values of serde's data model as bytes: each value in the place that its schema has for it.

use core::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ProtobufError;
use super::encoder::{Encoder, OpenMessage};
use super::error::FieldProblem;
use super::schema::{Field, FieldIndex, Kind, MessageDef, MessageId, Shape};
use super::wire::patch_varint;

/// The outermost message.
pub(super) fn put_body<'de, D: Deserializer<'de>>(
    encoder: &mut Encoder<'_>,
    id: MessageId,
    source: D,
) -> Result<(), D::Error> {
    Slot {
        encoder,
        kind: Kind::Message(id),
        place: Place::Body,
    }
    .deserialize(source)
}

/// Not inlined into its two callers, so that its own parts are inlined into it.
#[inline(never)]
fn put_message<'de, A: MapAccess<'de>>(
    encoder: &mut Encoder<'_>,
    id: MessageId,
    members: A,
) -> Result<(), A::Error> {
    let message = encoder.begin_message(id)?;
    put_members(encoder, &message, members)?;
    encoder.end_message(&message)
}

#[inline]
fn put_members<'de, A: MapAccess<'de>>(
    encoder: &mut Encoder<'_>,
    message: &OpenMessage<'_>,
    mut members: A,
) -> Result<(), A::Error> {
    let def = message.def;
    let mut expected = 0;
    while let Some(index) = members.next_key_seed(Name { def, expected })? {
        let Some(index) = index else {
            members.next_value::<IgnoredAny>()?;
            continue;
        };
        expected = index + 1;
        encoder.meet(message, index)?;
        let field = &def.fields[index as usize];
        let (kind, place) = match field.shape {
            Shape::Single(kind) => {
                encoder.key(field);
                (kind, Place::Value)
            }
            Shape::Packed(kind) | Shape::List(kind) => (kind, Place::List(field)),
            Shape::Map {
                key,
                value,
                write_empty,
            } => (
                value,
                Place::Map {
                    field,
                    key,
                    write_empty,
                },
            ),
        };
        let slot = Slot {
            encoder,
            kind,
            place,
        };
        if let Err(error) = members.next_value_seed(slot) {
            encoder.name_problem(&field.name);
            return Err(error);
        }
    }
    Ok(())
}

/// An array: one key for all elements and a count, or a key for each element.
fn put_list<'de, A: SeqAccess<'de>>(
    encoder: &mut Encoder<'_>,
    field: &Field,
    kind: Kind,
    mut elements: A,
) -> Result<(), A::Error> {
    let place = Place::Value;
    if let Shape::List(_) = field.shape {
        loop {
            let before = encoder.out.len();
            encoder.key(field);
            let slot = Slot {
                encoder,
                kind,
                place,
            };
            if elements.next_element_seed(slot)?.is_none() {
                encoder.out.truncate(before);
                return Ok(());
            }
        }
    }
    let counted = encoder.begin_count(field);
    let mut count = 0;
    loop {
        let slot = Slot {
            encoder,
            kind,
            place,
        };
        if elements.next_element_seed(slot)?.is_none() {
            break;
        }
        count += 1;
    }
    encoder.end_count(&counted, count, false);
    Ok(())
}

/// Finds the field of a name without copying the name.
pub(super) struct Name<'a> {
    pub(super) def: &'a MessageDef,
    pub(super) expected: FieldIndex,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<FieldIndex>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<FieldIndex>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.def.field_of_name(name, self.expected))
    }
}

/// Takes the next value of the source and writes it.
pub(super) struct Slot<'e, 's, 'f> {
    pub(super) encoder: &'e mut Encoder<'s>,
    pub(super) kind: Kind,
    pub(super) place: Place<'f>,
}

#[derive(Clone, Copy)]
pub(super) enum Place<'f> {
    /// The outermost message, without a length.
    Body,
    /// A value whose key was written.
    Value,
    List(&'f Field),
    /// `kind` is the type of the values.
    Map {
        field: &'f Field,
        key: Kind,
        write_empty: bool,
    },
    /// The key of a map's entry.
    MapKey,
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        match self.place {
            Place::MapKey => source.deserialize_str(self),
            _ => source.deserialize_any(self),
        }
    }
}

impl Slot<'_, '_, '_> {
    /// The encoder, if a scalar is allowed here.
    fn scalar<E: Error>(self) -> Result<Self, E> {
        match self.place {
            Place::Value => Ok(self),
            _ => Err(self.mismatch()),
        }
    }

    fn mismatch<E: Error>(self) -> E {
        match self.place {
            Place::Body => self.encoder.fail(ProtobufError::NotAnObject),
            Place::List(_) => self.encoder.problem(FieldProblem::Type {
                expected: "an array",
            }),
            Place::Map { .. } => self.encoder.problem(FieldProblem::Type {
                expected: "an object",
            }),
            Place::Value | Place::MapKey => self.encoder.problem(self.kind.mismatch()),
        }
    }

    fn entries<'de, A: MapAccess<'de>>(self, key: Kind, mut members: A) -> Result<usize, A::Error> {
        let (encoder, value) = (self.encoder, self.kind);
        let mut count = 0;
        while members
            .next_key_seed(Slot {
                encoder,
                kind: key,
                place: Place::MapKey,
            })?
            .is_some()
        {
            members.next_value_seed(Slot {
                encoder,
                kind: value,
                place: Place::Value,
            })?;
            count += 1;
        }
        Ok(count)
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value for a protobuf field")
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<(), E> {
        let slot = self.scalar()?;
        if slot.kind != Kind::Bool {
            return Err(slot.mismatch());
        }
        slot.encoder.put_unsigned(u64::from(b));
        Ok(())
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        let slot = self.scalar()?;
        slot.encoder.unsigned(slot.kind, n)
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        let slot = self.scalar()?;
        slot.encoder.signed(slot.kind, n)
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<(), E> {
        let slot = self.scalar()?;
        slot.encoder.float(slot.kind, x)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if let Place::MapKey = self.place {
            return self.encoder.map_key(self.kind, text);
        }
        let slot = self.scalar()?;
        slot.encoder.text(slot.kind, text)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        match self.place {
            Place::List(_) | Place::Map { .. } => Ok(()),
            _ => Err(self.mismatch()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<(), A::Error> {
        match self.place {
            Place::List(field) => put_list(self.encoder, field, self.kind, elements),
            _ => Err(self.mismatch()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        match (self.place, self.kind) {
            (Place::Body, Kind::Message(id)) => put_message(self.encoder, id, members),
            (Place::Value, Kind::Message(id)) => {
                let at = self.encoder.out.len();
                self.encoder.out.push(0);
                put_message(self.encoder, id, members)?;
                let len = self.encoder.out.len() - at - 1;
                patch_varint(&mut self.encoder.out, at, len);
                Ok(())
            }
            (
                Place::Map {
                    field,
                    key,
                    write_empty,
                },
                value,
            ) => {
                let encoder = self.encoder;
                let counted = encoder.begin_count(field);
                let entries = Slot {
                    encoder,
                    kind: value,
                    place: Place::Value,
                };
                let count = entries.entries(key, members)?;
                encoder.end_count(&counted, count, write_empty);
                Ok(())
            }
            _ => Err(self.mismatch()),
        }
    }
}
