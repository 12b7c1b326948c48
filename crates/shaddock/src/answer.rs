//! What a client reads: the table of answers, applied where the answer is written.
//!
//! Pomelo and Pinus clients:
//!
//! | outcome | body |
//! | --- | --- |
//! | a falsy value (nothing, `null`, `0`, `""`, `false`) | `{}` |
//! | a value | the value |
//! | error without a body | `{"code":500}`, with [`PomeloErrors::Text`](crate::wire::PomeloErrors::Text) also `error` and `msg` |
//! | error, body an object without truthy `code` | the object with `"code":500` |
//! | error, any other body | the body |
//!
//! Pitaya clients read the same values, but raw ones (answers of other servers are) unchanged unless they are empty. They read errors as
//! `{"code","msg","metadata"}` (without `metadata` if it is empty), with the error flag set.

use std::{borrow::Cow, num::NonZeroU64, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use shaddock_core::{PushError, SendError, Session, Sid};
use shaddock_protocol::{Codec, Dialect, PitayaSerializer, RefuseReason, Route};

use crate::{
    app::AppHandle,
    error::{HandlerError, codes},
    filter::{Filters, MaybeReady},
    handler::Complete,
    reply::{Outcome, Reply},
    request::RequestContext,
};

const NO_VALUE: &[u8] = b"{}";
const NO_BODY: &[u8] = b"{\"code\":500}";

/// The body of an answer, and whether it is marked as an error.
fn answer<'a>(codec: &Codec, dialect: Dialect, outcome: &'a Outcome) -> (Cow<'a, [u8]>, bool) {
    match (outcome, dialect) {
        // With another serializer every body means something, also an empty one.
        (Ok(reply), Dialect::Pitaya)
            if codec.config().pitaya_serializer != PitayaSerializer::Json =>
        {
            (Cow::Borrowed(reply.as_slice()), false)
        }
        // What another server answered with goes on unchanged.
        (Ok(reply), Dialect::Pitaya) if reply.is_raw() && !reply.as_slice().is_empty() => {
            (Cow::Borrowed(reply.as_slice()), false)
        }
        (Ok(reply), _) => (Cow::Borrowed(value_or(reply.as_slice(), NO_VALUE)), false),
        (Err(error), Dialect::Pitaya) => (Cow::Owned(pitaya_error(codec, error)), true),
        (Err(error), _) => (pomelo_error(codec, error), false),
    }
}

/// Hands the answer to the client's queue, then runs the global after-filters. A notify has no answer.
pub(crate) fn answer_client(request: &mut RequestContext, mut outcome: Outcome, filters: &Filters) {
    let app = request.app();
    if outcome.is_err() {
        app.stats().errors.add(1);
    }
    match (request.id(), request.session().session()) {
        (Some(id), Some(session)) => {
            Answers::of(app).write(session, id, request.route().as_str(), &outcome);
        }
        _ => {
            if outcome
                .as_ref()
                .is_ok_and(|reply| !reply.as_slice().is_empty())
            {
                app.stats().dropped_replies.add(1);
            }
        }
    }
    if let Err(error) = &outcome {
        log_error(request, error);
    }
    filters.global.run_after(request, &mut outcome);
    if let Ok(reply) = outcome {
        reply.recycle();
    }
}

/// Sends the responses of an app to its clients.
#[derive(Clone, Copy)]
pub(crate) struct Answers<'a> {
    app: &'a AppHandle,
}

impl<'a> Answers<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    fn write(self, session: &Arc<Session>, id: NonZeroU64, route: &str, outcome: &Outcome) {
        let codec = self.app.codec();
        let variant = session.variant();
        let write = |outcome: &Outcome| {
            let (body, is_error) = answer(codec, variant.dialect(), outcome);
            session.send_with(|out| {
                codec.encode_response(variant, id.get(), route, &body, is_error, out)
            })
        };
        // A session that closed meanwhile gets nothing, as in Pomelo.
        let (text, too_large) = match write(outcome) {
            Ok(()) | Err(PushError::Send(SendError::Closed | SendError::SlowClient)) => return,
            Err(PushError::Send(error)) => (error.to_string(), true),
            Err(PushError::Encode(error)) => (error.to_string(), false),
        };
        shaddock_net::quiet!(error, "an answer cannot be sent", route, sid = %session.id(), error = text, too_large);
        let instead = Err(HandlerError::internal("the answer cannot be sent"));
        if write(&instead).is_err() {
            shaddock_net::quiet!(error, "nor can an error", route, sid = %session.id());
        }
    }

    /// Answers a request that never became one.
    pub(crate) fn refuse(
        self,
        session: &Arc<Session>,
        id: NonZeroU64,
        route: Option<&Route>,
        reason: RefuseReason,
    ) {
        self.app.stats().requests.add(1);
        self.app.stats().errors.add(1);
        let route = route.map_or("", Route::as_str);
        tracing::debug!(route, sid = %session.id(), reason = reason.name(), "a request was rejected");
        self.write(
            session,
            id,
            route,
            &Err(HandlerError::bad_request(reason.text())),
        );
    }
}

/// What the application did not expect is a warning; what it answered with is its own business.
fn log_error(request: &RequestContext, error: &HandlerError) {
    request.note_failure(error);
    let (route, sid) = (
        request.route().as_str(),
        request.session().id().map(Sid::get),
    );
    if error.source().is_some() && [codes::UNKNOWN, codes::INTERNAL].contains(&error.code()) {
        shaddock_net::quiet!(warn, "a handler failed", route, sid, %error);
    } else {
        tracing::debug!(route, sid, %error, "a request was answered with an error");
    }
}

/// What a handler's answer is for a Pitaya frontend, whose clients read it unchanged: as ours would read it.
pub(crate) fn for_other_server(reply: Reply) -> Bytes {
    let is_nothing = !reply.is_raw() && value_or(reply.as_slice(), b"").is_empty();
    if is_nothing && reply.has_value() {
        return Bytes::from_static(NO_VALUE);
    }
    reply.into_bytes()
}

fn value_or<'a>(json: &'a [u8], otherwise: &'a [u8]) -> &'a [u8] {
    // Compact text, so the falsy values have few spellings.
    match json {
        b"" | b"null" | b"0" | b"-0" | b"0.0" | b"-0.0" | b"\"\"" | b"false" => otherwise,
        value => value,
    }
}

fn pomelo_error<'a>(codec: &Codec, error: &'a HandlerError) -> Cow<'a, [u8]> {
    let body = error.body().map_or(&b""[..], |body| value_or(body, b""));
    if body.is_empty() {
        let body = codec.error_body(Dialect::Pomelo, error.code(), error.message(), &[]);
        return Cow::Owned(body.into());
    }
    if body.first() != Some(&b'{') {
        return Cow::Borrowed(body);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(mut object)) if !object.get("code").is_some_and(is_truthy) => {
            object.insert("code".to_owned(), Value::from(500));
            serde_json::to_vec(&object).map_or(Cow::Borrowed(NO_BODY), Cow::Owned)
        }
        Ok(_) => Cow::Borrowed(body),
        // A text that was built by hand, and is not JSON.
        Err(_) => Cow::Borrowed(NO_BODY),
    }
}

/// What JavaScript takes for true.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

fn pitaya_error(codec: &Codec, error: &HandlerError) -> Vec<u8> {
    let metadata: Vec<(&str, &str)> = error
        .metadata()
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    codec
        .error_body(Dialect::Pitaya, error.code(), error.message(), &metadata)
        .into()
}

/// Completes a request whose client is connected to this app: the answer goes into the session's outbound queue.
pub(crate) struct ToClient(Arc<Filters>);

impl Complete for ToClient {
    type Output = ();

    fn of(filters: &Arc<Filters>) -> Self {
        Self(Arc::clone(filters))
    }

    fn complete(self, request: &mut RequestContext, mut outcome: Outcome) {
        self.0.own.run_after(request, &mut outcome);
        answer_client(request, outcome, &self.0);
    }

    fn panicked_output() {}

    fn recover(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        self.0.own.recover(request, error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shaddock_protocol::{CodecConfig, PomeloErrors};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "shorter cases")]
    fn pomelo(outcome: Outcome) -> String {
        let codec = Codec::new(CodecConfig::default());
        let (body, flag) = answer(&codec, Dialect::Pomelo, &outcome);
        assert!(!flag);
        String::from_utf8(body.into_owned()).unwrap()
    }

    #[test]
    fn pomelo_answers_follow_the_table() {
        for falsy in ["", "null", "0", "\"\"", "false", "0.0"] {
            assert_eq!(pomelo(Ok(Reply::raw(falsy))), "{}");
        }
        for value in ["{\"a\":1}", "[]", "\"x\"", "1", "true"] {
            assert_eq!(pomelo(Ok(Reply::raw(value))), value);
        }
        let error = || HandlerError::new("X", "y");
        assert_eq!(pomelo(Err(error())), "{\"code\":500}");
        let cases = [
            ("{\"b\":1,\"a\":2}", "{\"b\":1,\"a\":2,\"code\":500}"),
            ("{\"code\":0}", "{\"code\":500}"),
            ("{\"code\":404,\"a\":1}", "{\"code\":404,\"a\":1}"),
            ("\"text\"", "\"text\""),
            ("7", "7"),
            ("null", "{\"code\":500}"),
            ("{not json", "{\"code\":500}"),
        ];
        for (body, expected) in cases {
            assert_eq!(pomelo(Err(error().with_raw_body(body.into()))), expected);
        }
    }

    #[test]
    fn pomelo_clients_can_receive_error_details() {
        let codec = Codec::new(CodecConfig::default().pomelo_errors(PomeloErrors::Text));
        let read = |error| {
            let outcome = Err(error);
            let (body, _) = answer(&codec, Dialect::Pomelo, &outcome);
            String::from_utf8(body.into_owned()).unwrap()
        };
        let error = || HandlerError::new("SHOP-1", "no \"gold\"");
        assert_eq!(
            read(error()),
            r#"{"code":500,"error":"SHOP-1","msg":"no \"gold\""}"#
        );
        // A body is the application's own word.
        assert_eq!(
            read(error().with_body(&json!({"code": 1}))),
            r#"{"code":1}"#
        );
        let fault = HandlerError::internal("the password of the database");
        assert_eq!(
            read(fault),
            r#"{"code":500,"error":"PIT-500","msg":"internal error"}"#
        );
    }

    #[test]
    fn pitaya_clients_can_decode_another_servers_answer() {
        let codec = Codec::new(CodecConfig::default());
        let read = |reply| {
            let outcome = Ok(reply);
            let (body, flag) = answer(&codec, Dialect::Pitaya, &outcome);
            assert!(!flag);
            String::from_utf8(body.into_owned()).unwrap()
        };
        for raw in ["null", "0", "\"\"", "false", "1", "ack", "{}"] {
            assert_eq!(read(Reply::raw(raw)), raw);
        }
        assert_eq!(read(Reply::raw("")), "{}");
        assert_eq!(read(Reply::empty()), "{}");
        for (value, expected) in [(json!(null), "{}"), (json!(0), "{}"), (json!(7), "7")] {
            assert_eq!(read(Reply::json(&value).unwrap()), expected);
            // Also through another server.
            let sent = for_other_server(Reply::json(&value).unwrap());
            assert_eq!(read(Reply::raw(sent)), expected);
        }
        assert_eq!(for_other_server(Reply::empty()), "");
    }

    #[test]
    fn pitaya_errors_have_a_flag_and_their_shape() {
        let codec = Codec::new(CodecConfig::default());
        let outcome = Err(HandlerError::not_found("no \"x\""));
        let (body, flag) = answer(&codec, Dialect::Pitaya, &outcome);
        assert_eq!(
            (&*body, flag),
            (
                &b"{\"code\":\"PIT-404\",\"msg\":\"no \\\"x\\\"\"}"[..],
                true
            )
        );
        let outcome = Err(HandlerError::new("X", "y").with_metadata("k", "v"));
        let (body, _) = answer(&codec, Dialect::Pitaya, &outcome);
        assert_eq!(
            &*body,
            b"{\"code\":\"X\",\"msg\":\"y\",\"metadata\":{\"k\":\"v\"}}"
        );
    }
}
