//! Sums over the open sessions of a frontend.

use shaddock_core::SessionService;

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
