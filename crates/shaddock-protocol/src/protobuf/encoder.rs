//! The bytes of a body while it is encoded, and how scalars are written. The order of the fields is that of the source: see `slot`.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

use serde::de::Error;

use super::error::FieldProblem;
use super::schema::{Field, FieldIndex, Kind, MessageDef, MessageId, Schema};
use super::wire::{patch_varint, put_varint, zigzag};
use super::{MAX_DEPTH, ProtobufError};
use crate::text::{put_utf16, utf16_len};

/// The encoding of strings.
#[derive(Clone, Copy)]
pub(super) enum Strings {
    Utf8,
    /// Each UTF-16 unit on its own.
    Utf16,
}

pub(super) enum Stop {
    Error(ProtobufError),
    /// A member occurs twice, and a writer that only moves forward cannot use the last one.
    MetTwice,
}

pub(super) fn json_error(error: &serde_json::Error) -> ProtobufError {
    ProtobufError::Json {
        line: error.line(),
        column: error.column(),
    }
}

/// Bytes are written while the source is read. A length or count that precedes its bytes is inserted afterwards.
pub(super) struct Encoder<'s> {
    schema: &'s Schema,
    strings: Strings,
    pub(super) out: Vec<u8>,
    /// One bit per field of each open message, the innermost last.
    met: Vec<u64>,
    depth: usize,
    /// Why the visitors stopped, if the source is not at fault: the source's error type cannot carry it.
    stop: Option<Stop>,
}

impl<'s> Encoder<'s> {
    pub(super) fn new(schema: &'s Schema, strings: Strings, capacity: usize) -> Self {
        Self {
            schema,
            strings,
            out: Vec::with_capacity(capacity),
            met: Vec::new(),
            depth: 0,
            stop: None,
        }
    }

    pub(super) fn finish(self, result: Result<(), serde_json::Error>) -> Result<Vec<u8>, Stop> {
        match (self.stop, result) {
            (Some(stop), _) => Err(stop),
            (None, Err(error)) => Err(Stop::Error(json_error(&error))),
            (None, Ok(())) => Ok(self.out),
        }
    }

    pub(super) fn fail<E: Error>(&mut self, error: ProtobufError) -> E {
        self.stop.get_or_insert(Stop::Error(error));
        E::custom("")
    }

    pub(super) fn problem<E: Error>(&mut self, problem: FieldProblem) -> E {
        self.fail(ProtobufError::Field {
            field: String::new(),
            problem,
        })
    }

    /// Prepends the name of a message's field to the path of an inner error.
    pub(super) fn name_problem(&mut self, name: &str) {
        if let Some(Stop::Error(ProtobufError::Field { field, .. })) = &mut self.stop {
            if !field.is_empty() {
                field.insert(0, '.');
            }
            field.insert_str(0, name);
        }
    }

    pub(super) fn key(&mut self, field: &Field) {
        put_varint(&mut self.out, u64::from(field.key));
    }

    /// Begins the members of a message. Its length, if it has one, was written before.
    #[inline]
    pub(super) fn begin_message<E: Error>(&mut self, id: MessageId) -> Result<OpenMessage<'s>, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail(ProtobufError::TooDeep));
        }
        let def = self.schema.message(id);
        let base = self.met.len();
        self.met.resize(base + def.words(), 0);
        self.depth += 1;
        Ok(OpenMessage { def, base })
    }

    /// Notes that a member of the innermost message occurs.
    #[inline]
    pub(super) fn meet<E: Error>(
        &mut self,
        message: &OpenMessage<'_>,
        index: FieldIndex,
    ) -> Result<(), E> {
        let (word, bit) = (message.base + index as usize / 64, 1 << (index % 64));
        if self.met[word] & bit != 0 {
            self.stop = Some(Stop::MetTwice);
            return Err(E::custom(""));
        }
        self.met[word] |= bit;
        Ok(())
    }

    /// Ends the members of the innermost message. An error if a required one is missing.
    #[inline]
    pub(super) fn end_message<E: Error>(&mut self, message: &OpenMessage<'_>) -> Result<(), E> {
        let OpenMessage { def, base } = *message;
        self.depth -= 1;
        for (word, required) in def.required.iter().enumerate() {
            let missing = required & !self.met[base + word];
            if missing != 0 {
                let name = &def.fields[word * 64 + missing.trailing_zeros() as usize].name;
                return Err(self.fail(ProtobufError::Field {
                    field: (**name).to_owned(),
                    problem: FieldProblem::Missing,
                }));
            }
        }
        self.met.truncate(base);
        Ok(())
    }

    pub(super) fn begin_count(&mut self, field: &Field) -> Counted {
        let key_at = self.out.len();
        self.key(field);
        let count_at = self.out.len();
        self.out.push(0);
        Counted { key_at, count_at }
    }

    pub(super) fn end_count(&mut self, counted: &Counted, count: usize, write_empty: bool) {
        if count == 0 && !write_empty {
            self.out.truncate(counted.key_at);
        } else {
            patch_varint(&mut self.out, counted.count_at, count);
        }
    }

    /// The name of a JSON member as the key of a map.
    pub(super) fn map_key<E: Error>(&mut self, kind: Kind, name: &str) -> Result<(), E> {
        match (kind, name) {
            (Kind::Bool, "true") => self.put_unsigned(1),
            (Kind::Bool, "false") => self.put_unsigned(0),
            (Kind::Bool, _) => return Err(self.problem(kind.mismatch())),
            _ => return self.text(kind, name),
        }
        Ok(())
    }

    pub(super) fn put_unsigned(&mut self, n: u64) {
        put_varint(&mut self.out, n);
    }

    pub(super) fn text<E: Error>(&mut self, kind: Kind, text: &str) -> Result<(), E> {
        if kind == Kind::Text {
            match self.strings {
                Strings::Utf8 => {
                    put_varint(&mut self.out, text.len() as u64);
                    self.out.extend_from_slice(text.as_bytes());
                }
                Strings::Utf16 => {
                    put_varint(&mut self.out, utf16_len(text) as u64);
                    put_utf16(text, &mut self.out);
                }
            }
            return Ok(());
        }
        if matches!(kind, Kind::Bool | Kind::Message(_)) {
            return Err(self.problem(kind.mismatch()));
        }
        let text = text.trim_ascii();
        if kind.is_integer() {
            if let Ok(n) = text.parse::<u64>() {
                return self.unsigned(kind, n);
            }
            if let Ok(n) = text.parse::<i64>() {
                return self.signed(kind, n);
            }
        }
        // Rust also parses "nan" and "infinity"; JavaScript clients do not write them.
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() => self.float(kind, x),
            _ => Err(self.problem(kind.mismatch())),
        }
    }

    pub(super) fn unsigned<E: Error>(&mut self, kind: Kind, n: u64) -> Result<(), E> {
        match kind {
            Kind::Unsigned => self.put_unsigned(n),
            Kind::Signed => match i64::try_from(n) {
                Ok(n) => self.put_unsigned(zigzag(n)),
                Err(_) => return Err(self.problem(FieldProblem::Range)),
            },
            #[expect(
                clippy::cast_precision_loss,
                reason = "such a field has no more precision"
            )]
            _ => return self.float(kind, n as f64),
        }
        Ok(())
    }

    pub(super) fn signed<E: Error>(&mut self, kind: Kind, n: i64) -> Result<(), E> {
        match (kind, u64::try_from(n)) {
            (_, Ok(n)) => return self.unsigned(kind, n),
            (Kind::Unsigned, Err(_)) => return Err(self.problem(FieldProblem::Range)),
            (Kind::Signed, Err(_)) => self.put_unsigned(zigzag(n)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "such a field has no more precision"
            )]
            (_, Err(_)) => return self.float(kind, n as f64),
        }
        Ok(())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float field rounds; whole numbers are checked first"
    )]
    pub(super) fn float<E: Error>(&mut self, kind: Kind, x: f64) -> Result<(), E> {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        match kind {
            Kind::Float => self.out.extend_from_slice(&(x as f32).to_le_bytes()),
            Kind::Double => self.out.extend_from_slice(&x.to_le_bytes()),
            // The cast truncates towards zero.
            Kind::Unsigned | Kind::Signed if (-TWO_63..TWO_63).contains(&x) => {
                return self.signed(kind, x as i64);
            }
            #[expect(clippy::cast_sign_loss, reason = "not below 2^63")]
            Kind::Unsigned if (TWO_63..2.0 * TWO_63).contains(&x) => self.put_unsigned(x as u64),
            Kind::Unsigned | Kind::Signed => return Err(self.problem(FieldProblem::Range)),
            Kind::Bool => self.put_unsigned(u64::from(x != 0.0)),
            Kind::Text | Kind::Message(_) => return Err(self.problem(kind.mismatch())),
        }
        Ok(())
    }
}

/// A message whose members are being written.
pub(super) struct OpenMessage<'s> {
    pub(super) def: &'s MessageDef,
    /// Where its bits begin in `Encoder::met`.
    base: usize,
}

/// The position where a count will be written, and the start of its key.
pub(super) struct Counted {
    key_at: usize,
    count_at: usize,
}

impl Kind {
    fn is_integer(self) -> bool {
        matches!(self, Self::Unsigned | Self::Signed)
    }

    pub(super) fn mismatch(self) -> FieldProblem {
        FieldProblem::Type {
            expected: match self {
                Self::Unsigned | Self::Signed => "a whole number",
                Self::Float | Self::Double => "a number",
                Self::Bool => "true or false",
                Self::Text => "a string",
                Self::Message(_) => "an object",
            },
        }
    }
}
