//! Renders the metrics of the process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    own::Own,
    page::{Labels, Page, Seen},
    process,
};
use crate::{
    app::AppHandle,
    operations::{Operations, Phase},
    telemetry::Tracer,
};

/// The format that [`render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process in the OpenMetrics text format.
///
/// It visits every session once; with very many sessions call it where waiting a few milliseconds does no harm.
pub fn render(operations: &Operations) -> String {
    let mut registry = Registry::with_prefix("shaddock");
    registry.register_collector(Box::new(Snapshot(operations.clone())));
    // Under the names that all programs have for it.
    let mut process = Registry::default();
    process.register_collector(Box::new(Process));
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String does not fail.
    let _ = text::encode_registry(&mut out, &registry);
    let _ = text::encode_registry(&mut out, &process);
    let mut own = Registry::default();
    own.register_collector(Box::new(Applications(operations.clone())));
    let _ = text::encode_registry(&mut out, &own);
    let _ = text::encode_eof(&mut out);
    out
}

/// The output of [`classic`].
#[cfg(feature = "admin")]
pub(crate) const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same in the older text format of Prometheus, which names counters with their `_total`: for programs that read nothing else, among them
/// `promtool check metrics`.
#[cfg(feature = "admin")]
pub(crate) fn classic(text: &str) -> String {
    use fmt::Write as _;

    let counters: std::collections::HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", what @ ("HELP" | "TYPE"), name, rest] if counters.contains(name) => {
                // Writing to a String does not fail.
                let _ = write!(out, "# {what} {name}_total {rest}");
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// The metrics of applications.
#[derive(Debug)]
struct Applications(Operations);

impl Collector for Applications {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let apps = self.0.apps();
        // One family for all servers of the process that have it. If two use a name differently, the first one counts.
        let mut families: BTreeMap<String, (String, Vec<(Labels<'_>, Own)>)> = BTreeMap::new();
        for app in &apps {
            for (name, help, own) in app.metrics().read() {
                let labels = vec![("server", app.id()), ("server_type", app.server_type())];
                let (_, values) = families.entry(name).or_insert_with(|| (help, Vec::new()));
                let is_same =
                    |first: &Own| std::mem::discriminant(first) == std::mem::discriminant(&own);
                if values.first().is_none_or(|(_, first)| is_same(first)) {
                    values.push((labels, own));
                }
            }
        }
        let mut page = Page(&mut encoder);
        for (name, (help, values)) in &families {
            let kind = match values.first() {
                Some((_, Own::Counter(_))) => MetricType::Counter,
                _ => MetricType::Gauge,
            };
            page.family(name, help, kind, |mut family| {
                for (labels, own) in values {
                    let mut metric = family.encode_family(labels)?;
                    match own {
                        Own::Counter(counter) => {
                            metric.encode_counter::<NoLabelSet, u64, u64>(&counter.get(), None)?;
                        }
                        Own::Gauge(gauge) => metric.encode_gauge(&gauge.get())?,
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The process as Prometheus knows processes.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(process) = process::read() else {
            return Ok(());
        };
        let mut page = Page(&mut encoder);
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                Some(process.resident_bytes),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                Some(process.virtual_bytes),
            ),
            (
                "process_open_fds",
                "Number of open file descriptors",
                Some(process.open_files),
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                shaddock_net::descriptors::limit(),
            ),
        ];
        for (name, help, value) in gauges {
            page.gauges(name, help, value.map(|value| (Vec::new(), value)))?;
        }
        page.family(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds",
            MetricType::Gauge,
            |mut family| family.encode_gauge(&process.started),
        )?;
        page.family(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            MetricType::Counter,
            |mut family| family.encode_counter::<NoLabelSet, f64, f64>(&process.cpu_seconds, None),
        )
    }
}

#[derive(Debug)]
struct Snapshot(Operations);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen: Vec<Seen> = self.0.apps().into_iter().map(Seen::new).collect();
        let mut page = Page(&mut encoder);
        page.process(&self.0)?;
        page.sessions(&seen)?;
        page.resume(&seen)?;
        page.listeners(&seen)?;
        page.work(&seen)?;
        page.cluster(&seen)?;
        page.backends(&seen)?;
        page.admin(&self.0)?;
        page.latencies(&seen)
    }
}

impl Page<'_, '_> {
    fn process(&mut self, operations: &Operations) -> fmt::Result {
        let none = Vec::new;
        let ready = u64::from(operations.phase() == Phase::Running);
        self.gauges("ready", "Whether clients are accepted", [(none(), ready)])?;
        let version = env!("CARGO_PKG_VERSION");
        self.gauges(
            "build_info",
            "Version of the framework",
            [(vec![("version", version)], 1)],
        )?;
        let uptime = operations.uptime().as_secs();
        self.gauges(
            "uptime_seconds",
            "Seconds since the process started",
            [(none(), uptime)],
        )?;
        self.counters(
            "log_lines_dropped",
            "Lines of the log dropped because standard error was not read in time",
            operations.dropped_log_lines().map(|lines| (none(), lines)),
        )?;
        self.telemetry(operations)
    }

    fn telemetry(&mut self, operations: &Operations) -> fmt::Result {
        let apps = operations.apps();
        let counts = apps.iter().find_map(AppHandle::tracer).map(Tracer::counts);
        let counts = counts.as_deref();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.counters(
            "telemetry_spans_exported",
            "Spans that the collector accepted",
            counts.map(|counts| (Vec::new(), read(&counts.exported))),
        )?;
        let dropped = counts.map(|counts| {
            [
                ("queue_full", &counts.queue_full),
                ("failed", &counts.failed),
                ("rejected", &counts.rejected),
            ]
        });
        self.counters(
            "telemetry_spans_dropped",
            "Spans that were lost",
            dropped
                .into_iter()
                .flatten()
                .map(|(reason, count)| (vec![("reason", reason)], read(count))),
        )
    }

    /// The admin server of the process.
    fn admin(&mut self, operations: &Operations) -> fmt::Result {
        let none = Vec::new;
        let counters = operations.admin_counters();
        self.gauges(
            "admin_jobs",
            "Running jobs: commands of operators with a pace",
            counters.map(|counters| (none(), (counters.jobs)())),
        )?;
        self.counters(
            "admin_audit_lost",
            "Audit lines that are missing in the audit file and are only in the log of the process",
            counters.map(|counters| (none(), (counters.lost_lines)())),
        )
    }
}
