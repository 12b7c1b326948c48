//! A backend that follows the list of frontends, and remembers which of them have members of its channels.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Fault;
use crate::ServerInfo;
use crate::owners::{Departures, Moment, News};

#[derive(Default)]
pub(super) struct Watcher {
    departures: Departures,
    /// The list as it was last seen: which life has each id.
    list: BTreeMap<String, usize>,
    infos: HashMap<usize, Arc<ServerInfo>>,
    /// Lives whose users have ever joined, and those that are pushed to now.
    pub(super) joined: BTreeSet<usize>,
    pub(super) remembered: BTreeSet<usize>,
}

/// The work of the world for it.
pub(super) enum Wants {
    /// A life is asked whether it serves.
    Ask(usize, u64),
    /// A life is asked who of its users is in.
    Members(usize),
}

impl Watcher {
    /// The lives of one id announce different numbers.
    fn info(&mut self, life: usize, id: &str) -> Arc<ServerInfo> {
        let info = self.infos.entry(life).or_insert_with(|| {
            let mut info = ServerInfo::new(id, "connector", true).unwrap();
            info.metadata.insert("life".to_owned(), life.to_string());
            Arc::new(info)
        });
        Arc::clone(info)
    }

    fn life_of(info: &ServerInfo) -> usize {
        info.metadata["life"].parse().unwrap()
    }

    /// Reads the list.
    pub(super) fn look(
        &mut self,
        list: &BTreeMap<String, usize>,
        now: Moment,
        fault: Fault,
    ) -> Vec<Wants> {
        let before = std::mem::replace(&mut self.list, list.clone());
        let mut wants = Vec::new();
        for (id, life) in &before {
            if list.get(id) != Some(life) {
                let info = self.info(*life, id);
                let news = self.departures.unlisted(info, true, now);
                self.hear(news, fault, &mut wants);
            }
        }
        for (id, life) in list {
            if before.get(id) != Some(life) {
                let info = self.info(*life, id);
                let news = self.departures.listed(info, now);
                self.hear(news, fault, &mut wants);
            }
        }
        wants
    }

    pub(super) fn answered(
        &mut self,
        life: usize,
        question: u64,
        serves: bool,
        now: Moment,
        fault: Fault,
    ) -> Vec<Wants> {
        let mut wants = Vec::new();
        if let Some(info) = self.infos.get(&life).cloned() {
            let news = self.departures.answered(&info.id, question, serves, now);
            self.hear(news, fault, &mut wants);
        }
        wants
    }

    /// True while it is in the list, or may still serve.
    pub(super) fn knows(&self, life: usize) -> bool {
        self.list.values().any(|one| *one == life) || self.departing().contains(&life)
    }

    /// Lives that have left the list and may still serve: they are pushed to.
    pub(super) fn departing(&self) -> Vec<usize> {
        let all = self.departures.may_serve();
        let unlisted = all
            .iter()
            .filter(|info| !self.list.contains_key(info.id.as_str()));
        unlisted.map(|info| Self::life_of(info)).collect()
    }

    /// A push to an incarnation found that it has no subscriber.
    pub(super) fn not_there(&mut self, life: usize, now: Moment, fault: Fault) {
        if let Some(info) = self.infos.get(&life).cloned() {
            let news = self.departures.not_there(&info.id, now);
            self.hear(news, fault, &mut Vec::new());
        }
    }

    fn hear(&mut self, news: Vec<News>, fault: Fault, wants: &mut Vec<Wants>) {
        for one in news {
            match one {
                News::Joined(info) => {
                    // One of its users joins, once.
                    let life = Self::life_of(&info);
                    if self.joined.insert(life) {
                        self.remembered.insert(life);
                    }
                }
                News::Returned(_) if fault == Fault::ReturnIsNotTold => {}
                News::Returned(info) => wants.push(Wants::Members(Self::life_of(&info))),
                News::Left(info) | News::Lost(info) => {
                    if self.departures.serving(&info.id).is_none() {
                        self.remembered.remove(&Self::life_of(&info));
                    }
                }
                News::Forget(_) => {}
                News::Ask(info, question) => {
                    wants.push(Wants::Ask(Self::life_of(&info), question));
                }
            }
        }
    }
}
