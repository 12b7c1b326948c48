//! Decodes bytes to JSON text.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::schema::{Field, FieldIndex, Kind, MessageDef, MessageId, Schema, Shape};
use super::wire::{Reader, unzigzag};
use super::{MAX_DEPTH, ProtobufError, json};

impl Schema {
    /// Decodes a body to compact JSON text in valid UTF-8. Numbers have JavaScript's format, with `null` for NaN and the infinities and 0
    /// for -0. Strings that are not UTF-8 are repaired. Members are in the order in which their fields first occur.
    ///
    /// The memory used is bounded by the length of `bytes` and the longest field name.
    ///
    /// # Errors
    /// If the schema does not have the route, or the bytes do not match it: truncated, an unknown tag, nested too deep.
    pub fn decode(&self, route: &str, bytes: &[u8]) -> Result<Vec<u8>, ProtobufError> {
        let id = self.route(route).ok_or(ProtobufError::UnknownRoute)?;
        self.decode_message(id, bytes, false)
    }

    /// [`Schema::decode`], parsed to a value.
    ///
    /// # Errors
    /// As [`Schema::decode`].
    pub fn decode_value(
        &self,
        route: &str,
        bytes: &[u8],
    ) -> Result<serde_json::Value, ProtobufError> {
        let text = self.decode(route, bytes)?;
        serde_json::from_slice(&text).map_err(|e| ProtobufError::Json {
            line: e.line(),
            column: e.column(),
        })
    }

    /// `gather` is slower and correct for all bodies; without it, bodies that need it are detected and decoded again.
    pub(super) fn decode_message(
        &self,
        id: MessageId,
        bytes: &[u8],
        mut gather: bool,
    ) -> Result<Vec<u8>, ProtobufError> {
        loop {
            let mut out = Vec::with_capacity(2 * bytes.len() + 16);
            let mut decoder = Decoder {
                schema: self,
                gather,
                met: Vec::new(),
            };
            match decoder.message(&mut out, id, bytes, 0) {
                Ok(()) => return Ok(out),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::MetTwice) => gather = true,
            }
        }
    }
}

/// Writes text while reading. If a field occurs again later in its message, decoding starts over with `gather`, where each field of a
/// message has a separate text until the message ends.
struct Decoder<'s> {
    schema: &'s Schema,
    gather: bool,
    /// One bit per field of each open message, the innermost last.
    met: Vec<u64>,
}

enum Stop {
    Error(ProtobufError),
    MetTwice,
}

impl From<ProtobufError> for Stop {
    fn from(error: ProtobufError) -> Self {
        Self::Error(error)
    }
}

impl Decoder<'_> {
    fn message(
        &mut self,
        out: &mut Vec<u8>,
        id: MessageId,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), Stop> {
        if depth == MAX_DEPTH {
            return Err(ProtobufError::TooDeep.into());
        }
        let def = self.schema.message(id);
        out.push(b'{');
        if self.gather {
            self.gather(out, def, Reader::new(bytes), depth)?;
        } else {
            let base = self.met.len();
            self.met.resize(base + def.words(), 0);
            self.stream(out, def, Reader::new(bytes), depth)?;
            self.met.truncate(base);
        }
        out.push(b'}');
        Ok(())
    }

    fn stream(
        &mut self,
        out: &mut Vec<u8>,
        def: &MessageDef,
        mut r: Reader<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let base = self.met.len() - def.words();
        // A list that may continue with the next key.
        let mut open = None;
        let mut first = true;
        while !r.is_empty() {
            let (index, field) = next_field(def, &mut r)?;
            if open == Some(index) {
                self.elements(out, field, &mut r, depth)?;
                continue;
            }
            if open.take().is_some() {
                out.push(b']');
            }
            let (word, bit) = (base + index as usize / 64, 1 << (index % 64));
            if self.met[word] & bit != 0 {
                return Err(Stop::MetTwice);
            }
            self.met[word] |= bit;
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&field.label);
            open = self.field(out, field, &mut r, depth)?.then_some(index);
        }
        if open.is_some() {
            out.push(b']');
        }
        Ok(())
    }

    fn gather(
        &mut self,
        out: &mut Vec<u8>,
        def: &MessageDef,
        mut r: Reader<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let mut texts: Vec<(FieldIndex, Vec<u8>)> = Vec::new();
        let mut places: HashMap<FieldIndex, usize> = HashMap::new();
        while !r.is_empty() {
            let (index, field) = next_field(def, &mut r)?;
            let place = *places.entry(index).or_insert(texts.len());
            if place == texts.len() {
                texts.push((index, Vec::new()));
            }
            let text = &mut texts[place].1;
            if field.is_list() && !text.is_empty() {
                self.elements(text, field, &mut r, depth)?;
            } else {
                text.clear();
                self.field(text, field, &mut r, depth)?;
            }
        }
        for (place, (index, text)) in texts.iter().enumerate() {
            let field = &def.fields[*index as usize];
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&field.label);
            out.extend_from_slice(text);
            if field.is_list() {
                out.push(b']');
            }
        }
        Ok(())
    }

    /// Writes the value after a key. Returns true if it is a list, which stays open for further elements.
    fn field(
        &mut self,
        out: &mut Vec<u8>,
        field: &Field,
        r: &mut Reader<'_>,
        depth: usize,
    ) -> Result<bool, Stop> {
        match field.shape {
            Shape::Single(kind) => self.value(out, kind, r, depth)?,
            Shape::Map { key, value, .. } => self.entries(out, key, value, r, depth)?,
            Shape::Packed(_) | Shape::List(_) => {
                out.push(b'[');
                self.elements(out, field, r, depth)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Continues an open list.
    fn elements(
        &mut self,
        out: &mut Vec<u8>,
        field: &Field,
        r: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let (kind, count) = match field.shape {
            Shape::Packed(kind) => (kind, r.count(kind.least_bytes())?),
            Shape::List(kind) | Shape::Single(kind) => (kind, 1),
            Shape::Map { value, .. } => (value, 0),
        };
        for _ in 0..count {
            if out.last() != Some(&b'[') {
                out.push(b',');
            }
            self.value(out, kind, r, depth)?;
        }
        Ok(())
    }

    fn entries(
        &mut self,
        out: &mut Vec<u8>,
        key: Kind,
        value: Kind,
        r: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let count = r.count(key.least_bytes() + value.least_bytes())?;
        out.push(b'{');
        for i in 0..count {
            if i > 0 {
                out.push(b',');
            }
            // Names are strings in JSON for all key types.
            if key == Kind::Text {
                self.value(out, key, r, depth)?;
            } else {
                out.push(b'"');
                self.value(out, key, r, depth)?;
                out.push(b'"');
            }
            out.push(b':');
            self.value(out, value, r, depth)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn value(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        r: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        match kind {
            Kind::Unsigned => json::put_unsigned(out, r.varint()?),
            Kind::Signed => json::put_signed(out, unzigzag(r.varint()?)),
            Kind::Bool => out.extend_from_slice(if r.varint()? == 0 { b"false" } else { b"true" }),
            Kind::Float => json::put_float(out, f64::from(r.float()?)),
            Kind::Double => json::put_float(out, r.double()?),
            Kind::Text => json::put_client_string(out, r.delimited()?),
            Kind::Message(id) => self.message(out, id, r.delimited()?, depth + 1)?,
        }
        Ok(())
    }
}

fn next_field<'s>(
    def: &'s MessageDef,
    r: &mut Reader<'_>,
) -> Result<(FieldIndex, &'s Field), ProtobufError> {
    let tag = r.varint()? / 8;
    let index = def
        .field_of_tag(tag)
        .ok_or(ProtobufError::UnknownTag(tag))?;
    Ok((index, &def.fields[index as usize]))
}

impl Field {
    fn is_list(&self) -> bool {
        matches!(self.shape, Shape::Packed(_) | Shape::List(_))
    }
}

impl Kind {
    /// The shortest encoding of a value of this kind.
    fn least_bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Double => 8,
            _ => 1,
        }
    }
}
