//! Spans and sampling.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use super::{TraceContext, TracedUsers};
use crate::random::random;

/// The kind of a span, with the numbers of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Kind {
    /// A request that this server handles.
    Server = 2,
    /// A request to another server or service.
    Client = 3,
    /// Messages that are sent.
    Producer = 4,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Text(String),
    Number(i64),
}

/// The data of a recorded span. Times are nanoseconds since 1970.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "spans have nowhere to go")
)]
pub(crate) struct Record {
    pub(super) context: TraceContext,
    /// 0 without a parent.
    pub(super) parent: u64,
    /// The parent is a span of another server.
    pub(super) is_parent_remote: bool,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
    /// The text of the error.
    pub(super) error: Option<Box<str>>,
}

impl Record {
    pub(crate) fn text(&mut self, key: &'static str, value: impl Into<String>) {
        self.attributes.push((key, Attribute::Text(value.into())));
    }

    pub(crate) fn number(&mut self, key: &'static str, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.attributes.push((key, Attribute::Number(value)));
    }
}

/// A running span. It ends when it is dropped.
pub(crate) struct Span {
    context: TraceContext,
    tracer: Tracer,
    /// `None` if the trace is not recorded.
    record: Option<Box<Record>>,
    /// Code and text of the first error.
    error: OnceLock<(Box<str>, Box<str>)>,
}

impl Span {
    /// The propagated context.
    pub(crate) const fn context(&self) -> &TraceContext {
        &self.context
    }

    /// The data, if the trace is recorded.
    pub(crate) fn record(&mut self) -> Option<&mut Record> {
        self.record.as_deref_mut()
    }

    /// Marks the span as failed. The first error counts.
    pub(crate) fn failed(&self, code: &str, text: &str) {
        if self.record.is_some() {
            let _ = self.error.set((code.into(), text.into()));
        }
    }

    /// Starts a child span.
    pub(crate) fn child(&self, kind: Kind) -> Self {
        self.tracer.begin(kind, Some(&self.context), false)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        if let Some((code, text)) = self.error.take() {
            record.text("error.type", code);
            record.error = Some(text);
        }
        record.end = now().max(record.start);
        self.tracer.put(*record);
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Span").field(&self.context).finish()
    }
}

/// Counters of recorded spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Accepted by the collector.
    pub(crate) exported: AtomicU64,
    /// Dropped because the queue was full.
    pub(crate) queue_full: AtomicU64,
    /// Dropped because the collector did not accept the request.
    pub(crate) failed: AtomicU64,
    /// Rejected by the collector in an accepted request.
    pub(crate) rejected: AtomicU64,
}

#[cfg(feature = "otlp")]
impl Counts {
    /// Spans that the collector does not have, for whatever reason.
    pub(crate) fn lost(&self) -> u64 {
        let all = [&self.queue_full, &self.failed, &self.rejected];
        all.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Starts spans. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tracer(Arc<Source>);

struct Source {
    /// A trace is recorded if bits 1 to 63 of its id are below this limit, as in OpenTelemetry's own libraries.
    bound: u64,
    users: TracedUsers,
    queue: mpsc::Sender<Record>,
    counts: Arc<Counts>,
}

impl Tracer {
    #[cfg_attr(
        not(feature = "otlp"),
        allow(dead_code, reason = "spans have nowhere to go")
    )]
    pub(super) fn new(ratio: f64, users: TracedUsers, queue: mpsc::Sender<Record>) -> Self {
        Self(Arc::new(Source {
            bound: bound_of(ratio),
            users,
            queue,
            counts: Arc::default(),
        }))
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.0.counts)
    }

    pub(super) fn users(&self) -> TracedUsers {
        self.0.users
    }

    /// Number of queued spans.
    pub(super) fn waiting(&self) -> usize {
        self.0.queue.max_capacity() - self.0.queue.capacity()
    }

    /// Starts a child span of `parent`, with its sampling decision, or the root span of a new trace.
    pub(crate) fn begin(
        &self,
        kind: Kind,
        parent: Option<&TraceContext>,
        is_parent_remote: bool,
    ) -> Span {
        let context = if let Some(parent) = parent {
            parent.child(some_number())
        } else {
            let low = some_number();
            let trace = (u128::from(some_number()) << 64) | u128::from(low);
            TraceContext::root(trace, some_number(), (low >> 1) < self.0.bound)
        };
        let record = context.is_sampled.then(|| {
            let start = now();
            Box::new(Record {
                context: context.clone(),
                parent: parent.map_or(0, |parent| parent.span),
                is_parent_remote: is_parent_remote && parent.is_some(),
                name: String::new(),
                kind,
                start,
                end: start,
                attributes: Vec::new(),
                error: None,
            })
        });
        Span {
            context,
            tracer: self.clone(),
            record,
            error: OnceLock::new(),
        }
    }

    /// Enqueues a span; never waits.
    fn put(&self, record: Record) {
        if self.0.queue.try_send(record).is_err() {
            self.0.counts.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between 0 and 2^63"
)]
fn bound_of(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * 2_f64.powi(63)) as u64
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A random number other than 0. Each thread has a generator (SplitMix64) with a seed from the operating system.
fn some_number() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(random());
    }
    let next = || {
        let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    loop {
        let number = next();
        if number != 0 {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tracer(ratio: f64, queue: usize) -> (Tracer, mpsc::Receiver<Record>) {
        let (sender, spans) = mpsc::channel(queue);
        (Tracer::new(ratio, TracedUsers::Hashed, sender), spans)
    }

    /// A span ends exactly once, also with a panic, and a span that does not fit into the queue is counted.
    #[test]
    fn spans_end_when_they_are_dropped() {
        let (tracer, mut spans) = tracer(1.0, 2);
        let mut root = tracer.begin(Kind::Server, None, true);
        root.record().unwrap().text("a", "b");
        let child = root.child(Kind::Client);
        child.failed("X-1", "first");
        child.failed("X-2", "second");
        drop(child);
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _root = root;
            panic!("expected in this test");
        }));
        assert!(broken.is_err());
        assert_eq!(tracer.waiting(), 2);
        drop(tracer.begin(Kind::Producer, None, false));
        assert_eq!(tracer.counts().queue_full.load(Ordering::Relaxed), 1);
        let (child, root) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!(child.parent, root.context.span);
        assert_eq!(child.context.trace, root.context.trace);
        assert_eq!((root.parent, root.is_parent_remote), (0, false));
        assert!(child.start >= root.start && child.end <= root.end && child.end >= child.start);
        assert_eq!(child.error.as_deref(), Some("first"));
        let code = ("error.type", Attribute::Text("X-1".to_owned()));
        assert!(child.attributes.contains(&code));
        assert!(spans.try_recv().is_err());
    }

    /// The ratio holds for root spans, and child spans keep the decision.
    #[test]
    fn the_parent_decides() {
        let (tracer, mut spans) = tracer(0.25, 16);
        let mut recorded = 0;
        for _ in 0..40_000 {
            let mut root = tracer.begin(Kind::Server, None, false);
            let is_recorded = root.record().is_some();
            recorded += u32::from(is_recorded);
            assert_eq!(root.child(Kind::Client).record().is_some(), is_recorded);
            root.record = None;
        }
        assert!((9_000..11_000).contains(&recorded), "{recorded}");
        while spans.try_recv().is_ok() {}
        for (flags, is_recorded) in [("01", true), ("00", false)] {
            let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            let parent = TraceContext::parse(&text, None);
            for _ in 0..10 {
                let mut span = tracer.begin(Kind::Server, parent.as_ref(), true);
                assert_eq!(span.record().is_some(), is_recorded);
                assert_eq!(span.context().is_sampled, is_recorded);
                span.record = None;
            }
        }
        for (ratio, all) in [(0.0, false), (1.0, true)] {
            let (tracer, _spans) = self::tracer(ratio, 1);
            for _ in 0..100 {
                assert_eq!(
                    tracer.begin(Kind::Server, None, false).record().is_some(),
                    all
                );
            }
        }
    }

    #[test]
    fn ids_are_new() {
        let numbers = || (0..10_000).map(|_| some_number()).collect::<Vec<u64>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(numbers)).collect();
        let mut all = HashSet::new();
        for thread in threads {
            for number in thread.join().unwrap() {
                assert!(number != 0 && all.insert(number));
            }
        }
    }
}
