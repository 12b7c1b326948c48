//! Messages of one connection: encoding of requests, and decoding of bodies.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use shaddock_protocol::{
    Dialect, Dictionary, HEADER_LEN, Message, MessageType, PackageType, Protos, WireRoute, inflate,
    put_package_header,
};

use crate::sign::{JavaScriptNumbers, SigningKey};
use crate::{DecodeError, EncodeError};

/// The encoding negotiated in the handshake. Kept for a session, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// The number of the client's session: more than 0 after a restart.
    pub(crate) generation: u32,
    pub(crate) dialect: Dialect,
    pub(crate) dictionary: Option<Arc<Dictionary>>,
    pub(crate) protos: Option<Arc<Protos>>,
    /// Pitaya: bodies are Google protobuf and are passed through.
    pub(crate) raw_protobuf: bool,
    pub(crate) key: Option<SigningKey>,
    /// Longest body after inflating it.
    pub(crate) max_inflated: usize,
}

impl Wire {
    /// Serialises a value as the JSON text used by this client.
    pub(crate) fn json<T: Serialize + ?Sized>(&self, body: &T) -> Result<Bytes, EncodeError> {
        if self.raw_protobuf {
            return Err(EncodeError::NotJson);
        }
        let text = if self.key.is_some() {
            let mut text = Vec::with_capacity(128);
            let mut serializer =
                serde_json::Serializer::with_formatter(&mut text, JavaScriptNumbers);
            body.serialize(&mut serializer).map(|()| text)
        } else {
            serde_json::to_vec(body)
        };
        text.map(Bytes::from)
            .map_err(|error| EncodeError::Json(error.to_string()))
    }

    /// A complete DATA package of a request or notify. `id` is not written for notifies.
    pub(crate) fn encode(
        &self,
        kind: MessageType,
        id: u64,
        route: &str,
        body: Bytes,
    ) -> Result<Bytes, EncodeError> {
        let code = self
            .dictionary
            .as_ref()
            .and_then(|dictionary| dictionary.code(route));
        let wire_route = code.map_or_else(
            || WireRoute::Name(Bytes::copy_from_slice(route.as_bytes())),
            WireRoute::Code,
        );
        let message = Message::new(kind, id, wire_route, self.body(route, body)?);
        let mut out = BytesMut::with_capacity(HEADER_LEN + 16 + route.len() + message.body.len());
        out.put_bytes(0, HEADER_LEN);
        message.encode(&mut out)?;
        let mut head = BytesMut::with_capacity(HEADER_LEN);
        put_package_header(PackageType::Data, out.len() - HEADER_LEN, &mut head)?;
        out[..HEADER_LEN].copy_from_slice(&head);
        Ok(out.freeze())
    }

    /// A body in its wire form.
    fn body(&self, route: &str, json: Bytes) -> Result<Bytes, EncodeError> {
        if self.dialect == Dialect::Pitaya {
            return Ok(json);
        }
        let json = if json.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            json
        };
        let schema = self.protos.as_ref().map(|protos| protos.client());
        let schema = schema.filter(|schema| schema.has(route));
        Ok(match (schema, &self.key) {
            (None, None) => json,
            (None, Some(key)) => key.sign_json(&json)?.into(),
            (Some(schema), None) => schema.encode(route, &json)?.into(),
            (Some(schema), Some(key)) => key.sign_protobuf(schema, route, &json)?.into(),
        })
    }

    /// The body of a received message, as JSON text (Pitaya: unchanged, inflated). It does not share memory with `message`: a short body
    /// that is kept must not keep a long read buffer.
    pub(crate) fn decode(&self, route: &str, message: &Message) -> Result<Bytes, DecodeError> {
        let body = &message.body;
        if self.dialect == Dialect::Pitaya {
            return Ok(if message.compressed {
                inflate(body, self.max_inflated)?.into()
            } else {
                Bytes::copy_from_slice(body)
            });
        }
        let schema = self.protos.as_ref().map(|protos| protos.server());
        Ok(match schema.filter(|schema| schema.has(route)) {
            Some(schema) => schema.decode(route, body)?.into(),
            None if body.is_empty() => Bytes::from_static(b"{}"),
            None => Bytes::copy_from_slice(body),
        })
    }

    /// The route of a push. `None`: an unknown code, or invalid text.
    pub(crate) fn route<'a>(&'a self, route: &'a WireRoute) -> Option<&'a str> {
        match route {
            WireRoute::None => None,
            WireRoute::Code(code) => Some(self.dictionary.as_ref()?.route(*code)?.as_str()),
            WireRoute::Name(name) => std::str::from_utf8(name).ok(),
        }
    }

    /// Whether a response is marked as an error. Pomelo has no such mark.
    pub(crate) fn marks_error(&self, message: &Message) -> bool {
        message.error && self.dialect == Dialect::Pitaya
    }

    /// Whether decoding responses requires their routes.
    pub(crate) fn needs_route(&self) -> bool {
        self.protos.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shaddock_protocol::Schema;

    #[test]
    fn routes_are_compressed_and_bodies_converted() {
        let schema = Schema::parse(r#"{"a.b.c":{"optional uInt32 n":1}}"#).unwrap();
        let wire = Wire {
            dictionary: Some(Arc::new(Dictionary::with_codes([("a.b.c", 258)]).unwrap())),
            protos: Some(Arc::new(Protos::new(Schema::empty(), schema))),
            ..Wire::default()
        };
        let body = Bytes::from_static(br#"{"n":5}"#);
        let request = wire
            .encode(MessageType::Request, 300, "a.b.c", body.clone())
            .unwrap();
        assert_eq!(
            &request[..],
            b"\x04\x00\x00\x07\x01\xac\x02\x01\x02\x08\x05"
        );
        let notify = wire.encode(MessageType::Notify, 0, "x.y.z", body).unwrap();
        assert_eq!(&notify[..], b"\x04\x00\x00\x0e\x02\x05x.y.z{\"n\":5}");
    }

    #[test]
    fn what_cannot_be_sent() {
        let wire = Wire::default();
        let long = "r".repeat(256);
        let send = |route: &str, body: Bytes| wire.encode(MessageType::Notify, 0, route, body);
        assert!(matches!(
            send(&long, Bytes::new()),
            Err(EncodeError::Route(_))
        ));
        assert!(matches!(
            send("a.b.c", Bytes::from(vec![b' '; 1 << 24])),
            Err(EncodeError::TooLarge(_))
        ));
        let pitaya = Wire {
            dialect: Dialect::Pitaya,
            raw_protobuf: true,
            ..Wire::default()
        };
        assert_eq!(pitaya.json(&1), Err(EncodeError::NotJson));
    }
}
