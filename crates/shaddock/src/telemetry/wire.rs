//! OTLP: the messages of `opentelemetry/proto/collector/trace/v1`, as far as they are used. `tests/vectors/otlp.json` proves them with bytes that
//! OpenTelemetry's own library wrote.

use prost::Message;

use super::span::{Attribute, Record};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InstrumentationScope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_field_names, reason = "the names are OTLP's")]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "OneValue", tags = "1, 3")]
    pub(super) value: Option<OneValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OneValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// What the collector answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

/// `STATUS_CODE_ERROR`
const ERROR: i32 = 2;
/// Whether the parent is of another process is known, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The request with these spans.
pub(super) fn request(resource: &[(&str, &str)], records: &[Record]) -> Vec<u8> {
    let attributes = resource
        .iter()
        .map(|(key, value)| key_value(key, &Attribute::Text((*value).to_owned())));
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.collect(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "shaddock".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans: records.iter().map(span).collect(),
            }],
        }],
    };
    request.encode_to_vec()
}

fn span(record: &Record) -> Span {
    let context = &record.context;
    let parent = match record.parent {
        0 => Vec::new(),
        parent => parent.to_be_bytes().to_vec(),
    };
    let remote = if record.is_parent_remote {
        HAS_IS_REMOTE | IS_REMOTE
    } else {
        HAS_IS_REMOTE
    };
    Span {
        trace_id: context.trace.to_be_bytes().to_vec(),
        span_id: context.span.to_be_bytes().to_vec(),
        trace_state: context.state().unwrap_or_default().to_owned(),
        parent_span_id: parent,
        name: record.name.clone(),
        kind: record.kind as i32,
        start_time_unix_nano: record.start,
        end_time_unix_nano: record.end,
        attributes: record
            .attributes
            .iter()
            .map(|(key, value)| key_value(key, value))
            .collect(),
        status: record.error.as_ref().map(|error| Status {
            message: error.to_string(),
            code: ERROR,
        }),
        flags: u32::from(context.is_sampled) | remote,
    }
}

fn key_value(key: &str, value: &Attribute) -> KeyValue {
    let value = match value {
        Attribute::Text(text) => OneValue::Text(text.clone()),
        Attribute::Number(number) => OneValue::Number(*number),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

/// How many spans the collector did not take, and why.
pub(super) fn rejected(answer: &[u8]) -> (u64, String) {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let partly = answer.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partly.rejected_spans).unwrap_or(0);
    (rejected, partly.error_message)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::telemetry::{Kind, TraceContext};

    fn vector(name: &str) -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/otlp.json");
        let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let hex = all[name].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    fn record(parent: &str, state: Option<&str>, name: &str, kind: Kind) -> Record {
        Record {
            context: TraceContext::parse(parent, state).unwrap(),
            parent: 0,
            is_parent_remote: false,
            name: name.to_owned(),
            kind,
            start: 1,
            end: 2,
            attributes: Vec::new(),
            error: None,
        }
    }

    /// Byte by byte what OpenTelemetry's own library writes.
    #[test]
    fn requests_are_those_of_the_original() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut say = record(parent, Some("a=b"), "room.h.say", Kind::Server);
        (say.parent, say.is_parent_remote) = (0xa1, true);
        (say.start, say.end) = (1_764_000_000_123_456_789, 1_764_000_000_223_456_789);
        say.text("shaddock.route", "room.h.say");
        say.attributes
            .push(("shaddock.queued", Attribute::Number(-1)));
        say.error = Some("no gold".into());
        let one = "00-00000000000000000000000000000001-0000000000000002-01";
        let push = record(one, None, "push topic", Kind::Producer);
        let two = "00-00000000000000000000000000000001-0000000000000003-01";
        let mut forward = record(two, None, "forward room", Kind::Client);
        forward.parent = 2;
        let written = request(&[("service.name", "game")], &[say, push, forward]);
        let mut expected = ExportTraceServiceRequest::decode(&vector("request")[..]).unwrap();
        // Nothing was passed over.
        assert_eq!(expected.encode_to_vec(), vector("request"));
        let scope = expected.resource_spans[0].scope_spans[0].scope.as_mut();
        scope.unwrap().version = env!("CARGO_PKG_VERSION").to_owned();
        let decoded = ExportTraceServiceRequest::decode(&written[..]).unwrap();
        assert_eq!(decoded, expected);
        assert_eq!(written, expected.encode_to_vec());
    }

    #[test]
    fn responses_are_read() {
        assert_eq!(rejected(&vector("response")), (7, "too old".to_owned()));
        assert_eq!(rejected(&vector("empty_response")), (0, String::new()));
        assert_eq!(rejected(b"<html>"), (0, String::new()));
    }
}
