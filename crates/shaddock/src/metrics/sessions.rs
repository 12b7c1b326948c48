//! The metrics of sessions and of the connections of clients.

use std::{collections::BTreeMap, fmt};

use shaddock_core::{ResumeStatistics, SessionStatistics};
use shaddock_net::NetStats;

use super::{
    page::{Labels, Page, Seen, with},
    walk::Walk,
};

/// One value of each frontend's resumable sessions.
fn each_resume(
    seen: &[Seen],
    read: fn(&ResumeStatistics) -> u64,
) -> impl Iterator<Item = (Labels<'_>, u64)> {
    seen.iter().filter_map(move |one| {
        let resume = one.resume.as_ref()?;
        Some((one.labels().to_vec(), read(resume)))
    })
}

impl Page<'_, '_> {
    pub(super) fn sessions(&mut self, seen: &[Seen]) -> fmt::Result {
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
    pub(super) fn resume(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read| each_resume(seen, read);
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
        self.resumed(seen)?;
        let refused = seen.iter().flat_map(|one| {
            let reasons = one.resume.iter().flat_map(|it| &it.refused);
            reasons.map(|(reason, n)| (with(&one.labels(), &[("reason", reason)]), *n))
        });
        self.counters("resume_refused", "Failed resumes, by reason", refused)
    }

    /// Counts of resumable sessions: granted, resumed, refused and ended.
    fn resumed(&mut self, seen: &[Seen]) -> fmt::Result {
        let each = |read| each_resume(seen, read);
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
        )
    }

    pub(super) fn listeners(&mut self, seen: &[Seen]) -> fmt::Result {
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
}
