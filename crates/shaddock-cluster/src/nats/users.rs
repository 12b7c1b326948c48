//! Users bound at this frontend: their sessions and claims ([`owners`](crate::owners)), and, while a Pitaya server is there that may push to them
//! by their subjects, two subscriptions for each of them.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};

use super::link::Link;
use super::subject;
use crate::owners::{ClaimAnswer, ClaimQuery, Extra, Hold, Number, Table};
use crate::{BindError, RawSid, ServerInfo, SessionsPerUser};
use parking_lot::{Mutex, MutexGuard};

/// How long a bind waits to hear that NATS has its subscriptions.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// Claims that wait to be deleted. Beyond this limit a claim stays until the lease ends: a claimant asks here, and is notified that the
/// user is free.
const GIVEN_UP: usize = 65_536;

/// Subscriptions that wait for the task that reads them. At the bound a bind waits.
const OPENED: usize = 1024;

/// The table of bound users.
pub(super) struct Users {
    info: Arc<ServerInfo>,
    table: Mutex<Inner>,
    /// New subscriptions, for the task that reads them all.
    opened: mpsc::Sender<UserStream>,
    /// Claims that are no longer needed, for the task that deletes them.
    given_up: Mutex<HashMap<Arc<str>, Number>>,
    pub(super) gave_up: Notify,
    /// A Pitaya frontend gave a user up, and deletes the key that says that the user is here.
    pub(super) key_may_go: Notify,
}

struct Inner {
    users: Table<Reach>,
    /// Whether users need subscriptions of their own.
    needed: bool,
    /// Counts how often they were found to need them.
    found_needed: u64,
    /// The count when the decision was made to release them soon.
    giving_up: Option<u64>,
}

/// How a user is reached here, and how their binds take turns. There while a user has subscriptions, or a bind that runs.
#[derive(Default)]
struct Reach {
    /// Ends the subscriptions when dropped.
    subscribed: Option<oneshot::Sender<()>>,
    /// Binds of one user follow each other. There as long as there is one.
    turn: Option<Arc<AsyncMutex<()>>>,
}

impl Extra for Reach {
    /// Without binds there is nothing to take turns for.
    fn binds_ended(&mut self) -> bool {
        self.turn = None;
        self.subscribed.is_some()
    }
}

/// A message for a user.
pub(super) enum ForUser {
    Push(async_nats::Message),
    Kick(async_nats::Message),
}

pub(super) type UserStream = Pin<Box<dyn Stream<Item = ForUser> + Send>>;

impl Users {
    /// The table, and the subscriptions that [`user_messages`](super::user_messages) is to read.
    pub(super) fn new(info: Arc<ServerInfo>) -> (Self, mpsc::Receiver<UserStream>) {
        let (opened, opened_reader) = mpsc::channel(OPENED);
        let table = Mutex::new(Inner {
            users: Table::default(),
            needed: true,
            found_needed: 0,
            giving_up: None,
        });
        let users = Self {
            info,
            table,
            opened,
            given_up: Mutex::default(),
            gave_up: Notify::new(),
            key_may_go: Notify::new(),
        };
        (users, opened_reader)
    }

    fn table(&self) -> MutexGuard<'_, Inner> {
        self.table.lock()
    }

    pub(super) fn count(&self) -> usize {
        self.table().users.len()
    }

    pub(super) fn subscriptions(&self) -> usize {
        let table = self.table();
        let subscribed = |reach: &&Reach| reach.subscribed.is_some();
        table.users.extras().filter(subscribed).count() * 2
    }

    pub(super) fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        self.table().users.is_bound(uid, sid)
    }

    /// All sessions of users.
    pub(super) fn bound_sids(&self) -> HashSet<RawSid> {
        self.table().users.sids().collect()
    }

    /// The claims on users.
    pub(super) fn claims(&self) -> Vec<(Arc<str>, Number)> {
        let table = self.table();
        let claims = table.users.claims();
        claims
            .map(|(uid, number)| (Arc::clone(uid), number))
            .collect()
    }

    /// The number of the claim on a user, if it is written.
    pub(super) fn claim(&self, uid: &str) -> Option<Number> {
        self.table().users.claim(uid)
    }

    /// Whether a session is bound or is being bound to this user.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.table().users.knows(uid)
    }

    /// The claim on a user was written. If the user has gone meanwhile, it is given up.
    pub(super) fn claimed(&self, uid: &Arc<str>, number: Number) {
        let known = self.table().users.claimed(uid, number);
        if !known {
            self.give_up(uid, Some(number));
        }
    }

    /// A claim of this server with this revision was found in etcd. Returns false if it is not needed here.
    pub(super) fn renumber(&self, uid: &str, number: Number) -> bool {
        self.table().users.renumber(uid, number)
    }

    /// Called when another frontend wants a user.
    pub(super) fn asked(&self, uid: &str, query: &ClaimQuery, own_lease: i64) -> ClaimAnswer {
        self.table().users.asked(uid, query, own_lease)
    }

    /// Takes all sessions of a user away: another frontend owns the user. False if there was none here.
    pub(super) fn revoke(&self, uid: &str) -> bool {
        let mut table = self.table();
        if table.users.extra(uid).is_some()
            && let Some(reach) = table.users.extra_mut(uid)
        {
            reach.subscribed = None;
        }
        table.users.revoke(uid)
    }

    pub(super) fn unbind(&self, uid: &Arc<str>, sid: RawSid) {
        let free = self.table().users.unbind(uid, sid);
        self.give_up(uid, free);
    }

    /// An unneeded claim is deleted soon.
    fn give_up(&self, uid: &Arc<str>, claim: Option<Number>) {
        let Some(number) = claim else { return };
        {
            let mut given_up = self.given_up.lock();
            if given_up.len() >= GIVEN_UP && !given_up.contains_key(uid) {
                return;
            }
            // An unknown number comes first: then etcd is read.
            let known = given_up.entry(Arc::clone(uid)).or_insert(number);
            *known = number.min(*known);
        }
        self.gave_up.notify_one();
    }

    /// It is not known whether a claim was written: etcd is read soon.
    pub(super) fn maybe_claimed(&self, uid: &Arc<str>) {
        self.give_up(uid, Some(Number::default()));
    }

    /// The claims that were given up since the last call.
    pub(super) fn take_given_up(&self) -> HashMap<Arc<str>, Number> {
        std::mem::take(&mut *self.given_up.lock())
    }

    /// They could not be deleted.
    pub(super) fn give_up_again(&self, uid: &Arc<str>, number: Number) {
        let mut given_up = self.given_up.lock();
        if given_up.len() < GIVEN_UP {
            given_up.entry(Arc::clone(uid)).or_insert(number);
        }
    }

    /// This server leaves: all are forgotten, and with its lease their claims.
    pub(super) fn forget_all(&self) {
        self.table().users.clear();
    }

    /// Enters a session of a user; it counts from now on, also while it waits for its turn.
    pub(super) fn begin(
        &self,
        uid: &Arc<str>,
        sid: RawSid,
        unique: SessionsPerUser,
    ) -> Result<(Hold, Arc<AsyncMutex<()>>), BindError> {
        let mut table = self.table();
        match table.users.begin(uid, sid, unique) {
            Some((hold, reach)) => {
                let turn = reach.turn.get_or_insert_with(Arc::default);
                Ok((hold, Arc::clone(turn)))
            }
            None => Err(BindError::Taken(self.info.id.clone())),
        }
    }

    /// Whether a bind still has its session in the table: no other frontend took the user.
    pub(super) fn holds(&self, uid: &str, hold: &Hold) -> bool {
        self.table().users.holds(uid, hold)
    }

    /// A bind is over; `is_bound` says whether its session is bound. Returns whether the user is still this frontend's.
    pub(super) fn keep(&self, uid: &Arc<str>, hold: &Hold, is_bound: &dyn Fn() -> bool) -> bool {
        let (kept, free) = {
            let mut table = self.table();
            let is_bound = is_bound();
            table.users.keep(uid, hold, is_bound)
        };
        self.give_up(uid, free);
        kept
    }

    /// A bind was given up: takes away what it has added, and nothing else.
    pub(super) fn undo(&self, uid: &Arc<str>, hold: &Hold) {
        let free = self.table().users.undo(uid, hold);
        self.give_up(uid, free);
    }

    /// Subscribes to a user's subjects and waits until NATS has done it, unless that is done or not needed.
    pub(super) async fn subscribe(&self, link: &Link, uid: &Arc<str>) -> Result<(), BindError> {
        if self.open(link, uid).await? {
            // Every server that is notified of the bind, in any way, can push to the user.
            link.round_trip(ROUND_TRIP).await;
        }
        Ok(())
    }

    /// Sends the subscriptions of a user; false if there are some or none are needed.
    async fn open(&self, link: &Link, uid: &Arc<str>) -> Result<bool, BindError> {
        {
            let table = self.table();
            let subscribed = |reach: &Reach| reach.subscribed.is_some();
            let reach = table.users.extra(uid);
            if !table.needed || !table.users.knows(uid) || reach.is_some_and(subscribed) {
                return Ok(false);
            }
        }
        // First the place where they are read: there is no wait under the lock.
        let left = |_| BindError::Left;
        let room = self.opened.reserve().await.map_err(left)?;
        let (stream, stop) = subscribe(link, &self.info.server_type, uid).await?;
        let mut table = self.table();
        if table.users.sessions(uid) > 0
            && let Some(reach) = table.users.extra_mut(uid)
            && reach.subscribed.is_none()
        {
            reach.subscribed = Some(stop);
            room.send(stream);
        }
        Ok(true)
    }

    /// Users need subscriptions of their own. True if they did not before: then they have to get them ([`subscribe_all`](Self::subscribe_all)).
    pub(super) fn are_needed(&self) -> bool {
        let mut table = self.table();
        table.found_needed += 1;
        table.giving_up = None;
        !std::mem::replace(&mut table.needed, true)
    }

    /// Users need no subscriptions of their own any more. If they have some, the result is what [`give_subscriptions_up`](Self::give_subscriptions_up)
    /// wants to know later, and that is to be called once.
    pub(super) fn are_not_needed(&self) -> Option<u64> {
        let mut table = self.table();
        let count = table.found_needed;
        if !table.needed || table.giving_up == Some(count) {
            return None;
        }
        table.giving_up = Some(count);
        Some(count)
    }

    /// Ends the subscriptions of users, unless they were found to be needed meanwhile.
    pub(super) fn give_subscriptions_up(&self, count: u64) {
        let mut table = self.table();
        if table.found_needed != count {
            return;
        }
        table.needed = false;
        table.giving_up = None;
        table.users.retain_extras(|reach| {
            reach.subscribed = None;
            false
        });
    }

    /// Subscribes for all bound users; ends early if that is not needed any more.
    pub(super) async fn subscribe_all(&self, link: &Link) {
        let uids: Vec<_> = self.table().users.uids().cloned().collect();
        tracing::info!(
            users = uids.len(),
            "a Pitaya server came: subscribing for every user"
        );
        for uid in uids {
            if let Err(error) = self.open(link, &uid).await {
                tracing::warn!(%error, "not all users can be reached by Pitaya servers");
                return;
            }
        }
    }
}

async fn subscribe(
    link: &Link,
    frontend_type: &str,
    uid: &str,
) -> Result<(UserStream, oneshot::Sender<()>), BindError> {
    let open = async |subject| {
        link.subscribe(subject)
            .await
            .map_err(|error| BindError::Unavailable(error.to_string()))
    };
    let push = open(subject::push(frontend_type, uid)).await?;
    let kick = open(subject::kick(frontend_type, uid)).await?;
    let (stop, stopped) = oneshot::channel();
    let messages = futures_util::stream::select(push.map(ForUser::Push), kick.map(ForUser::Kick));
    Ok((Box::pin(messages.take_until(stopped)), stop))
}
