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

/// One value of each server's status.
fn each<'a>(
    statuses: &[(Labels<'a>, Status)],
    read: fn(&Status) -> u64,
) -> impl Iterator<Item = (Labels<'a>, u64)> {
    statuses
        .iter()
        .map(move |(labels, status)| (labels.clone(), read(status)))
}

impl Page<'_, '_> {
    /// The state of a server towards the other servers.
    pub(super) fn cluster(&mut self, seen: &[Seen]) -> fmt::Result {
        let statuses: Vec<_> = seen
            .iter()
            .filter_map(|one| Some((one.labels().to_vec(), one.app.membership().ok()?.status())))
            .collect();
        self.links(seen, &statuses)?;
        self.lease_left(&statuses)?;
        self.members(seen)?;
        self.calls(seen)?;
        self.traffic(&statuses)?;
        self.etcd(&statuses)?;
        self.neighbours(&statuses)
    }

    /// The links of this server to the cluster.
    fn links(&mut self, seen: &[Seen], statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        self.gauges(
            "cluster_connected",
            "1 while the link to the other servers is up (NATS)",
            each(statuses, |status| u64::from(status.connected)),
        )?;
        self.gauges(
            "cluster_listed",
            "1 while this server is in the list of servers with a lease that is alive (etcd)",
            each(statuses, |status| u64::from(status.listed)),
        )?;
        self.gauges(
            "cluster_fenced",
            "1 while this frontend is disconnected from the cluster, so that other frontends may serve its users",
            seen.iter()
                .map(|one| (one.labels().to_vec(), u64::from(one.app.is_fenced()))),
        )
    }

    /// Calls and messages between this server and the others.
    fn traffic(&mut self, statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        self.gauges(
            "cluster_calls",
            "Calls to other servers that wait for a reply",
            each(statuses, |status| status.pending_calls as u64),
        )?;
        self.gauges(
            "cluster_serving",
            "Running requests of other servers",
            each(statuses, |status| status.serving as u64),
        )?;
        self.counters(
            "cluster_refused",
            "Requests of other servers rejected because too many were running",
            each(statuses, |status| status.refused_busy),
        )?;
        self.rejected(statuses)?;
        self.gauges(
            "cluster_waiting_bytes",
            "Bytes that wait to be sent to other servers",
            each(statuses, |status| status.waiting_bytes as u64),
        )?;
        self.counters(
            "cluster_expired",
            "Messages to other servers that expired before they were sent",
            each(statuses, |status| status.expired),
        )
    }

    /// The state of etcd.
    fn etcd(&mut self, statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        self.gauges(
            "cluster_etcd_bytes",
            "Bytes of the database of etcd, at the member that replied last",
            each(statuses, |status| status.etcd_bytes),
        )?;
        self.gauges(
            "cluster_etcd_bytes_in_use",
            "Bytes of it that are in use; the rest is free after a defragmentation",
            each(statuses, |status| status.etcd_bytes_in_use),
        )?;
        self.gauges(
            "cluster_etcd_full",
            "1 while etcd has reached its quota and accepts no writes",
            each(statuses, |status| u64::from(status.etcd_full)),
        )
    }

    /// Other servers that are slow or silent, and requests that came from them too late.
    fn neighbours(&mut self, statuses: &[(Labels<'_>, Status)]) -> fmt::Result {
        self.counters(
            "cluster_too_late",
            "Requests of other servers that were dropped because their caller had timed out",
            each(statuses, |status| status.too_late),
        )?;
        self.counters(
            "cluster_outdated",
            "Requests of other servers that were dropped because another frontend owns their user",
            each(statuses, |status| status.outdated),
        )?;
        self.gauges(
            "cluster_suspects",
            "Servers that this one suspects",
            each(statuses, |status| status.suspects as u64),
        )?;
        self.counters(
            "cluster_suspected",
            "Times that a server was suspected",
            each(statuses, |status| status.suspected),
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
