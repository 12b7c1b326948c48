//! Servers that are notified of joins and leaves.
//!
//! A watcher asks every frontend for the members of what it watches; from then on the frontend sends it a notice of each change, on the
//! path of everything it sends there. Notices are numbered: where one is missing, the watcher asks again, and tells what has changed meanwhile.
//! What it knows of a frontend is needed for one thing only: to say who has left when that frontend is gone.

mod event;
mod known;
mod listeners;
mod view;

use std::{sync::Arc, time::Duration};

pub use shaddock_cluster::Departure;
use shaddock_cluster::{
    AudienceKey, AudiencePart, MemberNotice, RemoteError, ServerId, SessionAnswer, SessionOp,
    owner_of,
};
use shaddock_core::{FrontendId, Uid};
use tokio::sync::mpsc;

pub use self::event::MemberEvent;
use self::view::{Change, pairs};
pub(crate) use self::{known::Watch, listeners::MemberHooks};
use super::{gone::is_gone, join::AudienceCalls};
use crate::app::{AppHandle, Part, Registrations, StartError, start_task};

/// Time between looks whether the last notice of each frontend has come.
const LOOK: Duration = Duration::from_secs(5);
/// Time before a frontend that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Notices that wait while a frontend is asked. Above, it is asked once more.
const WAITING: usize = 65_536;
/// Events that wait for the listeners; at the bound they are counted as lost.
const EVENTS: usize = 65_536;

/// Watches the members of channels and topics, and notifies the listeners.
#[derive(Clone, Copy)]
pub(crate) struct Watching<'a> {
    app: &'a AppHandle,
}

impl<'a> Watching<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// The audiences that this server watches; none without listeners.
    fn watched(self) -> Vec<String> {
        let listened = self.app.watch().listened.get();
        let prefixes = listened.map_or(&[][..], |listened| &listened.topics);
        let topics = prefixes.iter().filter_map(|prefix| {
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
        let has_channels = listened.is_some_and(|listened| listened.has_channels);
        if has_channels || self.app.channel_data().has_store() {
            all.push(AudienceKey::channels(self.app.id(), self.app.life()));
        }
        all
    }

    /// Begins to watch, when this server has joined the cluster.
    pub(crate) fn start(self, registered: &Arc<Registrations>) -> Result<(), StartError> {
        // Set once, here.
        let _ = self
            .app
            .watch()
            .listened
            .set(registered.hooks().members.listened());
        if self.watched().is_empty() {
            return Ok(());
        }
        let (sender, events) = mpsc::channel(EVENTS);
        *self.app.watch().events.lock() = Some(sender);
        let (app, registered) = (self.app.clone(), Arc::clone(registered));
        start_task(self.app, "members of channels and topics", async move {
            Watching::of(&app)
                .dispatch_events(&registered.hooks().members, events)
                .await;
        })?;
        let app = self.app.clone();
        start_task(self.app, "looks for lost notices", async move {
            Watching::of(&app).check_for_gaps().await;
        })?;
        for frontend in self.frontend_ids() {
            self.start_query(&frontend);
        }
        Ok(())
    }

    /// All frontends that are listed or still serve.
    pub(super) fn frontend_ids(self) -> Vec<ServerId> {
        let Ok(membership) = self.app.membership() else {
            return Vec::new();
        };
        let departing = membership.departing();
        let all = membership.members().frontends().into_iter();
        let all = all.chain(departing.into_iter().filter(|info| info.frontend));
        all.filter(|info| matches!(membership.keeps_audiences(&info.id), Ok(true)))
            .map(|info| info.id.clone())
            .collect()
    }

    fn is_watching(self) -> bool {
        self.app.watch().events.lock().is_some()
    }

    /// A frontend has joined. Notices about it are new from now on.
    pub(crate) fn watch_frontend(self, frontend: &ServerId) {
        if self.is_watching() {
            self.app
                .watch()
                .lock()
                .entry(frontend.clone())
                .or_default()
                .is_known = true;
            self.start_query(frontend);
        }
    }

    /// Asks a frontend who is in what this server watches, unless it is being asked.
    fn start_query(self, frontend: &ServerId) {
        {
            let mut frontends = self.app.watch().lock();
            let view = frontends.entry(frontend.clone()).or_default();
            if view.asking.is_some() {
                return;
            }
            view.asking = Some(Vec::new());
            view.must_ask = false;
        }
        let (app, asked) = (self.app.clone(), frontend.clone());
        let spawned = self.app.spawn("who is in channels and topics", async move {
            loop {
                match Watching::of(&app).query_all_members(&asked).await {
                    Ok((parts, last)) => return Watching::of(&app).learn(&asked, parts, last),
                    Err(error) if Watching::of(&app).frontend_ids().contains(&asked) => {
                        tracing::debug!(frontend = %asked, %error, "a frontend does not report the members of channels and topics");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(_) => return Watching::of(&app).unwatch_frontend(&asked),
                }
            }
        });
        if let Err(error) = spawned {
            shaddock_net::quiet!(warn, "the members at a frontend are queried later: raise `handlers.max_tasks`", %frontend, %error);
            if let Some(view) = self.app.watch().lock().get_mut(frontend) {
                (view.asking, view.must_ask) = (None, true);
            }
        }
    }

    async fn query_all_members(
        self,
        frontend: &ServerId,
    ) -> Result<(Vec<AudiencePart>, u64), RemoteError> {
        let (mut all, mut first, mut after) = (Vec::new(), None, Arc::from(""));
        loop {
            let op = SessionOp::Audiences {
                prefixes: self.watched(),
                after,
                named: true,
                watcher: first.is_none().then(|| self.app.info().id.clone()),
            };
            let answer = AudienceCalls::of(self.app).ask(frontend, op, None).await?;
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

    fn learn(self, frontend: &ServerId, parts: Vec<AudiencePart>, last: u64) {
        let mut news = Vec::new();
        let is_whole = {
            let mut frontends = self.app.watch().lock();
            let Some(view) = frontends.get_mut(frontend) else {
                return;
            };
            let is_whole = view.learn(parts, last, &mut news);
            self.emit(frontend, news);
            is_whole
        };
        if !is_whole {
            self.start_query(frontend);
        }
    }

    /// A frontend tells of a change.
    pub(crate) fn notice(self, notice: MemberNotice) {
        let frontend = notice.frontend.clone();
        let mut news = Vec::new();
        let is_whole = {
            let mut frontends = self.app.watch().lock();
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
                    self.emit(&frontend, news);
                    is_whole
                }
            }
        };
        if !is_whole {
            self.start_query(&frontend);
        }
    }

    /// A frontend is gone, and its members with it.
    pub(crate) fn unwatch_frontend(self, frontend: &ServerId) {
        let mut frontends = self.app.watch().lock();
        if let Some(view) = frontends.remove(frontend) {
            let lost = pairs(&view.members);
            let gone = Some(Departure::FrontendLost);
            let news = lost.map(|(key, uid)| (key.clone(), Arc::clone(uid), gone));
            self.emit(frontend, news.collect());
        }
    }

    fn emit(self, frontend: &ServerId, news: Vec<Change>) {
        let Ok(frontend) = FrontendId::new(frontend.as_str()) else {
            return;
        };
        let events = self.app.watch().events.lock();
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
                self.app.stats().lost_events.add(1);
            }
        }
    }

    /// Of the servers of this type one tells its listeners of a topic: the one that its name chooses. A channel has one server.
    fn is_mine(self, key: &AudienceKey) -> bool {
        let Some(topic) = key.as_topic() else {
            return true;
        };
        let Ok(membership) = self.app.membership() else {
            return false;
        };
        let servers = membership.members().servers_of(self.app.server_type());
        owner_of(topic.as_bytes(), &servers).is_none_or(|owner| owner.id == self.app.info().id)
    }

    async fn dispatch_events(self, hooks: &MemberHooks, mut events: mpsc::Receiver<MemberEvent>) {
        while let Some(event) = events.recv().await {
            if event.departure.is_some()
                && event.audience.as_topic().is_none()
                && let Some(channel) = self.app.channel_data().channel(event.name())
                && Some(channel.number()) == event.audience.number()
            {
                channel.store_leave(event.uid.as_str(), event.frontend.as_str());
            }
            if !self.is_mine(&event.audience) {
                continue;
            }
            for hook in hooks.of(&event.audience) {
                let (app, hook, event) = (self.app.clone(), Arc::clone(hook), event.clone());
                let limit = self.app.config().event_timeout;
                // A panic or a timeout was logged; the next listener runs all the same.
                let _ = Part::of(self.app, "member listener")
                    .run(limit, move || hook(app, event))
                    .await;
            }
        }
    }

    async fn check_for_gaps(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // A frontend that had left the list before this server joined, and of which another server's notice came later.
            for frontend in self.frontend_ids() {
                let is_watched = self.app.watch().lock().contains_key(&frontend);
                if !is_watched {
                    self.start_query(&frontend);
                }
            }
            let known: Vec<ServerId> = self.app.watch().lock().keys().cloned().collect();
            for frontend in known {
                let op = SessionOp::NextNotice {
                    watcher: self.app.info().id.clone(),
                };
                match AudienceCalls::of(self.app).ask(&frontend, op, None).await {
                    Ok(SessionAnswer::Count(next)) => {
                        let is_behind = {
                            let frontends = self.app.watch().lock();
                            let view = frontends.get(&frontend);
                            // 0: it has forgotten this server, which had left its list.
                            view.is_some_and(|view| {
                                view.must_ask || next == 0 || view.last + 1 < next
                            })
                        };
                        if is_behind {
                            self.start_query(&frontend);
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
