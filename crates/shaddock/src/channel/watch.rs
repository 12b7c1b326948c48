//! Servers that are notified of joins and leaves.
//!
//! A watcher asks every frontend for the members of what it watches; from then on the frontend sends it a notice of each change, on the
//! path of everything it sends there. Notices are numbered: where one is missing, the watcher asks again, and tells what has changed meanwhile.
//! What it knows of a frontend is needed for one thing only: to say who has left when that frontend is gone.

mod listeners;
mod view;

use std::{
    collections::HashMap,
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

pub use self::listeners::MemberEvent;
pub(crate) use self::listeners::MemberHooks;
use self::view::{Change, View, pairs};
use super::join::is_gone;
use crate::app::{AppHandle, StartError};

/// Time between looks whether the last notice of each frontend has come.
const LOOK: Duration = Duration::from_secs(5);
/// Time before a frontend that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Notices that wait while a frontend is asked. Above, it is asked once more.
const WAITING: usize = 65_536;
/// Events that wait for the listeners; at the bound they are counted as lost.
const EVENTS: usize = 65_536;

/// What a watcher knows.
#[derive(Default)]
pub(crate) struct Watch {
    frontends: Mutex<HashMap<ServerId, View>>,
    events: Mutex<Option<mpsc::Sender<MemberEvent>>>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, View>> {
        self.frontends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    /// The audiences that this server watches; none without listeners.
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
            app.dispatch_member_events(events).await;
        })?;
        let app = self.clone();
        self.start_task("looks for lost notices", async move {
            app.check_for_gaps().await;
        })?;
        for frontend in self.frontend_ids() {
            self.start_query(&frontend);
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

    /// A frontend has joined. Notices about it are new from now on.
    pub(crate) fn watch_frontend(&self, frontend: &ServerId) {
        if self.is_watching() {
            self.watch()
                .lock()
                .entry(frontend.clone())
                .or_default()
                .is_known = true;
            self.start_query(frontend);
        }
    }

    /// Asks a frontend who is in what this server watches, unless it is being asked.
    fn start_query(&self, frontend: &ServerId) {
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
                match app.query_all_members(&asked).await {
                    Ok((parts, last)) => return app.learn(&asked, parts, last),
                    Err(error) if app.frontend_ids().contains(&asked) => {
                        tracing::debug!(frontend = %asked, %error, "a frontend does not report the members of channels and topics");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(_) => return app.unwatch_frontend(&asked),
                }
            }
        });
        if let Err(error) = spawned {
            shaddock_net::quiet!(warn, "the members at a frontend are queried later: raise `handlers.max_tasks`", %frontend, %error);
            if let Some(view) = self.watch().lock().get_mut(frontend) {
                (view.asking, view.must_ask) = (None, true);
            }
        }
    }

    async fn query_all_members(
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
            self.start_query(frontend);
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
            self.start_query(&frontend);
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

    async fn dispatch_member_events(&self, mut events: mpsc::Receiver<MemberEvent>) {
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

    async fn check_for_gaps(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // A frontend that had left the list before this server joined, and of which another server's notice came later.
            for frontend in self.frontend_ids() {
                let is_watched = self.watch().lock().contains_key(&frontend);
                if !is_watched {
                    self.start_query(&frontend);
                }
            }
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
