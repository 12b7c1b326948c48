//! Metrics as Prometheus reads them. Everything is read at the moment of a scrape from counters that exist anyway; nothing is
//! counted twice, and no request waits for a scrape.
//!
//! Labels are bounded: servers of the process, listeners, reasons out of closed sets, routes that have a handler.

mod backends;
mod calls;
mod cluster;
mod exchanges;
mod histogram;
mod latency;
mod own;
pub(crate) mod process;

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use shaddock_core::{ResumeStatistics, SessionService, SessionStatistics};
use shaddock_net::NetStats;

pub(crate) use self::calls::Calls;
pub(crate) use self::exchanges::{Exchanges, NoAnswer};
pub(crate) use self::histogram::{Histogram, bounds_us};
pub(crate) use self::latency::{Latencies, LatencyFilter, Times, answer_times};
use self::own::Own;
pub use self::own::{Gauge, Metrics};
pub use crate::stats::Counter;
use crate::{
    app::AppHandle,
    operations::{Operations, Phase},
    telemetry::Tracer,
};

/// What [`render`] writes.
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

/// What [`classic`] makes.
pub(crate) const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same in the older text format of Prometheus, which names counters with their `_total`: for programs that read nothing else, among them
/// `promtool check metrics`.
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

/// Sums over the open sessions of a frontend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) bound: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) fullest_bytes: u64,
}

impl Walk {
    pub(crate) fn of(service: &SessionService) -> Self {
        let mut walk = Self::default();
        service.visit_sessions(|session| {
            let stats = session.outbox().stats();
            let queued = (stats.queued_bytes + stats.in_flight_bytes) as u64;
            walk.bound += u64::from(session.uid().is_some());
            walk.queued_bytes += queued;
            walk.fullest_bytes = walk.fullest_bytes.max(queued);
        });
        walk
    }
}

/// One app at the moment of the scrape.
struct Seen {
    app: AppHandle,
    sessions: Option<(SessionStatistics, Walk)>,
    resume: Option<ResumeStatistics>,
    listeners: Vec<(String, NetStats)>,
}

impl Seen {
    fn new(app: AppHandle) -> Self {
        let sessions = app
            .session_service()
            .map(|service| (service.statistics(), Walk::of(service)));
        let resume = app.session_service().map(SessionService::resume_statistics);
        let addresses = app
            .local_addrs()
            .into_iter()
            .map(|address| address.to_string());
        let listeners = addresses.zip(app.net_stats()).collect();
        Self {
            app,
            sessions,
            resume,
            listeners,
        }
    }

    fn labels(&self) -> [(&str, &str); 2] {
        [
            ("server", self.app.id()),
            ("server_type", self.app.server_type()),
        ]
    }
}

/// What applications count.
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

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The text that is being written: families one after the other.
struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauges<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut family| {
            for (labels, value) in values {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    fn counters<'s>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut family| {
            for (labels, value) in values {
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
            Ok(())
        })
    }

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

    /// What the admin server of the process does.
    fn admin(&mut self, operations: &Operations) -> fmt::Result {
        let none = Vec::new;
        let work = operations.admin_work();
        self.gauges(
            "admin_jobs",
            "Running jobs: commands of operators with a pace",
            work.map(|work| (none(), work.jobs())),
        )?;
        self.counters(
            "admin_audit_lost",
            "Audit lines that are missing in the audit file and are only in the log of the process",
            work.map(|work| (none(), work.lost_lines())),
        )
    }

    fn sessions(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read: fn(&SessionStatistics, &Walk) -> u64| {
            seen.iter().filter_map(move |one| {
                let (statistics, walk) = one.sessions.as_ref()?;
                Some((one.labels().to_vec(), read(statistics, walk)))
            })
        };
        self.gauges("sessions", "Open sessions", each(|s, _| s.sessions as u64))?;
        self.gauges(
            "bound_sessions",
            "Open sessions that are bound to a user",
            each(|_, walk| walk.bound),
        )?;
        self.gauges("users", "Users with a session", each(|s, _| s.users as u64))?;
        self.gauges(
            "outbox_bytes",
            "Bytes that wait for clients",
            each(|_, walk| walk.queued_bytes),
        )?;
        self.gauges(
            "outbox_fullest_bytes",
            "Bytes that wait for the slowest client",
            each(|_, walk| walk.fullest_bytes),
        )?;
        self.counters("sessions_opened", "Sessions made", each(|s, _| s.created))?;
        self.counters(
            "slow_clients",
            "Sessions closed because their clients did not read",
            each(|s, _| {
                s.closed
                    .iter()
                    .filter(|(name, _)| *name == "slow_client")
                    .map(|(_, n)| n)
                    .sum()
            }),
        )?;
        let closed = seen.iter().flat_map(|one| {
            let reasons = one.sessions.iter().flat_map(|(s, _)| &s.closed);
            reasons.map(|(reason, n)| (with(&one.labels(), &[("reason", reason)]), *n))
        });
        self.counters("sessions_closed", "Sessions closed, by reason", closed)
    }

    /// Resumable sessions.
    fn resume(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read: fn(&ResumeStatistics) -> u64| {
            seen.iter().filter_map(move |one| {
                let resume = one.resume.as_ref()?;
                Some((one.labels().to_vec(), read(resume)))
            })
        };
        self.gauges(
            "sessions_suspended",
            "Suspended sessions",
            each(|it| it.suspended as u64),
        )?;
        self.gauges(
            "resume_kept_bytes",
            "Bytes kept until clients acknowledge them",
            each(|it| it.kept_bytes as u64),
        )?;
        let relays = seen.iter().filter(|one| one.resume.is_some());
        let relays = relays.flat_map(|one| {
            let (sockets, sessions) = one.app.relays().count();
            [("socket", sockets), ("session", sessions)]
                .map(|(here, n)| (with(&one.labels(), &[("here", here)]), n as u64))
        });
        self.gauges(
            "resume_relays",
            "Relayed connections: the socket or the session is here, the other at another frontend",
            relays,
        )?;
        self.counters(
            "resume_granted",
            "Resumable sessions",
            each(|it| it.granted),
        )?;
        self.counters(
            "resume_resumed",
            "Sessions that were resumed with a new connection",
            each(|it| it.resumed),
        )?;
        self.counters(
            "resume_missed",
            "Messages that clients were reported to have missed",
            each(|it| it.missed),
        )?;
        self.counters(
            "resume_expired",
            "Suspended sessions whose clients did not return in time",
            each(|it| it.expired),
        )?;
        self.counters(
            "resume_evicted",
            "Sessions closed because too many were suspended",
            each(|it| it.evicted),
        )?;
        self.counters(
            "resume_dismissed",
            "Connections closed by a drain, so that clients resume through other frontends",
            each(|it| it.dismissed),
        )?;
        let refused = seen.iter().flat_map(|one| {
            let reasons = one.resume.iter().flat_map(|it| &it.refused);
            reasons.map(|(reason, n)| (with(&one.labels(), &[("reason", reason)]), *n))
        });
        self.counters("resume_refused", "Failed resumes, by reason", refused)
    }

    fn listeners(&mut self, seen: &[Seen]) -> fmt::Result {
        let open = seen
            .iter()
            .filter(|one| one.sessions.is_some())
            .map(|one| (one.labels().to_vec(), one.app.open_connections() as u64));
        self.gauges(
            "connections",
            "Open connections, with or without a session",
            open,
        )?;
        let each = |read: fn(&NetStats) -> u64| {
            seen.iter().flat_map(move |one| {
                one.listeners.iter().map(move |(address, stats)| {
                    let labels = with(&one.labels(), &[("listener", address)]);
                    (labels, read(stats))
                })
            })
        };
        self.counters(
            "connections_accepted",
            "Accepted connections",
            each(|s| s.accepted),
        )?;
        self.counters("handshakes", "Handshakes completed", each(|s| s.opened))?;
        self.counters("received_bytes", "Bytes from clients", each(|s| s.bytes_in))?;
        self.counters("sent_bytes", "Bytes to clients", each(|s| s.bytes_out))?;
        self.counters("requests", "Requests of clients", each(|s| s.requests))?;
        self.counters("notifies", "Notifies of clients", each(|s| s.notifies))?;
        let by_reason = |pick: fn(&NetStats) -> &BTreeMap<&'static str, u64>| {
            seen.iter().flat_map(move |one| {
                one.listeners.iter().flat_map(move |(address, stats)| {
                    pick(stats).iter().map(move |(reason, n)| {
                        let more = [("listener", address.as_str()), ("reason", *reason)];
                        (with(&one.labels(), &more), *n)
                    })
                })
            })
        };
        self.counters(
            "connections_refused",
            "Rejected connections, by reason",
            by_reason(|s| &s.refused),
        )?;
        self.counters(
            "connections_closed",
            "Connections closed, by reason",
            by_reason(|s| &s.closed),
        )?;
        self.counters(
            "dropped",
            "Packages and messages dropped while the connection lives, by reason",
            by_reason(|s| &s.dropped),
        )
    }

    fn work(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read: fn(&AppHandle) -> u64| {
            seen.iter()
                .map(move |one| (one.labels().to_vec(), read(&one.app)))
        };
        self.counters(
            "handled",
            "Dispatched requests and notifies, of clients and of other servers",
            each(|app| app.stats().requests.get()),
        )?;
        self.counters(
            "handler_errors",
            "Requests with an error response",
            each(|app| app.stats().errors.get()),
        )?;
        self.counters(
            "handler_panics",
            "Handlers, filters and listeners that panicked",
            each(|app| app.stats().panics.get()),
        )?;
        self.counters(
            "handler_timeouts",
            "Handlers that did not finish in time",
            each(|app| app.stats().timeouts.get()),
        )?;
        self.counters(
            "pushes",
            "Queued pushes, one per receiver",
            each(|app| app.stats().pushed.get()),
        )?;
        self.counters(
            "pushes_missed",
            "Receivers of pushes without a session",
            each(|app| app.stats().missing.get()),
        )?;
        self.counters(
            "lost_events",
            "Session events dropped because listeners did not keep up",
            each(|app| app.stats().lost_events.get()),
        )
    }

    fn latencies(&mut self, seen: &[Seen]) -> fmt::Result {
        let latencies: Vec<_> = seen
            .iter()
            .filter_map(|one| Some((one, one.app.get::<Latencies>()?)))
            .collect();
        let by_route = |read: fn(&Histogram) -> u64| {
            latencies.iter().flat_map(move |(one, latencies)| {
                let routes = latencies.read(&one.app).into_iter();
                routes.map(move |(route, histogram)| {
                    (with(&one.labels(), &[("route", route)]), read(histogram))
                })
            })
        };
        self.counters(
            "route_errors",
            "Requests with an error response, by route",
            by_route(Histogram::errors),
        )?;
        self.counters(
            "route_panics",
            "Requests whose handler or filter panicked, by route",
            by_route(Histogram::panics),
        )?;
        self.counters(
            "route_blocked",
            "Times at which a handler held its thread for 100 ms or longer without waiting, by route",
            by_route(Histogram::blocked),
        )?;
        let name = "handler_seconds";
        let help = "Time from the first filter to the response, by route";
        self.family(name, help, MetricType::Histogram, |mut family| {
            for one in seen {
                let Some(latencies) = one.app.get::<Latencies>() else {
                    continue;
                };
                for (route, histogram) in latencies.read(&one.app) {
                    let labels = with(&one.labels(), &[("route", route)]);
                    let (sum, count, buckets) = histogram.read();
                    family
                        .encode_family(&labels)?
                        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
            Ok(())
        })
    }
}

fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Labels<'a> {
    [labels, more].concat()
}
