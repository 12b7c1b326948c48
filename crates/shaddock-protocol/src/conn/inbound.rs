//! Decodes the body of a DATA package into an event.

use super::{DropReason, Event, Inbound, ProtocolError, RefuseReason};
use crate::compress::inflate;
use crate::json::{check_json, json_of_client};
use crate::message::{Head, RouteAt};
use crate::text::{repair, utf8_of_client};
use crate::{Codec, Dialect, HashPolicy, MessageError, MessageType, Route, RsaKey};
use alloc::string::String;
use bytes::{Buf, Bytes};
use core::num::NonZeroU64;

/// A method name that only attackers request.
const ATTACK: &str = "constructor";

/// Decodes one DATA package.
pub(super) fn read(
    codec: &Codec,
    dialect: Dialect,
    key: Option<&RsaKey>,
    mut data: Bytes,
) -> Result<Event, ProtocolError> {
    let head = match Head::read(&data) {
        Err(MessageError::InvalidType(_)) => return Ok(Event::Dropped(DropReason::InvalidType)),
        head => head?,
    };
    // Id 0 expects no response, and neither does a push: the original treats a push from a client as a notify.
    let id = match head.kind {
        MessageType::Request => NonZeroU64::new(head.id),
        MessageType::Notify | MessageType::Push => None,
        MessageType::Response => return Ok(Event::Dropped(DropReason::Response)),
    };
    let route = route(codec, &data, head.route);
    data.advance(head.body);
    let body = if head.compressed && dialect == Dialect::Pitaya {
        let max = codec.limits().max_inflated_size;
        let inflated = inflate(&data, max).map_err(|_| ProtocolError::Compression)?;
        Bytes::from(inflated)
    } else {
        data
    };
    let route = match route {
        Ok(route) => route,
        Err(reason) => return Ok(refuse(id, None, reason)),
    };
    let read = match dialect {
        Dialect::Pomelo if route.parts() == 3 && route.method() == Some(ATTACK) => {
            return Ok(Event::Attack);
        }
        Dialect::Pomelo => pomelo_body(codec, key, &route, body),
        Dialect::Pitaya => Ok(body),
    };
    let body = match read {
        Ok(body) => body,
        Err(Fault::Refuse(reason)) => return Ok(refuse(id, Some(route), reason)),
        Err(Fault::Drop(reason)) => return Ok(Event::Dropped(reason)),
    };
    Ok(match check_route(dialect, &route) {
        Ok(()) => Event::Message(Inbound { id, route, body }),
        Err(reason) => refuse(id, Some(route), reason),
    })
}

enum Fault {
    Refuse(RefuseReason),
    Drop(DropReason),
}

/// An invalid request receives an error response, an invalid notify none.
#[cold]
fn refuse(id: Option<NonZeroU64>, route: Option<Route>, reason: RefuseReason) -> Event {
    match id {
        Some(id) => Event::Refused { id, route, reason },
        None => Event::Dropped(DropReason::BadNotify(reason)),
    }
}

/// The route of the message `data`.
fn route(codec: &Codec, data: &Bytes, at: RouteAt) -> Result<Route, RefuseReason> {
    match at {
        RouteAt::Code(code) => {
            let dictionary = codec.config().dictionary.as_ref();
            let route = dictionary.and_then(|dictionary| dictionary.route(code));
            route.cloned().ok_or(RefuseReason::UnknownCode)
        }
        RouteAt::Name { start, end } => Route::from_wire(data.slice(start..end)).or_else(|_| {
            let (text, lost) = repair(&data[start..end]);
            if lost {
                Err(RefuseReason::RouteNotText)
            } else {
                Ok(Route::from(text))
            }
        }),
        // Only responses have no route, and they are handled before.
        RouteAt::None => Ok(Route::from(String::new())),
    }
}

fn check_route(dialect: Dialect, route: &Route) -> Result<(), RefuseReason> {
    match dialect {
        Dialect::Pomelo if route.parts() == 3 => Ok(()),
        Dialect::Pomelo => Err(RefuseReason::BadRoute),
        Dialect::Pitaya => {
            if route.as_str().split('.').any(|part| part.trim().is_empty()) {
                Err(RefuseReason::BlankRoute)
            } else if matches!(route.parts(), 2 | 3) {
                Ok(())
            } else {
                Err(RefuseReason::BadRoute)
            }
        }
    }
}

/// The body of a Pomelo message as JSON text, without its signature.
fn pomelo_body(
    codec: &Codec,
    key: Option<&RsaKey>,
    route: &Route,
    body: Bytes,
) -> Result<Bytes, Fault> {
    let config = codec.config();
    if config.protos.is_none() && config.crypto.is_none() && !body.is_empty() {
        return json_of_client(body).map_err(|_| Fault::Refuse(RefuseReason::BadJson));
    }
    unusual_body(codec, key, route, body)
}

/// Handles the options that are rarely configured.
#[inline(never)]
fn unusual_body(
    codec: &Codec,
    key: Option<&RsaKey>,
    route: &Route,
    body: Bytes,
) -> Result<Bytes, Fault> {
    let config = codec.config();
    let schema = config.protos.as_ref().map(|protos| protos.client());
    let body = match schema {
        Some(schema) if schema.has(route.as_str()) && !begins_as_json(&body) => {
            let json = schema.decode(route.as_str(), &body);
            json.map(Bytes::from).map_err(|_| RefuseReason::BadProtobuf)
        }
        _ if body.is_empty() => Ok(Bytes::from_static(b"{}")),
        _ => match config.crypto {
            // The signature covers the text before escapes are repaired.
            Some(_) => {
                let body = utf8_of_client(body);
                check_json(&body).map(|()| body)
            }
            None => json_of_client(body),
        }
        .map_err(|_| RefuseReason::BadJson),
    };
    let body = body.map_err(Fault::Refuse)?;
    match config.crypto {
        Some(policy) => verify(key, &body, policy).ok_or(Fault::Drop(DropReason::BadSignature)),
        None => Ok(body),
    }
}

/// Whether a body of a route with a schema is JSON, sent by a client without protobuf support.
///
/// As a key, the bytes of `{` and `[` would have the wire type 3, which Pomelo's protobuf does not have, so no encoder writes them first.
fn begins_as_json(body: &[u8]) -> bool {
    matches!(body, [b'{' | b'[', ..])
}

fn verify(key: Option<&RsaKey>, body: &[u8], policy: HashPolicy) -> Option<Bytes> {
    let body = key?.verify_json(body, policy).ok()?;
    json_of_client(Bytes::from(body)).ok()
}
