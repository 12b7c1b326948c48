//! Errors of schemas and bodies.

use alloc::boxed::Box;
use alloc::string::String;

/// An invalid schema file. Every message names the entry to fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is not JSON.
    #[error("the schema is not JSON: line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 at a line end.
        column: usize,
    },
    /// The file, a route or a message is not a JSON object.
    #[error("`{name}` must be an object")]
    NotAnObject {
        /// Route or message; empty for the whole file.
        name: Box<str>,
    },
    /// An entry's tag is not a whole number from 0 to 2^29 - 1.
    #[error("`{entry}` in `{message}`: the tag must be a whole number from 0 to 536870911")]
    BadTag {
        /// Route or message.
        message: Box<str>,
        /// Key of the entry in the file.
        entry: Box<str>,
    },
    /// A field's type is neither built in, nor a message next to the field, nor a root message.
    #[error("field `{field}` of `{message}`: unknown type `{type_name}`")]
    UnknownType {
        /// Route or message.
        message: Box<str>,
        /// Field in it.
        field: Box<str>,
        /// The type that was not found.
        type_name: Box<str>,
    },
    /// The type of a `map` or `obj` must be a message with single fields `key` (a string, an integer or a bool) and `value`.
    #[error(
        "field `{field}` of `{message}`: a map needs a message with the single fields `key` and `value`"
    )]
    BadMap {
        /// Route or message.
        message: Box<str>,
        /// Field in it.
        field: Box<str>,
    },
    /// `__messages` and `__tags` are members of the parsed form.
    #[error("field `{field}` of `{message}`: the name is taken by the format")]
    ReservedName {
        /// Route or message.
        message: Box<str>,
        /// Field in it.
        field: Box<str>,
    },
    /// A member of the parsed form is missing or of the wrong type.
    #[error("`{entry}` in `{message}` is not in the parsed form")]
    NotParsedForm {
        /// Route or message.
        message: Box<str>,
        /// Member of it.
        entry: Box<str>,
    },
}

/// A body that could not be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// The schema does not have this route: the body is JSON.
    #[error("no schema for this route")]
    UnknownRoute,
    /// Encoding: the body is not JSON.
    #[error("the body is not JSON: line {line}, column {column}")]
    Json {
        /// Line, from 1; 0 if not known.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Encoding: the body is not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Encoding: the body is JSON, but not an object.
    #[error("the body is not an object")]
    NotAnObject,
    /// Encoding: a field is missing or does not match.
    #[error("field `{field}`: {problem}")]
    Field {
        /// Path of the field, names joined by dots.
        field: String,
        /// The problem.
        problem: FieldProblem,
    },
    /// Messages nested deeper than 32.
    #[error("messages are nested too deep")]
    TooDeep,
    /// Decoding: a value, a length or a count extends beyond the end of its message.
    #[error("the body is cut short")]
    Truncated,
    /// Decoding: a varint of more than 64 bits.
    #[error("a varint is longer than 64 bits")]
    VarintTooLong,
    /// Decoding: a tag that the schema does not have. It cannot be skipped, because its length is unknown.
    #[error("unknown tag {0}")]
    UnknownTag(u64),
}

/// The problem with one field of an object to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldProblem {
    /// A `required` field is missing.
    #[error("required, but missing")]
    Missing,
    /// The value is of another type.
    #[error("must be {expected}")]
    Type {
        /// The expected type.
        expected: &'static str,
    },
    /// A negative number in an unsigned field, a number beyond 64 bits, or an integer field without a number.
    #[error("number out of range")]
    Range,
}
