//! The context of the request or call that is being served: calls made meanwhile propagate it, and wait no longer than its caller waits.
//!
//! It belongs to the future of the handler or remote. Spawned work does not inherit it, because no caller waits for that work.

use std::time::{Duration, Instant};

use serde_json::Value;
use shaddock_cluster::Context;

use shaddock_net::MaybeReady;
use tokio::task::JoinHandle;

use crate::{app::Slot, boxed::BoxFuture, telemetry::TraceContext};

/// What the caller of a call that is late already is given: it learns from the answer, and not from a call without a limit.
const LEAST: Duration = Duration::from_millis(1);

#[derive(Clone)]
struct Received {
    context: Context,
    /// When the sender gives up.
    until: Option<Instant>,
}

tokio::task_local! {
    static RECEIVED: Received;
}

/// Serves something that came with `context`: `make` begins it, and what it answers with goes on with it.
pub(crate) fn serve<F: Future<Output: Send + 'static> + Send + 'static>(
    context: Context,
    make: impl FnOnce() -> F,
) -> BoxFuture<F::Output> {
    let received = Received {
        // Without an end, if it is too far away to be told.
        until: context
            .timeout()
            .and_then(|timeout| Instant::now().checked_add(timeout)),
        context,
    };
    let future = RECEIVED.sync_scope(received.clone(), make);
    Box::pin(RECEIVED.scope(received, future))
}

/// As [`serve`], for a request of a client of this server, which has no waiting caller.
pub(crate) fn serve_client(
    context: Context,
    make: impl FnOnce() -> MaybeReady<()>,
) -> MaybeReady<()> {
    let received = Received {
        until: None,
        context,
    };
    match RECEIVED.sync_scope(received.clone(), make) {
        MaybeReady::Later(future) => MaybeReady::later(RECEIVED.scope(received, future)),
        done @ MaybeReady::Now(()) => done,
    }
}

/// Runs a future in this place, in a task of its own that belongs to the request being served all the same.
pub(crate) fn finish<F>(slot: Slot, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match RECEIVED.try_with(Clone::clone) {
        Ok(received) => slot.finish(name, RECEIVED.scope(received, future)),
        Err(_) => slot.finish(name, future),
    }
}

/// Serves a request of a client of this server: in this place, in a task of its own for which its session does not wait, or else as the
/// session's handler.
pub(crate) fn serve_in<F>(slot: Option<Slot>, work: F) -> MaybeReady<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    match slot {
        None => MaybeReady::later(work),
        Some(slot) => {
            drop(finish(slot, "request", work));
            MaybeReady::Now(())
        }
    }
}

/// The trace of what is being served, if it is in one.
pub(crate) fn trace() -> Option<TraceContext> {
    RECEIVED
        .try_with(|received| TraceContext::read(&received.context))
        .ok()
        .flatten()
}

/// A future for a task of its own that belongs to the request being served all the same.
pub(crate) fn carry<F: Future<Output: Send + 'static> + Send + 'static>(
    future: F,
) -> BoxFuture<F::Output> {
    match RECEIVED.try_with(Clone::clone) {
        Ok(received) => Box::pin(RECEIVED.scope(received, future)),
        Err(_) => Box::pin(future),
    }
}

/// What a call that is made now sends along, if it may take `timeout` (zero: for ever).
pub(crate) fn for_call(timeout: Duration) -> Context {
    let passed_on = RECEIVED.try_with(|received| {
        let mut context = received.context.clone();
        let left = received
            .until
            .map(|until| until.saturating_duration_since(Instant::now()).max(LEAST));
        context.set_timeout(match left {
            Some(left) if timeout.is_zero() => left,
            Some(left) => left.min(timeout),
            None => timeout,
        });
        context
    });
    passed_on.unwrap_or_else(|_| Context::with_timeout(timeout))
}

/// A value that came with the request or call that is being served: one that a caller put in ([`Rpc::with`](crate::remote::Rpc::with)), or
/// one that the protocol defines, such as `request.id` or `otel-span` of Pitaya servers.
///
/// `None` outside of handlers and remotes. With a request of a client of this very server nothing came; with
/// [telemetry](crate::telemetry) it has an `otel-span` all the same.
pub fn received_value(key: &str) -> Option<Value> {
    RECEIVED
        .try_with(|received| received.context.get(key))
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timeout(timeout: Duration) -> Context {
        let mut context = Context::with_timeout(timeout);
        context.set("k", Value::from("v"));
        context
    }

    fn inside<T: Send + 'static>(context: Context, look: impl FnOnce() -> T + Send + 'static) -> T {
        let future = serve(context, || async move { look() });
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn a_call_passes_on_values_and_waits_no_longer_than_its_caller() {
        let timeout = |received, wanted| {
            inside(with_timeout(received), move || for_call(wanted).timeout())
                .expect("calls have a limit")
        };
        let second = Duration::from_secs(1);
        assert_eq!(timeout(second * 60, second), second);
        assert!(timeout(second, second * 60) <= second);
        assert!(timeout(second, Duration::ZERO) <= second);
        assert_eq!(timeout(Duration::ZERO, second), LEAST);
        assert_eq!(timeout(Duration::MAX, second), second);
        let value = inside(with_timeout(second), move || for_call(second).get("k"));
        assert_eq!(value, Some("v".into()));
        assert_eq!(inside(with_timeout(second), || received_value("k")), value);
    }

    #[test]
    fn elsewhere_there_is_nothing_to_pass_on() {
        let second = Duration::from_secs(1);
        assert_eq!(for_call(second).timeout(), Some(second));
        assert_eq!(for_call(second).get("k"), None);
        assert_eq!(received_value("k"), None);
    }
}
