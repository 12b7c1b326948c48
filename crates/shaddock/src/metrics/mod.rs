//! Metrics as Prometheus reads them. Everything is read at the moment of a scrape from counters that exist anyway; nothing is
//! counted twice, and no request waits for a scrape.
//!
//! Labels are bounded: servers of the process, listeners, reasons out of closed sets, routes that have a handler.

mod answers;
mod backends;
mod calls;
mod cluster;
mod exchanges;
mod handlers;
mod histogram;
mod latency;
mod latency_filter;
mod own;
mod page;
pub(crate) mod process;
mod render;
mod sessions;
mod walk;

pub(crate) use self::{
    answers::answer_times,
    calls::Calls,
    exchanges::{Exchanges, NoAnswer},
    histogram::{Histogram, bounds_us},
    latency::{Latencies, Times},
    latency_filter::LatencyFilter,
};
pub use self::{
    own::{Gauge, Metrics},
    render::{CONTENT_TYPE, render},
};
#[cfg(feature = "admin")]
pub(crate) use self::{
    render::{CLASSIC_TYPE, classic},
    walk::Walk,
};
pub use crate::stats::Counter;
