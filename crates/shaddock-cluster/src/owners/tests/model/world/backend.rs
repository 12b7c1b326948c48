//! The backend: it follows the list, and asks lives whether they serve.

use std::collections::BTreeMap;

use super::super::watcher::Wants;
use super::super::{MS, SECOND};
use super::{Event, World};
use crate::owners::Moment;

impl World {
    /// Which life has each id, as etcd says.
    pub(super) fn list(&self) -> BTreeMap<String, usize> {
        let ids = self.etcd.keys.iter();
        let ids = ids.filter_map(|(key, kv)| {
            let life = kv.value.strip_prefix("life-")?.parse().ok()?;
            Some((key.strip_prefix("ids/")?.to_owned(), life))
        });
        ids.collect()
    }

    /// Whether the backend reaches a life over NATS, and it answers.
    fn answers(&self, n: usize) -> bool {
        let slot = &self.slots[n];
        slot.can_act() && slot.nats && (self.nats_is_whole || slot.half)
    }

    pub(super) fn look(&mut self) {
        let next = 20 * MS + self.looks.below(300 * MS);
        self.at(self.now + next, Event::Look);
        let list = self.list();
        let wants = self.watcher.look(&list, Moment(self.now), self.fault);
        self.want(wants);
        // A push to servers that have left the list shows whether they have a subscriber.
        for n in self.watcher.departing() {
            if self.slots[n].crashed || self.slots[n].life.ended {
                self.watcher.not_there(n, Moment(self.now), self.fault);
            }
        }
    }

    fn want(&mut self, wants: Vec<Wants>) {
        for one in wants {
            let soon = self.now + 1 + self.looks.below(5 * MS);
            match one {
                Wants::Ask(n, question) => self.at(soon, Event::Serves(n, question, false)),
                Wants::Members(n) => self.at(soon, Event::Members(n)),
            }
        }
    }

    /// Once at once, and once when its time is over: an answer may take as long as that.
    pub(super) fn ask_whether_it_serves(&mut self, n: usize, question: u64, last: bool) {
        let serves = self.answers(n);
        if !serves && !last {
            self.at(self.now + SECOND / 2, Event::Serves(n, question, true));
            return;
        }
        let now = Moment(self.now);
        let wants = self.watcher.answered(n, question, serves, now, self.fault);
        self.want(wants);
    }

    /// Again and again, as long as it may serve.
    pub(super) fn ask_for_members(&mut self, n: usize) {
        if !self.watcher.knows(n) {
            return;
        }
        if self.answers(n) {
            self.watcher.remembered.insert(n);
        } else {
            self.at(self.now + 200 * MS, Event::Members(n));
        }
    }
}
