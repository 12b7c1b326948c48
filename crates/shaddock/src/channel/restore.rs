//! What a server does with its channels when frontends come and go, and with members that a store remembers.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shaddock_cluster::{AudienceKey, ServerId, SessionAnswer, SessionOp};
use shaddock_core::{Channel, FrontendId, Uid};
use tokio::time::Instant;

use super::{AudienceCalls, audience::GRACE, gone::is_gone, join::JoinError, watch::Watching};
use crate::app::AppHandle;

/// Time before a frontend that is back and did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// The interval of queries for members by name whose frontends have not reported them yet.
const LOOK: Duration = Duration::from_secs(5);

/// One look at all members by name that are not settled.
#[derive(Default)]
struct Look {
    /// Frontends that are not there.
    missing: HashSet<FrontendId>,
    /// Frontends that did not answer: they are asked for their other members, of all channels, at the next look.
    silent: HashSet<FrontendId>,
}

/// The channels of this server, and the frontends that have members of them.
#[derive(Clone, Copy)]
pub(crate) struct OwnChannels<'a> {
    app: &'a AppHandle,
}

impl<'a> OwnChannels<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// The audience of a channel of this server.
    pub(super) fn key_of(self, channel: &Channel) -> Option<AudienceKey> {
        // The name was checked when it was made.
        AudienceKey::channel(
            self.app.id(),
            self.app.life(),
            channel.number(),
            channel.name(),
        )
    }

    /// Ends an audience at a frontend; it is on its way when this returns.
    pub(super) fn end_audience(self, frontend: &ServerId, audience: AudienceKey) {
        let ended =
            AudienceCalls::of(self.app).ask(frontend, SessionOp::EndAudience { audience }, None);
        let frontend = frontend.clone();
        let _ = self.app.spawn("end of a channel", async move {
            if let Err(error) = ended.await
                && !is_gone(&error)
            {
                // If it was away, its channels are asked for when it is back.
                tracing::debug!(%frontend, %error, "a frontend was not notified of the end of a channel");
            }
        });
    }

    /// A frontend is gone, or seems to be: it is no place of any channel, and members by name there have left.
    pub(crate) fn forget_frontend(self, frontend: &ServerId) {
        for name in self.app.channel_data().names() {
            let Some(channel) = self.app.channel_data().channel(&name) else {
                continue;
            };
            channel.leave_place(frontend.as_str(), None);
            let plan = channel.members_by_frontend();
            let mut groups = plan.iter();
            let group = groups.find(|group| group.frontend == *frontend.as_str());
            for uid in group.iter().flat_map(|group| &group.uids) {
                channel.leave(uid.as_str(), frontend.as_str());
            }
        }
    }

    /// A frontend that seemed to be gone is back, with the members that it has kept: it says in which channels they are.
    pub(crate) fn remember_frontend(self, frontend: &ServerId) {
        if self.app.channel_data().channel_count() == 0 {
            return;
        }
        let (app, frontend) = (self.app.clone(), frontend.clone());
        let spawned = self.app.spawn("channels of a frontend that is back", async move {
            // It is back in the list; NATS may reach it later.
            while let Err(error) = OwnChannels::of(&app).ask_channels_of(&frontend).await {
                if !Watching::of(&app).frontend_ids().contains(&frontend) {
                    return;
                }
                tracing::debug!(%frontend, %error, "a frontend that has returned has not reported the members of channels yet");
                tokio::time::sleep(AGAIN).await;
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "members at a frontend that has returned do not receive the messages of their channels");
        }
    }

    async fn ask_channels_of(
        self,
        frontend: &ServerId,
    ) -> Result<(), shaddock_cluster::RemoteError> {
        let Ok(place) = FrontendId::new(frontend.as_str()) else {
            return Ok(());
        };
        let all = AudienceKey::channels(self.app.id(), self.app.life());
        let mut after: Arc<str> = "".into();
        loop {
            let op = SessionOp::Audiences {
                prefixes: vec![all.clone()],
                after,
                named: false,
                watcher: None,
            };
            let answer = AudienceCalls::of(self.app).ask(frontend, op, None).await?;
            let SessionAnswer::Audiences { parts, more, .. } = answer else {
                return Ok(());
            };
            let Some(last) = parts.last().map(|part| Arc::clone(&part.audience)) else {
                return Ok(());
            };
            for key in parts
                .iter()
                .filter_map(|part| AudienceKey::parse(&part.audience))
            {
                let channel = self.app.channel_data().channel(key.name());
                let channel = channel.filter(|channel| Some(channel.number()) == key.number());
                if !channel.is_some_and(|channel| channel.enter_place(&place)) {
                    // It was destroyed meanwhile.
                    self.end_audience(frontend, key);
                }
            }
            if !more {
                return Ok(());
            }
            after = last;
        }
    }

    /// Asks the frontends of members by name that a store remembers whether they are there, until all are known: a frontend that does not answer is
    /// asked again, and one that is not there for [`GRACE`] has no members.
    pub(crate) fn settle_restored(self) {
        if self.app.channel_data().channel_count() == 0 || self.app.membership().is_err() {
            return;
        }
        let settling = self.app.settling();
        settling.look.notify_one();
        if settling.runs.swap(true, Ordering::AcqRel) {
            return;
        }
        let app = self.app.clone();
        let spawned = self.app.spawn("members of restored channels", async move {
            OwnChannels::of(&app).settle_all().await;
        });
        if let Err(error) = spawned {
            settling.runs.store(false, Ordering::Release);
            shaddock_net::quiet!(warn, "members of restored channels are queried when the next frontend joins: raise `handlers.max_tasks`", %error);
        }
    }

    async fn settle_all(self) {
        // Frontends that are not there, and since when.
        let mut missing: HashMap<FrontendId, Instant> = HashMap::new();
        loop {
            let mut unsettled = 0;
            let mut look = Look::default();
            for name in self.app.channel_data().names() {
                if let Some(channel) = self.app.channel_data().channel(&name) {
                    unsettled += self.settle(&channel, &mut missing, &mut look).await;
                }
            }
            missing.retain(|frontend, _| look.missing.contains(frontend));
            let settling = self.app.settling();
            if unsettled > 0 {
                let _ = tokio::time::timeout(LOOK, settling.look.notified()).await;
                continue;
            }
            settling.runs.store(false, Ordering::Release);
            // Another caller may have found meanwhile that this is running.
            let called = tokio::time::timeout(Duration::ZERO, settling.look.notified());
            if called.await.is_err() || settling.runs.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    /// Returns how many members by name it is not known of whether they are there.
    async fn settle(
        self,
        channel: &Arc<Channel>,
        missing: &mut HashMap<FrontendId, Instant>,
        look: &mut Look,
    ) -> usize {
        let plan = channel.members_by_frontend();
        let mut unsettled = 0;
        for group in plan.iter() {
            let (Some(key), Ok(id)) =
                (self.key_of(channel), ServerId::new(group.frontend.as_str()))
            else {
                continue;
            };
            match self.app.membership().and_then(|m| m.keeps_audiences(&id)) {
                Ok(true) => {}
                // Members at Pitaya frontends stay members by name.
                Ok(false) => continue,
                Err(_) => {
                    look.missing.insert(group.frontend.clone());
                    let since = missing.entry(group.frontend.clone());
                    if since.or_insert_with(Instant::now).elapsed() < GRACE {
                        unsettled += group.uids.len();
                        continue;
                    }
                    for uid in &group.uids {
                        channel.leave(uid.as_str(), id.as_str());
                    }
                    continue;
                }
            }
            let place = (&id, &group.frontend);
            for uid in &group.uids {
                // One that did not answer is asked for the others at the next look.
                let is_settled = !look.silent.contains(&group.frontend)
                    && self.settle_member(channel, &key, place, uid, look).await;
                unsettled += usize::from(!is_settled);
            }
        }
        unsettled
    }

    /// Makes a member by name a member of the audience at its frontend, or takes it out. False if that could not be found out.
    async fn settle_member(
        self,
        channel: &Arc<Channel>,
        key: &AudienceKey,
        (id, frontend): (&ServerId, &FrontendId),
        uid: &Uid,
        look: &mut Look,
    ) -> bool {
        // In one step: pushes reach the member by the one way or by the other.
        if !channel.take_by_name(uid.as_str(), id.as_str()) || !channel.enter_place(frontend) {
            return true;
        }
        let joined = AudienceCalls::of(self.app)
            .join(id, key.clone(), uid, None)
            .await;
        match joined {
            Ok(_) if channel.enter_place(frontend) => {}
            Ok(_) => self.end_audience(id, key.clone()),
            Err(JoinError::Closed) => channel.store_leave(uid.as_str(), id.as_str()),
            Err(error) => {
                channel.add(uid, frontend);
                if matches!(error, JoinError::Remote(_)) {
                    look.silent.insert(frontend.clone());
                }
                tracing::debug!(frontend = %id, %error, "a member of a restored channel is unknown");
                return false;
            }
        }
        true
    }
}
