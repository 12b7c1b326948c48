//! etcd, as far as owners use it: keys with revisions, leases that end by the real time, transactions.

use std::collections::BTreeMap;

use crate::ServerId;
use crate::owners::Found;

#[derive(Clone, Debug)]
pub(super) struct Kv {
    pub(super) value: String,
    pub(super) lease: i64,
    pub(super) revision: i64,
}

#[derive(Default)]
pub(super) struct Etcd {
    pub(super) keys: BTreeMap<String, Kv>,
    revision: i64,
    last_lease: i64,
    /// When each lease ends, in real time.
    leases: BTreeMap<i64, u64>,
}

/// A condition of a transaction.
#[derive(Clone, Debug)]
pub(super) enum If {
    Missing(String),
    Unchanged(String, i64),
    Has(String, String),
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Grant,
    Keep(i64),
    Revoke(i64),
    /// If all hold, puts and deletes; then reads.
    Txn {
        conditions: Vec<If>,
        puts: Vec<(String, String, i64)>,
        deletes: Vec<String>,
        reads: Vec<String>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Granted(i64),
    /// Whether the lease is there.
    Kept(bool),
    /// Whether the conditions held, at which revision, and what was read.
    Txn(bool, i64, Vec<Option<Kv>>),
    /// A put on a lease that is gone.
    NoLease,
    Done,
}

impl Etcd {
    /// Ends the leases whose time has come. etcd may be late, never early.
    pub(super) fn expire(&mut self, now: u64) {
        let over: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id);
        }
    }

    fn end(&mut self, id: i64) {
        if self.leases.remove(&id).is_some() {
            self.revision += 1;
            self.keys.retain(|_, kv| kv.lease != id);
        }
    }

    fn holds(&self, condition: &If) -> bool {
        match condition {
            If::Missing(key) => !self.keys.contains_key(key),
            If::Unchanged(key, revision) => self
                .keys
                .get(key)
                .is_some_and(|kv| kv.revision == *revision),
            If::Has(key, value) => self.keys.get(key).is_some_and(|kv| kv.value == *value),
        }
    }

    /// `until`: when a lease that is granted or kept now ends.
    pub(super) fn apply(&mut self, op: Op, until: u64) -> Answer {
        match op {
            Op::Grant => {
                self.last_lease += 1;
                self.leases.insert(self.last_lease, until);
                Answer::Granted(self.last_lease)
            }
            Op::Keep(id) => {
                let kept = self.leases.get_mut(&id).map(|end| *end = until.max(*end));
                Answer::Kept(kept.is_some())
            }
            Op::Revoke(id) => {
                self.end(id);
                Answer::Done
            }
            Op::Txn {
                conditions,
                puts,
                deletes,
                reads,
            } => {
                let holds = conditions.iter().all(|condition| self.holds(condition));
                if holds {
                    let gone = |lease: &i64| *lease != 0 && !self.leases.contains_key(lease);
                    if puts.iter().any(|(_, _, lease)| gone(lease)) {
                        return Answer::NoLease;
                    }
                    if !puts.is_empty() || !deletes.is_empty() {
                        self.revision += 1;
                    }
                    for (key, value, lease) in puts {
                        let revision = self.revision;
                        self.keys.insert(
                            key,
                            Kv {
                                value,
                                lease,
                                revision,
                            },
                        );
                    }
                    for key in deletes {
                        self.keys.remove(&key);
                    }
                }
                let read = reads
                    .iter()
                    .map(|key| self.keys.get(key).cloned())
                    .collect();
                Answer::Txn(holds, self.revision, read)
            }
        }
    }
}

pub(super) fn found(kv: &Kv) -> Found {
    Found {
        owner: ServerId::new(kv.value.as_str()).ok(),
        lease: kv.lease,
        revision: kv.revision,
    }
}
