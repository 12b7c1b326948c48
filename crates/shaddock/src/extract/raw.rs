//! Bytes of the application's own among values that are serialised: how a push finds out that its value is a [`Body`], which it sends as it is.

use std::fmt;

use bytes::Bytes;
use serde::ser::{Error, Impossible, Serialize, Serializer};

use super::Body;

/// The name under which a [`Body`] shows itself. Serializers that do not know it write an array of numbers.
const NAME: &str = "$shaddock::Body";

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Inner<'a>(&'a [u8]);
        impl Serialize for Inner<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        serializer.serialize_newtype_struct(NAME, &Inner(&self.0))
    }
}

/// The bytes, if the value is a [`Body`]. Costs one call for other values.
pub(crate) fn raw_bytes<T: Serialize + ?Sized>(value: &T) -> Option<Bytes> {
    value.serialize(Probe { is_inside: false }).ok()
}

/// Takes a [`Body`] and nothing else.
struct Probe {
    is_inside: bool,
}

#[derive(Debug)]
struct NotRaw;

impl fmt::Display for NotRaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not raw bytes")
    }
}

impl std::error::Error for NotRaw {}

impl Error for NotRaw {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

type Never = Impossible<Bytes, NotRaw>;
type Outcome = Result<Bytes, NotRaw>;

macro_rules! refuse {
    ($($method:ident($($argument:ty),*) -> $answer:ty;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$answer, NotRaw> { Err(NotRaw) })*
    };
}

impl Serializer for Probe {
    type Ok = Bytes;
    type Error = NotRaw;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Outcome {
        if name != NAME || self.is_inside {
            return Err(NotRaw);
        }
        value.serialize(Self { is_inside: true })
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Outcome {
        if self.is_inside {
            Ok(Bytes::copy_from_slice(bytes))
        } else {
            Err(NotRaw)
        }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Outcome {
        Err(NotRaw)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Outcome {
        Err(NotRaw)
    }

    refuse! {
        serialize_bool(bool) -> Bytes;
        serialize_i8(i8) -> Bytes;
        serialize_i16(i16) -> Bytes;
        serialize_i32(i32) -> Bytes;
        serialize_i64(i64) -> Bytes;
        serialize_u8(u8) -> Bytes;
        serialize_u16(u16) -> Bytes;
        serialize_u32(u32) -> Bytes;
        serialize_u64(u64) -> Bytes;
        serialize_f32(f32) -> Bytes;
        serialize_f64(f64) -> Bytes;
        serialize_char(char) -> Bytes;
        serialize_str(&str) -> Bytes;
        serialize_none() -> Bytes;
        serialize_unit() -> Bytes;
        serialize_unit_struct(&'static str) -> Bytes;
        serialize_unit_variant(&'static str, u32, &'static str) -> Bytes;
        serialize_seq(Option<usize>) -> Never;
        serialize_tuple(usize) -> Never;
        serialize_tuple_struct(&'static str, usize) -> Never;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Never;
        serialize_map(Option<usize>) -> Never;
        serialize_struct(&'static str, usize) -> Never;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Never;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Wrapped(u8);

    #[test]
    fn only_a_body_is_raw() {
        let body = Body(Bytes::from_static(b"\x00\xff{"));
        assert_eq!(raw_bytes(&body).as_deref(), Some(&b"\x00\xff{"[..]));
        assert_eq!(raw_bytes(&Body::default()).as_deref(), Some(&b""[..]));
        assert_eq!(raw_bytes(&Wrapped(1)), None);
        assert_eq!(raw_bytes(&vec![1_u8]), None);
        assert_eq!(raw_bytes("text"), None);
        assert_eq!(raw_bytes(&serde_json::json!({"a": 1})), None);
        assert_eq!(raw_bytes(&Some(body)), None, "in a value it is an array");
    }
}
