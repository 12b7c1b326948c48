//! Servers that are told who joins and leaves.
//!
//! A watcher asks every frontend for the members of what it watches; from then on the frontend sends it a notice of each change, on the
//! path of everything it sends there. Notices are numbered: where one is missing, the watcher asks again, and tells what has changed meanwhile.
//! What it knows of a frontend is needed for one thing only: to say who has left when that frontend is gone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use shaddock_cluster::Departure;
use shaddock_cluster::{
    AudienceKey, AudiencePart, MemberNotice, RemoteError, ServerId, SessionAnswer, SessionOp,
    owner_of,
};
use shaddock_core::{FrontendId, Uid};
use tokio::sync::mpsc;

use super::join::is_gone;
use crate::{
    app::{AppHandle, StartError},
    handler::BoxFuture,
};

/// Time between looks whether the last notice of each frontend has come.
const LOOK: Duration = Duration::from_secs(5);
/// Time before a frontend that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Notices that wait while a frontend is asked. Above, it is asked once more.
const WAITING: usize = 65_536;
/// Events that wait for the listeners; at the bound they are counted as lost.
const EVENTS: usize = 65_536;

/// A listener of the application.
pub(crate) type MemberHook = Arc<dyn Fn(AppHandle, MemberEvent) -> BoxFuture<()> + Send + Sync>;

/// Somebody joined or left a channel or topic.
#[derive(Debug, Clone)]
pub struct MemberEvent {
    audience: AudienceKey,
    uid: Uid,
    frontend: FrontendId,
    departure: Option<Departure>,
}

impl MemberEvent {
    /// The name of the channel or topic.
    pub fn name(&self) -> &str {
        self.audience.name()
    }

    /// Who.
    pub const fn uid(&self) -> &Uid {
        &self.uid
    }

    /// The frontend on which they joined or left.
    pub const fn frontend(&self) -> &FrontendId {
        &self.frontend
    }

    /// Why they left; `None` if they joined. After a gap in the news it is not known, and given as [`Departure::Closed`].
    pub const fn departure(&self) -> Option<Departure> {
        self.departure
    }
}

/// The application's listeners, each with what the keys begin with.
#[derive(Default)]
pub(crate) struct MemberHooks {
    topics: Vec<(String, MemberHook)>,
    channels: Vec<(String, MemberHook)>,
}

impl MemberHooks {
    pub(crate) fn add(&mut self, is_topic: bool, prefix: &str, hook: MemberHook) {
        let list = if is_topic {
            &mut self.topics
        } else {
            &mut self.channels
        };
        list.push((prefix.to_owned(), hook));
    }

    fn of<'a>(&'a self, key: &'a AudienceKey) -> impl Iterator<Item = &'a MemberHook> {
        let is_topic = key.as_topic().is_some();
        let list = if is_topic {
            &self.topics
        } else {
            &self.channels
        };
        let wants =
            move |(prefix, _): &&(String, MemberHook)| key.name().starts_with(prefix.as_str());
        list.iter().filter(wants).map(|(_, hook)| hook)
    }
}

/// What a watcher knows.
#[derive(Default)]
pub(crate) struct Watch {
    frontends: Mutex<HashMap<ServerId, View>>,
    events: Mutex<Option<mpsc::Sender<MemberEvent>>>,
}

/// The members at one frontend, as it has told.
#[derive(Default)]
struct View {
    members: HashMap<AudienceKey, HashSet<Arc<str>>>,
    /// The number of its last notice.
    last: u64,
    /// It is being asked: notices wait for its answer.
    asking: Option<Vec<MemberNotice>>,
    /// It has answered once: differences are news.
    is_known: bool,
    /// It could not be asked because too many tasks ran: the next look asks it.
    must_ask: bool,
}

type Change = (AudienceKey, Arc<str>, Option<Departure>);

impl View {
    /// Notes a change. False if it was known.
    fn apply(&mut self, (key, uid, departure): &Change) -> bool {
        if departure.is_none() {
            let members = self.members.entry(key.clone()).or_default();
            return members.insert(Arc::clone(uid));
        }
        let Some(members) = self.members.get_mut(key) else {
            return false;
        };
        let was_in = members.remove(uid);
        if members.is_empty() {
            self.members.remove(key);
        }
        was_in
    }

    /// A notice has come. False if some before it are missing.
    fn hear(&mut self, notice: MemberNotice, news: &mut Vec<Change>) -> bool {
        if notice.number <= self.last {
            return true;
        }
        if notice.number > self.last + 1 {
            return false;
        }
        self.last = notice.number;
        let change = (notice.audience, notice.uid, notice.departure);
        if self.apply(&change) {
            news.push(change);
        }
        true
    }

    /// The frontend has said who is in; `last` is the number of the last notice before that. What came meanwhile follows. False if some of
    /// it is missing.
    fn learn(&mut self, parts: Vec<AudiencePart>, last: u64, news: &mut Vec<Change>) -> bool {
        let mut now: HashMap<AudienceKey, HashSet<Arc<str>>> = HashMap::new();
        for part in parts {
            let Some(key) = AudienceKey::parse(&part.audience).filter(|_| !part.uids.is_empty())
            else {
                continue;
            };
            // A long list is cut: of members that are not named nothing is news.
            let is_whole = part.uids.len() as u64 >= part.count;
            let known = self.members.get(&key).filter(|_| !is_whole);
            let members = now.entry(key).or_default();
            members.extend(part.uids);
            members.extend(known.into_iter().flatten().cloned());
        }
        let before = std::mem::replace(&mut self.members, now);
        if std::mem::replace(&mut self.is_known, true) {
            let in_it = |all: &HashMap<AudienceKey, HashSet<Arc<str>>>, key, uid| {
                all.get(key).is_some_and(|members| members.contains(uid))
            };
            news.extend(
                pairs(&before)
                    .filter(|(key, uid)| !in_it(&self.members, key, *uid))
                    .map(|(key, uid)| (key.clone(), Arc::clone(uid), Some(Departure::Closed))),
            );
            news.extend(
                pairs(&self.members)
                    .filter(|(key, uid)| !in_it(&before, key, *uid))
                    .map(|(key, uid)| (key.clone(), Arc::clone(uid), None)),
            );
        }
        self.last = last;
        let waiting = self.asking.take().unwrap_or_default();
        waiting.into_iter().all(|notice| self.hear(notice, news))
    }
}

fn pairs(
    all: &HashMap<AudienceKey, HashSet<Arc<str>>>,
) -> impl Iterator<Item = (&AudienceKey, &Arc<str>)> {
    all.iter()
        .flat_map(|(key, members)| members.iter().map(move |uid| (key, uid)))
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, View>> {
        self.frontends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    /// What this server watches; nothing if nobody listens.
    fn watched(&self) -> Vec<String> {
        let hooks = &self.hooks().members;
        let topics = hooks.topics.iter().filter_map(|(prefix, _)| {
            // Of a key only its name may be too short.
            Some(
                AudienceKey::topic("x")?
                    .as_str()
                    .strip_suffix('x')?
                    .to_owned()
                    + prefix,
            )
        });
        let mut all: Vec<String> = topics.collect();
        if !hooks.channels.is_empty() || self.channel_data().has_store() {
            all.push(AudienceKey::channels(self.id(), self.life()));
        }
        all
    }

    /// Begins to watch, when this server has joined the cluster.
    pub(crate) fn start_watching(&self) -> Result<(), StartError> {
        if self.watched().is_empty() {
            return Ok(());
        }
        let (sender, events) = mpsc::channel(EVENTS);
        *self
            .watch()
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let app = self.clone();
        self.start_task("members of channels and topics", async move {
            app.tell_members(events).await;
        })?;
        let app = self.clone();
        self.start_task("looks for lost notices", async move {
            app.look_for_lost_notices().await;
        })?;
        for frontend in self.frontend_ids() {
            self.ask_who_is_in(&frontend);
        }
        Ok(())
    }

    /// All frontends that are listed or still serve.
    pub(super) fn frontend_ids(&self) -> Vec<ServerId> {
        let Ok(membership) = self.membership() else {
            return Vec::new();
        };
        let departing = membership.departing();
        let all = membership.members().frontends().into_iter();
        let all = all.chain(departing.into_iter().filter(|info| info.frontend));
        all.filter(|info| matches!(membership.keeps_audiences(&info.id), Ok(true)))
            .map(|info| info.id.clone())
            .collect()
    }

    fn is_watching(&self) -> bool {
        let events = self.watch().events.lock();
        events.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A frontend has come. What is told of it from now on is news.
    pub(crate) fn watch_frontend(&self, frontend: &ServerId) {
        if self.is_watching() {
            self.watch()
                .lock()
                .entry(frontend.clone())
                .or_default()
                .is_known = true;
            self.ask_who_is_in(frontend);
        }
    }

    /// Asks a frontend who is in what this server watches, unless it is being asked.
    fn ask_who_is_in(&self, frontend: &ServerId) {
        {
            let mut frontends = self.watch().lock();
            let view = frontends.entry(frontend.clone()).or_default();
            if view.asking.is_some() {
                return;
            }
            view.asking = Some(Vec::new());
            view.must_ask = false;
        }
        let (app, asked) = (self.clone(), frontend.clone());
        let spawned = self.spawn("who is in channels and topics", async move {
            loop {
                match app.all_who_are_in(&asked).await {
                    Ok((parts, last)) => return app.learn(&asked, parts, last),
                    Err(error) if app.frontend_ids().contains(&asked) => {
                        tracing::debug!(frontend = %asked, %error, "a frontend does not say who is in channels and topics");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(_) => return app.unwatch_frontend(&asked),
                }
            }
        });
        if let Err(error) = spawned {
            shaddock_net::quiet!(warn, "the members at a frontend are asked for later: raise `handlers.max_tasks`", %frontend, %error);
            if let Some(view) = self.watch().lock().get_mut(frontend) {
                (view.asking, view.must_ask) = (None, true);
            }
        }
    }

    async fn all_who_are_in(
        &self,
        frontend: &ServerId,
    ) -> Result<(Vec<AudiencePart>, u64), RemoteError> {
        let (mut all, mut first, mut after) = (Vec::new(), None, Arc::from(""));
        loop {
            let op = SessionOp::Audiences {
                prefixes: self.watched(),
                after,
                named: true,
                watcher: first.is_none().then(|| self.info().id.clone()),
            };
            let answer = self.ask_audience(frontend, op, None).await?;
            let SessionAnswer::Audiences {
                parts,
                more,
                notices,
            } = answer
            else {
                return Ok((all, first.unwrap_or_default()));
            };
            let last = *first.get_or_insert(notices);
            after = parts
                .last()
                .map_or_else(|| Arc::from(""), |part| Arc::clone(&part.audience));
            let is_over = !more || parts.is_empty();
            all.extend(parts);
            if is_over {
                return Ok((all, last));
            }
        }
    }

    fn learn(&self, frontend: &ServerId, parts: Vec<AudiencePart>, last: u64) {
        let mut news = Vec::new();
        let is_whole = {
            let mut frontends = self.watch().lock();
            let Some(view) = frontends.get_mut(frontend) else {
                return;
            };
            let is_whole = view.learn(parts, last, &mut news);
            self.emit_members(frontend, news);
            is_whole
        };
        if !is_whole {
            self.ask_who_is_in(frontend);
        }
    }

    /// A frontend tells of a change.
    pub(crate) fn member_notice(&self, notice: MemberNotice) {
        let frontend = notice.frontend.clone();
        let mut news = Vec::new();
        let is_whole = {
            let mut frontends = self.watch().lock();
            let Some(view) = frontends.get_mut(&frontend) else {
                return;
            };
            match &mut view.asking {
                Some(waiting) if waiting.len() < WAITING => {
                    waiting.push(notice);
                    true
                }
                Some(_) => true,
                None => {
                    let is_whole = view.hear(notice, &mut news);
                    // Under the lock, so that what a frontend tells stays in its order.
                    self.emit_members(&frontend, news);
                    is_whole
                }
            }
        };
        if !is_whole {
            self.ask_who_is_in(&frontend);
        }
    }

    /// A frontend is gone, and its members with it.
    pub(crate) fn unwatch_frontend(&self, frontend: &ServerId) {
        let mut frontends = self.watch().lock();
        if let Some(view) = frontends.remove(frontend) {
            let lost = pairs(&view.members);
            let gone = Some(Departure::FrontendLost);
            let news = lost.map(|(key, uid)| (key.clone(), Arc::clone(uid), gone));
            self.emit_members(frontend, news.collect());
        }
    }

    fn emit_members(&self, frontend: &ServerId, news: Vec<Change>) {
        let Ok(frontend) = FrontendId::new(frontend.as_str()) else {
            return;
        };
        let events = self.watch().events.lock();
        let events = events.unwrap_or_else(PoisonError::into_inner);
        for (audience, uid, departure) in news {
            let (Some(events), Ok(uid)) = (&*events, Uid::new(uid)) else {
                continue;
            };
            let event = MemberEvent {
                audience,
                uid,
                frontend: frontend.clone(),
                departure,
            };
            if events.try_send(event).is_err() {
                self.stats().lost_events.add(1);
            }
        }
    }

    /// Of the servers of this type one tells its listeners of a topic: the one that its name chooses. A channel has one server.
    fn is_mine(&self, key: &AudienceKey) -> bool {
        let Some(topic) = key.as_topic() else {
            return true;
        };
        let Ok(membership) = self.membership() else {
            return false;
        };
        let servers = membership.members().servers_of(self.server_type());
        owner_of(topic.as_bytes(), &servers).is_none_or(|owner| owner.id == self.info().id)
    }

    async fn tell_members(&self, mut events: mpsc::Receiver<MemberEvent>) {
        while let Some(event) = events.recv().await {
            if event.departure.is_some()
                && event.audience.as_topic().is_none()
                && let Some(channel) = self.channel_data().channel(event.name())
                && Some(channel.number()) == event.audience.number()
            {
                channel.store_leave(event.uid.as_str(), event.frontend.as_str());
            }
            if !self.is_mine(&event.audience) {
                continue;
            }
            for hook in self.hooks().members.of(&event.audience) {
                let (app, hook, event) = (self.clone(), Arc::clone(hook), event.clone());
                let limit = self.config().event_timeout;
                // A panic or a timeout was logged; the next listener runs all the same.
                let _ = self
                    .limited("member listener", limit, move || hook(app, event))
                    .await;
            }
        }
    }

    async fn look_for_lost_notices(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let known: Vec<ServerId> = self.watch().lock().keys().cloned().collect();
            for frontend in known {
                let op = SessionOp::NextNotice {
                    watcher: self.info().id.clone(),
                };
                match self.ask_audience(&frontend, op, None).await {
                    Ok(SessionAnswer::Count(next)) => {
                        let is_behind = {
                            let frontends = self.watch().lock();
                            let view = frontends.get(&frontend);
                            // 0: it has forgotten this server, which had left its list.
                            view.is_some_and(|view| {
                                view.must_ask || next == 0 || view.last + 1 < next
                            })
                        };
                        if is_behind {
                            self.ask_who_is_in(&frontend);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        if is_gone(&error) && !self.frontend_ids().contains(&frontend) {
                            self.unwatch_frontend(&frontend);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// A small generator of our own: the seed is the case.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    fn key(n: u64) -> AudienceKey {
        AudienceKey::topic(&format!("room:{n}")).unwrap()
    }

    type Truth = BTreeSet<(AudienceKey, Arc<str>)>;

    /// A frontend whose notices and answers travel to a watcher, in order, and may be lost.
    #[derive(Default)]
    struct World {
        truth: Truth,
        number: u64,
        way: VecDeque<MemberNotice>,
        view: View,
        /// What a listener of the watcher believes.
        heard: Truth,
    }

    impl World {
        fn change(&mut self, random: &mut Random) {
            let pair = (
                key(random.below(3)),
                Arc::from(format!("user-{}", random.below(4))),
            );
            let departure = if self.truth.remove(&pair) {
                Some(Departure::Left)
            } else {
                self.truth.insert(pair.clone());
                None
            };
            self.number += 1;
            self.way.push_back(MemberNotice {
                frontend: ServerId::new("connector-1").unwrap(),
                number: self.number,
                audience: pair.0,
                uid: pair.1,
                departure,
            });
        }

        fn parts(&self) -> Vec<AudiencePart> {
            let mut parts: Vec<AudiencePart> = Vec::new();
            for (key, uid) in &self.truth {
                if parts
                    .last()
                    .is_none_or(|part| part.audience != *key.shared())
                {
                    parts.push(AudiencePart {
                        audience: Arc::clone(key.shared()),
                        ..AudiencePart::default()
                    });
                }
                if let Some(part) = parts.last_mut() {
                    part.uids.push(Arc::clone(uid));
                    part.count += 1;
                }
            }
            parts
        }

        fn tell(&mut self, news: Vec<Change>, seed: u64) {
            for (key, uid, departure) in news {
                let pair = (key, uid);
                let made_sense = match departure {
                    None => self.heard.insert(pair),
                    Some(_) => self.heard.remove(&pair),
                };
                assert!(made_sense, "seed {seed}: the story is not true");
            }
        }

        /// The next notice comes. True if the frontend has to be asked.
        fn hear(&mut self, seed: u64) -> bool {
            let Some(notice) = self.way.pop_front() else {
                return false;
            };
            if let Some(waiting) = &mut self.view.asking {
                waiting.push(notice);
                return false;
            }
            let mut news = Vec::new();
            let is_whole = self.view.hear(notice, &mut news);
            self.tell(news, seed);
            !is_whole
        }

        /// The frontend was asked when the number was `asked`, answers with what is true now, and the answer comes.
        fn answer(&mut self, asked: u64, seed: u64) -> bool {
            let mut news = Vec::new();
            let parts = self.parts();
            let is_whole = self.view.learn(parts, asked, &mut news);
            self.tell(news, seed);
            !is_whole
        }
    }

    #[test]
    fn members_that_a_cut_list_does_not_name_have_not_left() {
        let uids = ["ann", "bob", "eve"].map(Arc::from);
        let mut view = View {
            members: HashMap::from([(key(1), HashSet::from(uids))]),
            is_known: true,
            ..View::default()
        };
        let part = |uid: &str, count| AudiencePart {
            audience: Arc::clone(key(1).shared()),
            count,
            uids: vec![uid.into()],
        };
        let mut news = Vec::new();
        assert!(view.learn(vec![part("ann", 3)], 7, &mut news));
        assert!(news.is_empty(), "{news:?}");
        assert_eq!(view.members[&key(1)].len(), 3);
        assert!(view.learn(vec![part("ann", 1)], 8, &mut news));
        assert_eq!(news.len(), 2);
    }

    /// Notices are lost, and come before and after answers: a listener hears a true story, and in the end all of it.
    #[test]
    fn whatever_is_lost_the_listener_hears_a_true_story() {
        for seed in 1..3000_u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut world = World::default();
            world.view.is_known = true;
            let mut asked: Option<u64> = None;
            for _ in 0..60 {
                match random.below(10) {
                    0..=4 => world.change(&mut random),
                    // Never the one that was sent after the answer: the path is one.
                    5 if !world.way.is_empty() => drop(world.way.pop_front()),
                    6..=8 => {
                        if world.hear(seed) && asked.is_none() {
                            world.view.asking = Some(Vec::new());
                            asked = Some(world.number);
                        }
                    }
                    _ => {
                        if let Some(at) = asked.take()
                            && world.answer(at, seed)
                        {
                            world.view.asking = Some(Vec::new());
                            asked = Some(world.number);
                        }
                    }
                }
            }
            // Quiet: the rest comes, or is found missing by its number.
            while !world.way.is_empty() || asked.is_some() || world.view.last != world.number {
                let is_missing = world.hear(seed);
                if let Some(at) = asked.take() {
                    if world.answer(at, seed) {
                        world.view.asking = Some(Vec::new());
                        asked = Some(world.number);
                    }
                } else if is_missing || world.way.is_empty() && world.view.last != world.number {
                    world.view.asking = Some(Vec::new());
                    asked = Some(world.number);
                }
            }
            assert_eq!(world.heard, world.truth, "seed {seed}");
        }
    }
}
