//! Servers that leave the list: most still serve their pending requests, some are dead, and some that counted as dead return.
//!
//! A server says goodbye on NATS and then leaves the list at etcd. Either notification may arrive first, so a frontend that left without a
//! goodbye is asked: its sessions count as lost when it has no subscriber, and not before. If the same incarnation is listed again, it was
//! only away: discarded state must be restored ([`News::Returned`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Moment;
use crate::{ServerId, ServerInfo};

/// How long a server that counts as gone may return as the same incarnation, and how many are remembered for that.
const LATEST_RETURN: Duration = Duration::from_secs(3600);
const RETURNS: usize = 1024;

/// No backend takes longer to leave: a backend that said goodbye and then crashed is forgotten after this. (Frontends are kept until a probe of
/// them fails, because they may have sessions.)
const LONGEST_DEPARTURE: Duration = Duration::from_secs(2 * 3600);

/// Servers that are leaving or have left.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// Servers that may still serve.
    servers: HashMap<ServerId, Server>,
    /// Servers that count as gone, the last ones at the end. Their goodbye may still be on its way, and they may return: also after another
    /// incarnation has had their id.
    gone: VecDeque<(Arc<ServerInfo>, Moment)>,
    /// Counts questions.
    questions: u64,
}

#[derive(Debug)]
struct Server {
    info: Arc<ServerInfo>,
    since: Moment,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It said goodbye or replied after it had left the list: it serves its pending requests.
    Serves,
    /// It left the list without a goodbye, and the question with this number is pending. Other servers were not notified yet.
    Doubted(u64),
}

/// Actions of this server about another one, in this order.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// The node is notified that the server has joined.
    Joined(Arc<ServerInfo>),
    /// The node is notified that the server has returned, as the same incarnation.
    Returned(Arc<ServerInfo>),
    /// The node is notified that the server has left.
    Left(Arc<ServerInfo>),
    /// The subscribers to events of its sessions are notified: the sessions are gone with it.
    Lost(Arc<ServerInfo>),
    /// Forgets its calls and its health.
    Forget(ServerId),
    /// Probes whether it serves; [`Departures::answered`] follows, with this number.
    Ask(Arc<ServerInfo>, u64),
}

impl Departures {
    /// Returns the state before, if there was one.
    fn set(&mut self, info: &Arc<ServerInfo>, state: State, now: Moment) -> Option<State> {
        let one = Server {
            info: Arc::clone(info),
            since: now,
            state,
        };
        let before = self.servers.insert(info.id.clone(), one);
        before.map(|one| one.state)
    }

    /// Counts a server as gone from now on.
    fn bury(&mut self, info: &Arc<ServerInfo>, now: Moment) {
        let is_old = |since: &Moment| since.until(now) >= LATEST_RETURN;
        self.gone
            .retain(|(one, since)| one != info && !is_old(since));
        if self.gone.len() >= RETURNS {
            self.gone.pop_front();
        }
        self.gone.push_back((Arc::clone(info), now));
    }

    /// Whether a server counted as gone, which it does no more.
    fn comes_back(&mut self, info: &ServerInfo) -> bool {
        let before = self.gone.len();
        self.gone.retain(|(one, _)| **one != *info);
        self.gone.len() < before
    }

    /// Servers that may have clients: also one that left without a goodbye and is being probed.
    pub(crate) fn may_serve(&self) -> Vec<Arc<ServerInfo>> {
        let serving = self.servers.values();
        serving.map(|one| Arc::clone(&one.info)).collect()
    }

    /// One of them.
    pub(crate) fn serving(&self, server: &ServerId) -> Option<Arc<ServerInfo>> {
        let one = self.servers.get(server)?;
        Some(Arc::clone(&one.info))
    }

    /// Whether this question to a server is still one.
    pub(crate) fn is_asked(&self, server: &ServerId, question: u64) -> bool {
        let one = self.servers.get(server);
        one.is_some_and(|one| one.state == State::Doubted(question))
    }

    /// A server is in the list.
    pub(crate) fn listed(&mut self, info: Arc<ServerInfo>, now: Moment) -> Vec<News> {
        let mut news = Vec::new();
        if let Some(before) = self.servers.remove(&info.id) {
            // The start number of a frontend is part of its entry: an equal entry is the same incarnation.
            match before.state {
                // Its absence was not noticed.
                State::Doubted(_) if before.info == info => return news,
                State::Doubted(_) => self.gone(before.info, now, &mut news),
                State::Serves if before.info == info => {}
                State::Serves => {
                    // It has ended: the next life has its id. Its own word of that is late, or does not come.
                    self.bury(&before.info, now);
                    news.push(News::Lost(before.info));
                }
            }
        }
        let returned = self.comes_back(&info) && info.frontend;
        news.push(News::Forget(info.id.clone()));
        news.push(News::Joined(Arc::clone(&info)));
        if returned {
            news.push(News::Returned(info));
        }
        news
    }

    /// A server is in the list no more. `can_be_asked`: it understands the question whether it serves.
    pub(crate) fn unlisted(
        &mut self,
        info: Arc<ServerInfo>,
        can_be_asked: bool,
        now: Moment,
    ) -> Vec<News> {
        let before = self.servers.get(&info.id);
        if before.is_some_and(|one| one.state == State::Serves) {
            return vec![News::Left(info)];
        }
        let mut news = Vec::new();
        if info.frontend && can_be_asked {
            self.questions += 1;
            let question = self.questions;
            self.set(&info, State::Doubted(question), now);
            news.push(News::Ask(info, question));
        } else {
            self.gone(info, now, &mut news);
        }
        news
    }

    /// The result of a probe. The server may have said goodbye meanwhile, or be listed again: then the result is ignored.
    pub(crate) fn answered(
        &mut self,
        server: &ServerId,
        question: u64,
        does_serve: bool,
        now: Moment,
    ) -> Vec<News> {
        let mut news = Vec::new();
        let Some(one) = self.servers.get_mut(server) else {
            return news;
        };
        if one.state != State::Doubted(question) {
            return news;
        }
        let info = Arc::clone(&one.info);
        if does_serve {
            one.state = State::Serves;
            news.push(News::Left(info));
        } else {
            self.gone(info, now, &mut news);
        }
        news
    }

    /// A server says goodbye; `listed` is its entry in the list, if it is still there, and `entry` is the one in its goodbye, if it has one: for a
    /// server that had left the list before this one joined. It serves its pending requests until it announces that it is gone.
    pub(crate) fn goodbye(
        &mut self,
        server: &ServerId,
        listed: Option<Arc<ServerInfo>>,
        entry: Option<Arc<ServerInfo>>,
        gone: bool,
        now: Moment,
    ) -> Vec<News> {
        let mut news = Vec::new();
        if gone {
            news.extend(
                self.end_of_service(server)
                    .map(|_| News::Forget(server.clone())),
            );
            return news;
        }
        let unlisted = || {
            let mut gone = self.gone.iter().rev().map(|(info, _)| info);
            let gone = || gone.find(|info| info.id == *server).cloned();
            self.serving(server).or_else(gone)
        };
        if let Some(info) = listed.or_else(unlisted).or(entry) {
            self.comes_back(&info);
            let before = self.set(&info, State::Serves, now);
            if matches!(before, Some(State::Doubted(_))) {
                // The notification was held back until its state was known.
                news.push(News::Left(info));
            }
        }
        let is_old = |one: &Server| !one.info.frontend && one.since.until(now) > LONGEST_DEPARTURE;
        let old = self.servers.extract_if(|_, one| is_old(one));
        news.extend(old.map(|(id, _)| News::Forget(id)));
        news
    }

    /// A called server has no subscriber: if it had left the list and served, it is gone now.
    pub(crate) fn not_there(&mut self, server: &ServerId, now: Moment) -> Vec<News> {
        let Some(info) = self.end_of_service(server) else {
            return Vec::new();
        };
        // Or NATS does not reach it.
        self.bury(&info, now);
        vec![News::Forget(server.clone()), News::Lost(info)]
    }

    fn end_of_service(&mut self, server: &ServerId) -> Option<Arc<ServerInfo>> {
        if self.servers.get(server)?.state != State::Serves {
            return None;
        }
        self.servers.remove(server).map(|one| one.info)
    }

    /// A server has left the list and serves no more, as far as is known.
    fn gone(&mut self, info: Arc<ServerInfo>, now: Moment, news: &mut Vec<News>) {
        self.servers.remove(&info.id);
        self.bury(&info, now);
        news.push(News::Forget(info.id.clone()));
        news.push(News::Lost(Arc::clone(&info)));
        news.push(News::Left(info));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(news: &[News]) -> u64 {
        match news {
            [News::Ask(_, question)] => *question,
            other => panic!("{other:?}"),
        }
    }

    /// A broadcast goes to all servers that may have clients, including one whose goodbye is late.
    #[test]
    fn a_server_may_serve_until_it_is_known_to_be_gone() {
        let mut departures = Departures::default();
        let front = Arc::new(ServerInfo::new("front-1", "connector", true).unwrap());
        let now = Moment(0);
        let question = asked(&departures.unlisted(Arc::clone(&front), true, now));
        assert_eq!(departures.may_serve().len(), 1, "it is being asked");
        let told = departures.goodbye(&front.id, None, None, false, now);
        assert!(matches!(&told[..], [News::Left(_)]), "{told:?}");
        assert_eq!(departures.may_serve().len(), 1);
        assert!(
            departures
                .answered(&front.id, question, false, now)
                .is_empty()
        );
        assert_eq!(departures.not_there(&front.id, now).len(), 2);
        assert_eq!(departures.may_serve().len(), 0);
    }

    /// A server that joins after the goodbye of another server receives the goodbye from it.
    #[test]
    fn a_server_that_left_before_this_one_joined_is_known_by_its_goodbye() {
        let mut departures = Departures::default();
        let front = Arc::new(ServerInfo::new("front-1", "connector", true).unwrap());
        let now = Moment(0);
        let told = || Some(Arc::clone(&front));
        assert!(
            departures
                .goodbye(&front.id, None, None, false, now)
                .is_empty()
        );
        assert!(
            departures.serving(&front.id).is_none(),
            "nothing is known of it"
        );
        // It has never joined for this server, so it does not leave.
        for _ in 0..2 {
            let news = departures.goodbye(&front.id, None, told(), false, now);
            assert!(news.is_empty(), "{news:?}");
            assert_eq!(departures.serving(&front.id), told());
        }
        let news = departures.goodbye(&front.id, None, None, true, now);
        assert!(matches!(&news[..], [News::Forget(_)]), "{news:?}");
        assert!(departures.may_serve().is_empty());
    }

    /// The next life of a server shows that the one that was leaving has ended.
    #[test]
    fn a_server_stops_serving_before_its_successor_starts() {
        let life = |n: u16| {
            let mut info = ServerInfo::new("front-1", "connector", true).unwrap();
            info.announce_node(n);
            Arc::new(info)
        };
        let now = Moment(0);
        for is_same in [true, false] {
            let mut departures = Departures::default();
            departures.goodbye(&life(1).id, Some(life(1)), None, false, now);
            departures.unlisted(life(1), true, now);
            assert_eq!(departures.may_serve().len(), 1);
            let next = if is_same { life(1) } else { life(2) };
            let news = departures.listed(next, now);
            let lost = |one: &News| matches!(one, News::Lost(info) if *info == life(1));
            assert_eq!(news.iter().any(lost), !is_same, "{news:?}");
            let back = |one: &News| matches!(one, News::Returned(_));
            assert!(!news.iter().any(back), "nobody has forgotten it");
            assert!(departures.may_serve().is_empty());
        }
    }

    /// However many come and go: one that counts as gone is remembered for an hour, and the last ones are.
    #[test]
    fn the_number_of_servers_that_may_return_is_bounded() {
        let mut departures = Departures::default();
        let server =
            |n: usize| Arc::new(ServerInfo::new(&format!("front-{n}"), "connector", true).unwrap());
        let at = |seconds: usize| Moment(0).after(Duration::from_secs(seconds as u64));
        for n in 0..2 * RETURNS {
            departures.unlisted(server(n), false, at(n));
        }
        assert_eq!(departures.gone.len(), RETURNS);
        let returns = |departures: &mut Departures, n, now| {
            let news = departures.listed(server(n), now);
            news.iter().any(|one| matches!(one, News::Returned(_)))
        };
        assert!(!returns(&mut departures, 0, at(2 * RETURNS)));
        assert!(returns(&mut departures, 2 * RETURNS - 1, at(2 * RETURNS)));
        departures.unlisted(server(0), false, at(9000));
        assert_eq!(departures.gone.len(), 1, "an hour later");
    }
}
