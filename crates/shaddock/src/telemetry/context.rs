//! The propagated trace context (W3C Trace Context).

use std::sync::Arc;

use serde_json::{Map, Value};
use shaddock_cluster::Context;

/// The key of the trace context in the metadata of a request, as in Pitaya: an object of strings.
const KEY: &str = "otel-span";
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Bytes of a `tracestate` that are passed on.
const LONGEST_STATE: usize = 512;

/// The ids of a span and the sampling decision, as they are propagated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// Not 0.
    pub(super) trace: u128,
    /// Not 0.
    pub(super) span: u64,
    /// Whether the trace is recorded.
    pub(super) is_sampled: bool,
    /// `tracestate` of other tracing systems.
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// The first span of a trace.
    pub(super) const fn root(trace: u128, span: u64, is_sampled: bool) -> Self {
        Self {
            trace,
            span,
            is_sampled,
            state: None,
        }
    }

    /// Another span of the same trace.
    pub(super) fn child(&self, span: u64) -> Self {
        Self {
            span,
            ..self.clone()
        }
    }

    /// Parses `traceparent` and `tracestate`. `None` if `traceparent` is invalid; an invalid `tracestate` is left out.
    pub(crate) fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let mut parts = parent.trim().split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may have more parts. 255 is no version.
        let is_known = version != 0xff && (version != 0 || parts.next().is_none());
        if !is_known || trace == 0 || span == 0 {
            return None;
        }
        let is_text = |state: &&str| {
            let fine = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            (1..=LONGEST_STATE).contains(&state.len()) && state.bytes().all(fine)
        };
        Some(Self {
            trace,
            span,
            is_sampled: flags & 1 == 1,
            state: state.map(str::trim).filter(is_text).map(Arc::from),
        })
    }

    /// The text of `traceparent`.
    pub(crate) fn parent(&self) -> String {
        let flags = u8::from(self.is_sampled);
        format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }

    /// The text of `tracestate`, if there is one.
    pub(crate) fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Reads the trace context from the metadata of a request.
    pub(crate) fn read(context: &Context) -> Option<Self> {
        let Value::Object(carried) = context.get(KEY)? else {
            return None;
        };
        let text = |key| carried.get(key).and_then(Value::as_str);
        Self::parse(text(PARENT)?, text(STATE))
    }

    /// Writes the trace context into the metadata of a request. Other strings there (`baggage`) stay.
    pub(crate) fn write(&self, context: &mut Context) {
        let mut carried = match context.get(KEY) {
            Some(Value::Object(carried)) => carried,
            _ => Map::new(),
        };
        // Remotes of Go servers fail on values that are not strings.
        carried.retain(|key, value| key != STATE && value.is_string());
        carried.insert(PARENT.to_owned(), self.parent().into());
        if let Some(state) = self.state() {
            carried.insert(STATE.to_owned(), state.into());
        }
        context.set(KEY, Value::Object(carried));
    }
}

/// So many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PARENT_TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn contexts_of_others() {
        let read = TraceContext::parse(PARENT_TEXT, Some("a=b,c=d")).unwrap();
        assert_eq!(read.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((read.span, read.is_sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(
            (read.parent().as_str(), read.state()),
            (PARENT_TEXT, Some("a=b,c=d"))
        );
        for (text, is_sampled) in [
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
                true,
            ),
            (
                "02-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more",
                true,
            ),
            (
                " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
                true,
            ),
        ] {
            let read = TraceContext::parse(text, None).unwrap();
            assert_eq!(read.is_sampled, is_sampled, "{text}");
        }
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert_eq!(TraceContext::parse(text, None), None, "{text}");
        }
        let long = "x".repeat(600);
        for state in ["", "a=b\r\nx: y", "é=1", &long] {
            let read = TraceContext::parse(PARENT_TEXT, Some(state)).unwrap();
            assert_eq!(read.state(), None, "{state}");
        }
    }

    /// `baggage` stays, and a value that would make a Go server fail is removed.
    #[test]
    fn contexts_in_metadata() {
        let json = json!({"otel-span": {"traceparent": PARENT_TEXT, "tracestate": "a=b", "baggage": "k=v", "n": 1}, "x": 1});
        let mut context = Context::from_json(json.to_string().into()).unwrap();
        let read = TraceContext::read(&context).unwrap();
        let child = TraceContext {
            state: None,
            ..read.child(7)
        };
        child.write(&mut context);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01";
        assert_eq!(
            context.get(KEY),
            Some(json!({"traceparent": parent, "baggage": "k=v"}))
        );
        assert_eq!(TraceContext::read(&context), Some(child));
        assert_eq!(context.get("x"), Some(json!(1)));
        for odd in [
            json!(null),
            json!("x"),
            json!({}),
            json!({"traceparent": 1}),
            json!([1]),
        ] {
            let mut context = Context::new();
            context.set(KEY, odd.clone());
            assert_eq!(TraceContext::read(&context), None, "{odd}");
            read.write(&mut context);
            assert_eq!(TraceContext::read(&context), Some(read.clone()), "{odd}");
        }
    }
}
