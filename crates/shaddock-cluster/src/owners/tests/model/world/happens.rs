//! The events that lives and their clients undergo.

use std::sync::Arc;

use super::super::life::Session;
use super::super::{MS, SECOND};
use super::{Event, World};

impl World {
    pub(super) fn happens(&mut self) {
        if self.peace {
            return;
        }
        self.send_requests();
        let next = self.rng.below(400 * MS);
        self.at(self.now + next, Event::Happens);
        let n = self.rng.index(self.slots.len());
        if self.slots[n].crashed || self.slots[n].hangs {
            return;
        }
        let after = self.now + 50 * MS + self.rng.below(5 * SECOND);
        match self.rng.below(24) {
            0 => {
                self.note(|| format!("life {n} is cut off from etcd"));
                self.slots[n].etcd = false;
                self.at(after, Event::EtcdBack(n));
            }
            1 => {
                self.note(|| format!("life {n} is cut off from NATS"));
                self.slots[n].nats = false;
                self.slots[n].life.link_lost();
                self.at(after, Event::NatsBack(n));
            }
            2 => {
                self.note(|| "NATS is cut in two".to_owned());
                self.nats_is_whole = false;
                self.at(after, Event::OneNats);
            }
            3..6 => {
                self.note(|| format!("life {n} hangs"));
                self.slots[n].hangs = true;
                // NATS may notice, and take it for gone.
                if self.rng.one_in(2) {
                    self.slots[n].nats = false;
                    self.at(after, Event::NatsBack(n));
                }
                self.at(after, Event::Awakes(n));
            }
            6 if self.rng.one_in(2) => {
                self.note(|| format!("life {n} crashes"));
                self.slots[n].crashed = true;
                let id = self.slots[n].life.id.clone();
                self.start(&id);
            }
            7 => {
                let id = self.slots[n].life.id.clone();
                self.note(|| format!("another {id} starts"));
                self.start(&id);
            }
            8..11 => {
                let mut sids = self.slots[n].life.sessions.keys();
                if let Some(sid) = sids.next().copied() {
                    self.slots[n].life.now = self.local(n);
                    self.note(|| format!("session {sid} of life {n} closes"));
                    self.slots[n].life.close(sid);
                    self.execute(n);
                }
            }
            11..13 => {
                let bound = |(_, session): &(&u64, &Session)| session.bound;
                let first = self.slots[n].life.sessions.iter().find(bound);
                if let Some((sid, uid)) =
                    first.map(|(sid, session)| (*sid, Arc::clone(&session.uid)))
                {
                    self.note(|| format!("session {sid} of life {n} binds {uid} again"));
                    self.bind(n, sid, &uid);
                }
            }
            _ => {
                self.last_sid += 1;
                let (sid, uid) = (self.last_sid, self.rng.index(self.uids.len()));
                let uid = Arc::clone(&self.uids[uid]);
                self.note(|| format!("session {sid} of life {n} binds {uid}"));
                self.open(n, sid, &uid);
            }
        }
    }

    fn open(&mut self, n: usize, sid: u64, uid: &Arc<str>) {
        let session = Session {
            uid: Arc::clone(uid),
            bound: false,
            open: true,
        };
        self.slots[n].life.sessions.insert(sid, session);
        self.bind(n, sid, uid);
    }

    fn bind(&mut self, n: usize, sid: u64, uid: &Arc<str>) {
        self.slots[n].life.now = self.local(n);
        let bind = self.slots[n].life.bind(sid, uid);
        if let Some(bind) = bind {
            // Most clients wait as long as they may.
            let patience = if !self.peace && self.rng.one_in(4) {
                self.rng.below(SECOND)
            } else {
                6 * SECOND
            };
            self.at(self.now + patience, Event::GiveUp(n, bind));
        }
        self.execute(n);
    }

    /// Everything that waited for the process comes at once, in any order, behind what was there to be read first.
    pub(super) fn awakes(&mut self, n: usize) {
        if !std::mem::take(&mut self.slots[n].hangs) {
            return;
        }
        self.note(|| format!("life {n} goes on"));
        let mut stalled = std::mem::take(&mut self.slots[n].stalled);
        while !stalled.is_empty() {
            let event = stalled.swap_remove(self.rng.index(stalled.len()));
            let after = self.rng.below(MS);
            self.at(self.now + 1 + after, event);
        }
    }

    pub(super) fn make_peace(&mut self) {
        self.note(|| "peace".to_owned());
        self.peace = true;
        self.nats_is_whole = true;
        for n in 0..self.slots.len() {
            self.slots[n].nats = true;
            self.handle(Event::EtcdBack(n));
            self.awakes(n);
        }
    }
}
