//! The metrics of the cluster.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{encoding::NoLabelSet, metrics::MetricType};
use shaddock_cluster::Status;

use super::{
    Calls,
    page::{Labels, Page, Seen, with},
};
use crate::app::AppHandle;

/// Calls of one kind: their name in metrics, what one is, and where they are counted.
type Kind = (&'static str, &'static str, fn(&AppHandle) -> &Calls);

const KINDS: [Kind; 2] = [
    ("forward", "a forwarded request of a client", |app| {
        &app.stats().forwards
    }),
    ("rpc", "a call of a remote", |app| &app.stats().rpcs),
];

impl Page<'_, '_> {
    /// The state of a server towards the other servers.
    pub(super) fn cluster(&mut self, seen: &[Seen]) -> fmt::Result {
        let statuses: Vec<_> = seen
            .iter()
            .filter_map(|one| Some((one.labels().to_vec(), one.app.membership().ok()?.status())))
            .collect();
        let each = |read: fn(&Status) -> u64| {
            statuses
                .iter()
                .map(move |(labels, status)| (labels.clone(), read(status)))
        };
        self.gauges(
            "cluster_connected",
            "1 while the link to the other servers is up (NATS)",
            each(|status| u64::from(status.connected)),
        )?;
        self.gauges(
            "cluster_listed",
            "1 while this server is in the list of servers with a lease that is alive (etcd)",
            each(|status| u64::from(status.listed)),
        )?;
        self.gauges(
            "cluster_fenced",
            "1 while this frontend is disconnected from the cluster, so that other frontends may serve its users",
            seen.iter()
                .map(|one| (one.labels().to_vec(), u64::from(one.app.is_fenced()))),
        )?;
        self.lease_left(&statuses)?;
        self.members(seen)?;
        self.calls(seen)?;
        self.gauges(
            "cluster_calls",
            "Calls to other servers that wait for a reply",
            each(|status| status.pending_calls as u64),
        )?;
        self.gauges(
            "cluster_serving",
            "Running requests of other servers",
            each(|status| status.serving as u64),
        )?;
        self.counters(
            "cluster_refused",
            "Requests of other servers rejected because too many were running",
            each(|status| status.refused_busy),
        )?;
        self.rejected(&statuses)?;
        self.gauges(
            "cluster_waiting_bytes",
            "Bytes that wait to be sent to other servers",
            each(|status| status.waiting_bytes as u64),
        )?;
        self.counters(
            "cluster_expired",
            "Messages to other servers that expired before they were sent",
            each(|status| status.expired),
        )?;
        self.gauges(
            "cluster_etcd_bytes",
            "Bytes of the database of etcd, at the member that replied last",
            each(|status| status.etcd_bytes),
        )?;
        self.gauges(
            "cluster_etcd_bytes_in_use",
            "Bytes of it that are in use; the rest is free after a defragmentation",
            each(|status| status.etcd_bytes_in_use),
        )?;
        self.gauges(
            "cluster_etcd_full",
            "1 while etcd has reached its quota and accepts no writes",
            each(|status| u64::from(status.etcd_full)),
        )?;
        self.counters(
            "cluster_too_late",
            "Requests of other servers that were dropped because their caller had timed out",
            each(|status| status.too_late),
        )?;
        self.counters(
            "cluster_outdated",
            "Requests of other servers that were dropped because another frontend owns their user",
            each(|status| status.outdated),
        )?;
        self.gauges(
            "cluster_suspects",
            "Servers that this one suspects",
            each(|status| status.suspects as u64),
        )?;
        self.counters(
            "cluster_suspected",
            "Times that a server was suspected",
            each(|status| status.suspected),
        )
    }

    /// Messages that this server could not send.
    fn rejected(&mut self, statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        let rejected = statuses.iter().flat_map(|(labels, status)| {
            [
                ("waiting_calls_per_server", status.rejected_calls),
                ("nats_waiting_bytes", status.rejected_sends),
                ("etcd_writes", status.rejected_writes),
            ]
            .map(|(limit, count)| (with(labels, &[("limit", limit)]), count))
        });
        self.counters(
            "cluster_rejected",
            "What this server could not send because a limit was reached, by limit",
            rejected,
        )
    }

    fn lease_left(&mut self, statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        let name = "cluster_lease_left_seconds";
        let help = "Time until the lease of this server expires at etcd if it is not renewed";
        self.family(name, help, MetricType::Gauge, |mut family| {
            for (labels, status) in statuses {
                if let Some(left) = status.lease_left {
                    family
                        .encode_family(labels)?
                        .encode_gauge(&left.as_secs_f64())?;
                }
            }
            Ok(())
        })
    }

    /// How many servers of each type a server knows.
    fn members(&mut self, seen: &[Seen]) -> fmt::Result {
        let known: Vec<(&Seen, BTreeMap<String, u64>)> = seen
            .iter()
            .filter_map(|one| {
                let mut types = BTreeMap::new();
                for member in one.app.membership().ok()?.members().all() {
                    *types.entry(member.server_type.to_string()).or_default() += 1;
                }
                Some((one, types))
            })
            .collect();
        let each = known.iter().flat_map(|(one, types)| {
            types.iter().map(|(member_type, n)| {
                let more = [("member_type", member_type.as_str())];
                (with(&one.labels(), &more), *n)
            })
        });
        self.gauges(
            "cluster_members",
            "Servers in the list, including this one, by type",
            each,
        )
    }

    /// Calls of a server to the other servers.
    fn calls(&mut self, seen: &[Seen]) -> fmt::Result {
        for (name, what, calls) in KINDS {
            let times = format!("cluster_{name}_seconds");
            let help = format!("Time from {what} to its reply");
            self.family(&times, &help, MetricType::Histogram, |mut family| {
                for one in seen {
                    let (sum, count, buckets) = calls(&one.app).times().read();
                    family
                        .encode_family(&one.labels().to_vec())?
                        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
                Ok(())
            })?;
            let failed = seen.iter().flat_map(|one| {
                let reasons = calls(&one.app).failed();
                reasons.map(|(reason, n)| (with(&one.labels(), &[("reason", reason)]), n))
            });
            let errors = format!("cluster_{name}_errors");
            let help = format!("Calls ({what}) that failed or got no reply, by reason");
            self.counters(&errors, &help, failed)?;
        }
        Ok(())
    }
}
