//! The checks after each step.

use std::sync::Arc;

use super::{Outcome, Slot, World};

impl World {
    /// At this moment.
    pub(super) fn check(&mut self) -> Outcome {
        let mut acting: Vec<(&Arc<str>, usize, u64)> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        for n in 0..self.slots.len() {
            if self.slots[n].can_act() {
                self.slots[n].life.now = self.local(n);
            }
        }
        let slots = self.slots.iter().enumerate();
        for (n, slot) in slots.filter(|(_, slot)| slot.can_act() && slot.life.may_act()) {
            let twin = |other: &&usize| self.slots[**other].life.id == slot.life.id;
            if let Some(other) = open.iter().find(twin) {
                return Err(format!("lives {other} and {n} are both {}", slot.life.id));
            }
            open.push(n);
            for (sid, session) in slot.life.sessions.iter().filter(|(_, s)| s.open && s.bound) {
                let same = |(uid, ..): &&(&Arc<str>, usize, u64)| **uid == session.uid;
                if let Some((uid, m, other)) = acting.iter().find(same) {
                    return Err(format!(
                        "{uid} acts in session {other} of life {m} and in session {sid} of life {n}"
                    ));
                }
                acting.push((&session.uid, n, *sid));
            }
        }
        Ok(())
    }

    /// A while after everything has healed.
    pub(super) fn check_peace(&self) -> Outcome {
        let alive = |slot: &&Slot| !slot.crashed && !slot.life.ended;
        for slot in self.slots.iter().filter(alive) {
            let life = &slot.life;
            if !life.may_act() {
                return Err(format!("{} is still fenced", life.id));
            }
            if !life.is_idle() {
                return Err(format!("{} is not at rest", life.id));
            }
            let held = life.claims();
            for (uid, number) in &held {
                let key = self.etcd.keys.get(&format!("bindings/{uid}"));
                let named = key.is_some_and(|kv| {
                    kv.value == life.id.as_str()
                        && kv.lease == life.lease()
                        && kv.revision >= number.revision
                });
                if !named {
                    return Err(format!(
                        "{} believes to have {uid}, and etcd has {key:?}",
                        life.id
                    ));
                }
            }
            for (sid, session) in life.sessions.iter().filter(|(_, s)| s.bound) {
                if !held.iter().any(|(uid, _)| *uid == session.uid) {
                    return Err(format!("session {sid} of {} has no claim", life.id));
                }
            }
        }
        // A claim that was released for a claimant that never came is found by the next audit; a new claimant asks, and is notified that
        // the user is free.
        let leases: Vec<i64> = self
            .slots
            .iter()
            .filter(alive)
            .map(|slot| slot.life.lease())
            .collect();
        let mut keys = self
            .etcd
            .keys
            .iter()
            .filter(|(key, _)| key.starts_with("bindings/"));
        if let Some(key) = keys.find(|(_, kv)| !leases.contains(&kv.lease)) {
            return Err(format!("nobody is left to own {key:?}"));
        }
        let there: Vec<usize> = self.list().into_values().collect();
        for n in &self.watcher.joined {
            let is_there = there.contains(n);
            if is_there != self.watcher.remembered.contains(n) {
                let what = if is_there {
                    "there and forgotten"
                } else {
                    "dead and remembered"
                };
                return Err(format!("the users of life {n} are {what}"));
            }
        }
        let query = self.etcd.keys.keys().any(|key| key.starts_with("asks/"));
        if query {
            Err("a notice was left".to_owned())
        } else {
            Ok(())
        }
    }
}
