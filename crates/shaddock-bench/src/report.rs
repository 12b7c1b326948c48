//! The result of a run: one JSON line for machines, a table for people.
#![expect(
    clippy::cast_precision_loss,
    reason = "results are read to three digits"
)]

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::tally::Totals;

/// With fewer sessions the memory per session is noise: a server's memory grows in steps of pages.
const ENOUGH_SESSIONS: u64 = 100;

/// The result of one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: &'static str,
    /// The label of the run.
    pub label: String,
    /// The scenario's own settings.
    pub settings: Value,
    /// The unit of [`Report::messages`]: a response, a delivery or a session.
    pub unit: &'static str,
    /// The number of messages in the measured time.
    pub messages: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// Sessions that were open when the measured time began (`churn`: ended).
    pub sessions: u64,
    /// Responses with a wrong body or an error, without a request, or unreadable.
    pub wrong: u64,
    /// Requests without a response, and missing pushes.
    pub lost: u64,
    /// Repeated responses and pushes.
    pub repeated: u64,
    /// Responses and pushes out of order. Checked by `resume` only.
    pub late: u64,
    /// Connections that could not be established.
    pub failed: u64,
    /// Connections that the server ended.
    pub closed: u64,
    /// Descriptions of the first failures.
    pub notes: Vec<String>,
    /// Latency of responses and deliveries; for `churn`, from the start of the connection to the ack; for `resume`, from the start of the
    /// new connection to the first message that the server sends again, if there is one.
    pub latency: Option<Latency>,
    /// `resume`: from the start of a plain connection to the same server, made in between, to its handshake response.
    pub plain: Option<Latency>,
    /// `resume`: of the same connections, to the first package after their ACK, a heartbeat.
    pub plain_open: Option<Latency>,
    /// The server's cost, if its process id was given.
    pub server: Option<ServerCost>,
    /// CPU time of this load tester in the measured time.
    pub own_cpu: Duration,
    /// CPU time of other processes in the measured time.
    pub other_cpu: Duration,
}

/// Percentiles of a latency.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub count: u64,
    pub min: Duration,
    pub mean: Duration,
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
}

/// The cost of the server.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerCost {
    /// CPU time in the measured time, all threads.
    pub cpu: Duration,
    /// The part in user space, in ticks of 10 ms.
    pub user: Duration,
    /// The part in the kernel, in ticks of 10 ms.
    pub system: Duration,
    /// Resident bytes before the first session.
    pub resident_before: u64,
    /// Resident bytes with all sessions open, before any load.
    pub resident_open: u64,
    /// Maximum of the resident bytes, read every quarter of a second.
    pub resident_peak: u64,
    /// Resident bytes at the end of the measured time.
    pub resident_after: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min: Duration::from_nanos(histogram.min()),
            mean: Duration::from_secs_f64(histogram.mean() / 1e9),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(histogram.max()),
        })
    }
}

impl Report {
    /// Whether every response was right, and no connection failed.
    pub fn is_clean(&self) -> bool {
        self.faults() == 0
    }

    /// The total number of faults.
    pub const fn faults(&self) -> u64 {
        self.wrong + self.lost + self.repeated + self.late + self.failed + self.closed
    }

    /// Microseconds of the server's CPU time per message.
    pub fn cpu_per_message(&self) -> Option<f64> {
        let server = self.server.as_ref().filter(|_| self.messages > 0)?;
        Some(micros(server.cpu) / self.messages as f64)
    }

    /// Resident bytes of the server per session.
    pub fn bytes_per_session(&self) -> Option<f64> {
        let server = self.server.as_ref().filter(|_| self.sessions > 0)?;
        let grown = server.resident_open as f64 - server.resident_before as f64;
        Some(grown / self.sessions as f64)
    }

    /// Whether the sessions are idle: there is no rate, and nothing to divide by.
    fn is_idle(&self) -> bool {
        self.scenario == "idle"
    }

    pub(crate) fn count(&mut self, totals: &Totals) {
        self.wrong = totals.wrong;
        self.lost = totals.lost;
        self.repeated = totals.repeated;
        self.late = totals.late;
        self.failed = totals.failed;
        self.closed = totals.closed;
    }

    /// One line of JSON. Times are in microseconds unless the name says otherwise.
    pub fn to_json(&self) -> Value {
        let seconds = self.elapsed.as_secs_f64();
        let percentiles = |latency: Latency| {
            json!({
                "count": latency.count, "min": micros(latency.min), "mean": micros(latency.mean),
                "p50": micros(latency.p50), "p90": micros(latency.p90), "p99": micros(latency.p99),
                "p999": micros(latency.p999), "max": micros(latency.max),
            })
        };
        let server = self.server.map(|server| {
            json!({
                "cpu_s": server.cpu.as_secs_f64(), "user_s": server.user.as_secs_f64(),
                "system_s": server.system.as_secs_f64(),
                "cpu_per_message": self.cpu_per_message(),
                "resident_before": server.resident_before, "resident_open": server.resident_open,
                "resident_peak": server.resident_peak, "resident_after": server.resident_after,
                "bytes_per_session": self.bytes_per_session(),
            })
        });
        json!({
            "scenario": self.scenario, "transport": self.transport, "label": self.label,
            "settings": self.settings, "unit": self.unit, "messages": self.messages,
            "seconds": seconds, "rate": self.messages as f64 / seconds.max(1e-9),
            "sessions": self.sessions, "wrong": self.wrong, "lost": self.lost,
            "repeated": self.repeated, "late": self.late, "failed": self.failed, "closed": self.closed,
            "notes": self.notes, "latency": self.latency.map(percentiles),
            "plain": self.plain.map(percentiles),
            "plain_open": self.plain_open.map(percentiles), "server": server,
            "own_cpu_s": self.own_cpu.as_secs_f64(), "other_cpu_s": self.other_cpu.as_secs_f64(),
        })
    }
}

/// One line: what it is, and the value.
fn line(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<22}{value}")
}

impl Report {
    /// The lines about the server's processor time and memory.
    fn show_server(&self, server: &ServerCost, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = server.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9);
        let cpu = format!("{} ({cores:.2} cores)", time(server.cpu));
        line(f, "server CPU", cpu)?;
        if let Some(cpu) = self.cpu_per_message().filter(|_| !self.is_idle()) {
            line(f, "  for each", format!("{cpu:.3} us"))?;
        }
        let [before, open, peak] = [
            server.resident_before,
            server.resident_open,
            server.resident_peak,
        ]
        .map(|bytes| bytes as f64 / 1_048_576.0);
        let memory = format!("{before:.1} MiB before, {open:.1} open, {peak:.1} at most");
        line(f, "server memory", memory)?;
        let bytes = self.bytes_per_session();
        if let Some(bytes) = bytes.filter(|_| self.sessions >= ENOUGH_SESSIONS) {
            line(f, "  for each session", format!("{bytes:.0} bytes"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let settings = settings(&self.settings);
        writeln!(f, "{} over {}: {settings}", self.scenario, self.transport)?;
        line(f, "sessions", format!("{} open", self.sessions))?;
        if !self.is_idle() {
            let rate = self.messages as f64 / seconds.max(1e-9);
            let messages = format!("{} in {seconds:.2} s, {rate:.0} per second", self.messages);
            line(f, self.unit, messages)?;
        }
        let percentiles = [
            ("latency", &self.latency),
            ("plain connect", &self.plain),
            ("plain, first bytes", &self.plain_open),
        ];
        for (name, latency) in percentiles {
            let Some(latency) = latency else { continue };
            line(
                f,
                name,
                format!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                    time(latency.p50),
                    time(latency.p90),
                    time(latency.p99),
                    time(latency.p999),
                    time(latency.max)
                ),
            )?;
        }
        if let Some(server) = &self.server {
            self.show_server(server, f)?;
        }
        // The order is not checked by other scenarios.
        let late = match self.scenario {
            "resume" => format!("  late {}", self.late),
            _ => String::new(),
        };
        let faults = format!(
            "wrong {}  lost {}  repeated {}{late}  failed {}  closed {}",
            self.wrong, self.lost, self.repeated, self.failed, self.closed
        );
        line(f, if self.is_clean() { "faults" } else { "FAULTS" }, faults)?;
        for note in &self.notes {
            line(f, "", note)?;
        }
        Ok(())
    }
}

/// Settings for people: `connections 64, in_flight 1`.
fn settings(settings: &Value) -> String {
    let known = settings.as_object().into_iter().flatten();
    let texts = known
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name} \"{text}\""),
            other => format!("{name} {other}"),
        });
    texts.collect::<Vec<_>>().join(", ")
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Three digits and a suitable unit.
fn time(time: Duration) -> String {
    match micros(time) {
        micros @ ..1e3 => format!("{micros:.1} us"),
        micros @ ..1e6 => format!("{:.2} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}
