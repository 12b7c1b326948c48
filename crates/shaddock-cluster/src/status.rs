//! The state of a membership, for operators.

/// The current state of a membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The link for calls is up.
    pub connected: bool,
    /// The server is listed with a valid lease (in one process: has not left).
    pub listed: bool,
    /// Pending calls.
    pub pending_calls: usize,
    /// Requests of others that are being served.
    pub serving: usize,
    /// Users bound here.
    pub bound_users: usize,
    /// Subscriptions held at NATS.
    pub subscriptions: usize,
    /// Requests rejected with "busy" because too many were waiting.
    pub refused_busy: u64,
    /// Own calls that were rejected with "busy" because too many waited for the same server (`waiting_calls_per_server`).
    pub rejected_calls: u64,
    /// Own messages that were rejected with "busy" because too much waited to be sent (`nats_waiting_bytes`).
    pub rejected_sends: u64,
    /// Own writes of claims that were rejected because too many waited for etcd: logins that failed.
    pub rejected_writes: u64,
    /// Bytes that wait to be sent to others.
    pub waiting_bytes: usize,
    /// Messages that expired while waiting and were not sent.
    pub expired: u64,
    /// Servers that this one suspects.
    pub suspects: usize,
    /// How often a server was suspected.
    pub suspected: u64,
    /// Requests of others that were not run, because their caller had timed out.
    pub too_late: u64,
    /// Requests of others that were not run, because another frontend now owns their user.
    pub outdated: u64,
    /// Size in bytes of the database of the etcd member that replied last. 0: none has.
    pub etcd_bytes: u64,
    /// The part in use; the rest is free after a defragmentation.
    pub etcd_bytes_in_use: u64,
    /// etcd has reached its quota and accepts no writes.
    pub etcd_full: bool,
    /// How long etcd certainly keeps the lease of this server without a renewal; `None` in one process. Renewals begin at two thirds of the
    /// lease.
    pub lease_left: Option<std::time::Duration>,
}
