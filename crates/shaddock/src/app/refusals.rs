//! Logs the number of rejected connections, by reason.
//!
//! Clients decide how often they connect, so each rejection is logged at `debug` only. Once a minute there is one line for each listener
//! and reason, from the existing counters: a flood causes no more lines than a single rejection.

use std::{collections::HashMap, net::SocketAddr, sync::Weak, time::Duration};

use shaddock_net::{NetStats, clock, quiet};

use super::{AppHandle, AppInner};

/// Time between two summaries.
const PERIOD: Duration = Duration::from_secs(60);

/// The counts that were logged last.
#[derive(Debug, Default)]
struct Logged(HashMap<(SocketAddr, &'static str), u64>);

impl Logged {
    /// Rejections since the last call: listener, reason, number.
    fn news(
        &mut self,
        listeners: impl IntoIterator<Item = (SocketAddr, NetStats)>,
    ) -> Vec<(SocketAddr, &'static str, u64)> {
        let mut news = Vec::new();
        for (listener, stats) in listeners {
            for (reason, count) in stats.refused {
                let logged = self.0.entry((listener, reason)).or_default();
                if count > *logged {
                    news.push((listener, reason, count - *logged));
                    *logged = count;
                }
            }
        }
        news
    }
}

/// Logs summaries until the app stops or is dropped, including the number of suppressed lines.
pub(super) async fn log_summaries(app: Weak<AppInner>) {
    let mut logged = Logged::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        quiet::report(clock::latest());
        let Some(app) = app.upgrade().map(AppHandle::from_inner) else {
            return;
        };
        let listeners = app.local_addrs().into_iter().zip(app.net_stats());
        for (listener, reason, connections) in logged.news(listeners) {
            tracing::info!(
                app = app.id(),
                %listener,
                reason,
                connections,
                "connections were rejected in the last minute"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_for_each_reason() {
        let listener: SocketAddr = ([127, 0, 0, 1], 3010).into();
        let stats = |denied, too_many| {
            let mut stats = NetStats::default();
            stats.refused.insert("denied", denied);
            stats.refused.insert("too_many_connections", too_many);
            [(listener, stats)]
        };
        let mut logged = Logged::default();
        assert_eq!(
            logged.news(stats(53_736, 1)),
            [
                (listener, "denied", 53_736),
                (listener, "too_many_connections", 1)
            ]
        );
        assert_eq!(logged.news(stats(53_736, 1)), []);
        assert_eq!(
            logged.news(stats(53_740, 1)),
            [(listener, "denied", 4)],
            "only what is new"
        );
        assert_eq!(logged.news([]), [], "the listeners are closed");
    }
}
