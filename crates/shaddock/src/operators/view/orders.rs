//! Orders of operators, on all frontends.

use std::collections::BTreeMap;

use shaddock_core::Sid;

use super::{ClusterView, Target, sort};
use crate::operators::{
    ask::Ask,
    order::{Act, Find, Found, Obeyed, Order, Select},
    types::Unanswered,
};

/// Sessions that are named in an order.
const STEP: usize = 1000;
/// Sessions of all frontends that are named. Above it nothing is done to them one by one.
pub(crate) const MOST_FOUND: usize = 200_000;

/// What all frontends have, or did: the sum, each one's share, and who did not say.
#[derive(Debug, Default)]
pub(crate) struct Everywhere<T> {
    pub(crate) all: T,
    pub(crate) by_frontend: BTreeMap<String, u64>,
    pub(crate) unanswered: Vec<Unanswered>,
}

impl ClusterView {
    /// Which sessions of all frontends are meant. If they are listed, all are, in several answers where there are many; `more` says
    /// that they were above [`MOST_FOUND`].
    pub(crate) async fn find(&self, find: &Find) -> Everywhere<Found> {
        let targets = self.holders_of(&find.select);
        let said = self.ask(&targets, &Ask::Find(find.clone())).await;
        let (answers, unanswered) = sort::<Found>(&targets, said);
        let mut everywhere = Everywhere::<Found> {
            unanswered,
            ..Everywhere::default()
        };
        for (server, found) in answers {
            if found.matched > 0 {
                everywhere.by_frontend.insert(server.clone(), found.matched);
            }
            everywhere.all.matched += found.matched;
            everywhere.all.total += found.total;
            let mut last = found.sids.last().filter(|_| found.more).cloned();
            everywhere.all.sids.extend(found.sids);
            let target = targets.iter().find(|target| target.is(&server));
            while let (Some(after), Some(target)) = (last.take(), target) {
                if everywhere.all.sids.len() > MOST_FOUND {
                    break;
                }
                last = self.find_more(find, target, after, &mut everywhere).await;
            }
        }
        everywhere.all.more = everywhere.all.sids.len() > MOST_FOUND;
        everywhere
    }

    /// The next sessions of a frontend; returns the last of them if there are more.
    async fn find_more(
        &self,
        find: &Find,
        target: &Target,
        after: String,
        found: &mut Everywhere<Found>,
    ) -> Option<String> {
        let next = Find {
            after: Some(after),
            ..find.clone()
        };
        let target = std::slice::from_ref(target);
        let said = self.ask(target, &Ask::Find(next)).await;
        let (answers, unanswered) = sort::<Found>(target, said);
        found.unanswered.extend(unanswered);
        let (_, answer) = answers.into_iter().next()?;
        let last = answer.sids.last().filter(|_| answer.more).cloned();
        found.all.sids.extend(answer.sids);
        last
    }

    /// Does something to sessions of all frontends, at the same time.
    pub(crate) async fn obey(&self, order: &Order) -> Everywhere<Obeyed> {
        let targets = self.holders_of(&order.select);
        self.obey_at(&targets, order).await
    }

    async fn obey_at(&self, targets: &[Target], order: &Order) -> Everywhere<Obeyed> {
        let said = self.ask(targets, &Ask::Do(order.clone())).await;
        let (answers, unanswered) = sort::<Obeyed>(targets, said);
        let mut everywhere = Everywhere::<Obeyed> {
            unanswered,
            ..Everywhere::default()
        };
        for (server, done) in answers {
            if done.done > 0 {
                everywhere.by_frontend.insert(server, done.done);
            }
            everywhere.all.add(done);
        }
        everywhere
    }

    /// Does something to these sessions and no others. Those of a frontend that does not answer count as failed, and it is not asked again.
    pub(crate) async fn obey_each(&self, sids: &[String], act: &Act) -> Everywhere<Obeyed> {
        let mut sum = Everywhere::<Obeyed>::default();
        for some in sids.chunks(STEP) {
            let order = Order {
                select: Select::Sids(some.to_vec()),
                act: act.clone(),
            };
            let mut targets = self.holders_of(&order.select);
            let before = targets.len();
            targets.retain(|target| !sum.unanswered.iter().any(|one| target.is(&one.server)));
            let is_whole = targets.len() == before;
            let one = self.obey_at(&targets, &order).await;
            if !is_whole || !one.unanswered.is_empty() {
                sum.all.failed += (some.len() as u64).saturating_sub(one.all.matched);
            }
            for (server, done) in one.by_frontend {
                *sum.by_frontend.entry(server).or_default() += done;
            }
            sum.unanswered.extend(one.unanswered);
            sum.all.add(one.all);
        }
        sum
    }

    /// The frontends that may have such sessions.
    fn holders_of(&self, select: &Select) -> Vec<Target> {
        let mut targets = self.frontends();
        if let Select::Sids(sids) = select {
            let nodes: Vec<u16> = sids
                .iter()
                .filter_map(|sid| Some(sid.parse::<Sid>().ok()?.node()))
                .collect();
            targets.retain(|target| nodes.iter().any(|node| target.may_hold(*node)));
        }
        targets
    }
}
