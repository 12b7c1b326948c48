//! Users bound at this frontend: their sessions, their two subscriptions, and the claim on them.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};

use super::core::Core;
use super::link::Link;
use super::serve::decode_or_log;
use super::wire::KickMsg;
use super::{delivery, owners, subject};
use crate::reply::guarded;
use crate::uid::is_uid;
use crate::{BindError, RawSid, ServerInfo, SessionOp, Unique};

/// How long a bind waits to hear that NATS has its subscriptions.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// The table of bound users.
pub(super) struct Users {
    info: Arc<ServerInfo>,
    table: Mutex<Table>,
    /// New subscriptions, for the task that reads them all.
    opened: mpsc::UnboundedSender<UserStream>,
    /// Claims that are no longer needed, for the task that deletes them.
    given_up: mpsc::UnboundedSender<owners::Claim>,
    /// A Pitaya frontend gave a user up, and deletes the key that says that he is here.
    pub(super) key_may_go: Notify,
}

struct Table {
    users: HashMap<Arc<str>, User>,
    /// Whether users need subscriptions of their own.
    needed: bool,
}

#[derive(Default)]
struct User {
    sids: Vec<RawSid>,
    /// Ends the subscriptions when dropped.
    subscribed: Option<oneshot::Sender<()>>,
    /// The revision of our claim at etcd.
    claim: Option<i64>,
    /// Binds of one user follow each other.
    turn: Arc<AsyncMutex<()>>,
    /// Binds that wait or run. The record stays while there is one.
    binding: usize,
}

/// A message for a user.
pub(super) enum ForUser {
    Push(async_nats::Message),
    Kick(async_nats::Message),
}

pub(super) type UserStream = Pin<Box<dyn Stream<Item = ForUser> + Send>>;

/// What the tasks of this table read.
pub(super) struct UserTasks {
    opened: mpsc::UnboundedReceiver<UserStream>,
    pub(super) given_up: mpsc::UnboundedReceiver<owners::Claim>,
}

impl Users {
    pub(super) fn new(info: Arc<ServerInfo>) -> (Self, UserTasks) {
        let (opened, opened_reader) = mpsc::unbounded_channel();
        let (given_up, given_up_reader) = mpsc::unbounded_channel();
        let table = Mutex::new(Table {
            users: HashMap::new(),
            needed: true,
        });
        (
            Self {
                info,
                table,
                opened,
                given_up,
                key_may_go: Notify::new(),
            },
            UserTasks {
                opened: opened_reader,
                given_up: given_up_reader,
            },
        )
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.table().users.len()
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.table()
            .users
            .values()
            .filter(|user| user.subscribed.is_some())
            .count()
            * 2
    }

    pub(super) fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        self.table()
            .users
            .get(uid)
            .is_some_and(|user| user.sids.contains(&sid))
    }

    pub(super) fn sessions(&self, uid: &str) -> usize {
        self.table()
            .users
            .get(uid)
            .map_or(0, |user| user.sids.len())
    }

    /// All sessions of users.
    pub(super) fn bound_sids(&self) -> HashSet<RawSid> {
        self.table()
            .users
            .values()
            .flat_map(|user| user.sids.iter().copied())
            .collect()
    }

    /// The claims on users.
    pub(super) fn claims(&self) -> Vec<owners::Claim> {
        let claim = |(uid, user): (&Arc<str>, &User)| {
            Some(owners::Claim {
                uid: Arc::clone(uid),
                revision: user.claim?,
            })
        };
        self.table().users.iter().filter_map(claim).collect()
    }

    /// The claim on a user, if it is written.
    pub(super) fn claim(&self, uid: &str) -> Option<owners::Claim> {
        let table = self.table();
        let (uid, user) = table.users.get_key_value(uid)?;
        Some(owners::Claim {
            uid: Arc::clone(uid),
            revision: user.claim?,
        })
    }

    /// Whether a claim is still the one on its user.
    pub(super) fn holds(&self, claim: &owners::Claim) -> bool {
        let table = self.table();
        let user = table.users.get(&claim.uid);
        user.is_some_and(|user| user.claim == Some(claim.revision))
    }

    /// The claim on a user was written. If he has gone meanwhile, it is given up.
    pub(super) fn claimed(&self, uid: &Arc<str>, revision: i64) {
        if let Some(user) = self.table().users.get_mut(uid) {
            user.claim = Some(revision);
        } else {
            let uid = Arc::clone(uid);
            let _ = self.given_up.send(owners::Claim { uid, revision });
        }
    }

    /// Takes all sessions of a user away: another frontend owns him. False if he had none here.
    pub(super) fn lose(&self, uid: &str) -> bool {
        let mut table = self.table();
        let Some(user) = table.users.get_mut(uid) else {
            return false;
        };
        let had = !user.sids.is_empty();
        // A bind that is running finds its session gone. The key at etcd is the new owner's to write.
        user.sids.clear();
        user.subscribed = None;
        user.claim = None;
        if user.binding == 0 {
            table.users.remove(uid);
        }
        had
    }

    pub(super) fn unbind(&self, uid: &str, sid: RawSid) {
        let mut table = self.table();
        if let Some(user) = table.users.get_mut(uid) {
            user.sids.retain(|s| *s != sid);
            self.clean(&mut table, uid);
        }
    }

    /// Forgets a user without sessions and binds.
    fn clean(&self, table: &mut Table, uid: &str) {
        let Some(user) = table.users.get(uid) else {
            return;
        };
        if !user.sids.is_empty() || user.binding > 0 {
            return;
        }
        if let Some((uid, user)) = table.users.remove_entry(uid)
            && let Some(revision) = user.claim
        {
            let _ = self.given_up.send(owners::Claim { uid, revision });
        }
    }

    /// This server leaves: all are forgotten, and with its lease their claims.
    pub(super) fn forget_all(&self) {
        self.table().users.clear();
    }

    /// Enters a session of a user; it counts from now on, also while it waits for its turn.
    fn begin(
        &self,
        uid: &Arc<str>,
        sid: RawSid,
        unique: Unique,
    ) -> Result<Arc<AsyncMutex<()>>, BindError> {
        let mut table = self.table();
        let user = table.users.entry(Arc::clone(uid)).or_default();
        if unique == Unique::RejectNew && user.sids.iter().any(|s| *s != sid) {
            return Err(BindError::Taken(self.info.id.clone()));
        }
        if !user.sids.contains(&sid) {
            user.sids.push(sid);
        }
        user.binding += 1;
        Ok(Arc::clone(&user.turn))
    }

    /// Subscribes to a user's subjects and waits until NATS has done it, unless that is done or not needed.
    async fn subscribe(&self, link: &Link, uid: &Arc<str>) -> Result<(), BindError> {
        if self.open(link, uid).await? {
            // Who is told of the bind, by whatever way, can push to the user.
            link.round_trip(ROUND_TRIP).await;
        }
        Ok(())
    }

    /// Sends the subscriptions of a user; false if there are some or none are needed.
    async fn open(&self, link: &Link, uid: &Arc<str>) -> Result<bool, BindError> {
        {
            let table = self.table();
            if !table.needed
                || table
                    .users
                    .get(uid)
                    .is_none_or(|user| user.subscribed.is_some())
            {
                return Ok(false);
            }
        }
        let (stream, stop) = subscribe(link, &self.info.server_type, uid).await?;
        let mut table = self.table();
        if let Some(user) = table.users.get_mut(uid)
            && user.subscribed.is_none()
            && !user.sids.is_empty()
        {
            user.subscribed = Some(stop);
            let _ = self.opened.send(stream);
        }
        Ok(true)
    }

    /// Says whether users need subscriptions of their own. True if they do and did not before.
    pub(super) fn set_needed(&self, needed: bool) -> bool {
        let mut table = self.table();
        let before = std::mem::replace(&mut table.needed, needed);
        if !needed {
            for user in table.users.values_mut() {
                user.subscribed = None;
            }
        }
        needed && !before
    }

    /// Subscribes for all who are bound; ends early if that is not needed any more.
    pub(super) async fn subscribe_all(&self, link: &Link) {
        let uids: Vec<_> = self.table().users.keys().cloned().collect();
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
    let push: Subscriber = open(subject::push(frontend_type, uid)).await?;
    let kick: Subscriber = open(subject::kick(frontend_type, uid)).await?;
    let (stop, stopped) = oneshot::channel();
    let messages = futures_util::stream::select(push.map(ForUser::Push), kick.map(ForUser::Kick));
    Ok((Box::pin(messages.take_until(stopped)), stop))
}

/// A bind that has begun; undoes itself unless it is kept.
struct Binding<'a> {
    core: &'a Core,
    uid: &'a Arc<str>,
    sid: RawSid,
    keep: bool,
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        let users = &self.core.users;
        let mut table = users.table();
        if let Some(user) = table.users.get_mut(self.uid) {
            user.binding -= 1;
            if !self.keep {
                user.sids.retain(|s| *s != self.sid);
            }
            users.clean(&mut table, self.uid);
        }
    }
}

/// Binds a user at this frontend.
///
/// Binds on two frontends that ask each other to give the user up at the same time would both be lost. So a lost one begins again
/// after a while that differs, as if it had come later.
pub(super) async fn bind(core: Arc<Core>, uid: Arc<str>, sid: RawSid) -> Result<(), BindError> {
    if !is_uid(&uid) {
        return Err(BindError::IllegalUid);
    }
    let end = tokio::time::Instant::now() + core.config.takeover_timeout;
    let mut longest = 10;
    loop {
        let bound = attempt(&core, &uid, sid).await;
        if !matches!(bound, Err(BindError::Lost)) || tokio::time::Instant::now() > end {
            return bound;
        }
        let pause = crate::routing::random_below(longest) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        longest = (longest * 2).min(500);
    }
}

async fn attempt(core: &Arc<Core>, uid: &Arc<str>, sid: RawSid) -> Result<(), BindError> {
    let unique = if core.info.frontend {
        core.options.unique
    } else {
        Unique::No
    };
    let turn = core.users.begin(uid, sid, unique)?;
    let mut binding = Binding {
        core,
        uid,
        sid,
        keep: false,
    };
    let timeout = core.config.takeover_timeout;
    let settle = async {
        let _turn = turn.lock().await;
        core.users.subscribe(&core.link, uid).await?;
        if unique != Unique::No {
            owners::claim(core, uid).await?;
        }
        Ok(())
    };
    tokio::time::timeout(timeout, settle)
        .await
        .unwrap_or_else(|_| Err(BindError::Unavailable("it took too long".to_owned())))?;
    if !core.users.is_bound(uid, sid) {
        // Another frontend took the user while we settled.
        return Err(BindError::Lost);
    }
    binding.keep = true;
    Ok(())
}

/// Reads all users' subjects, for ever.
pub(super) async fn read_all(core: Arc<Core>, mut tasks: mpsc::UnboundedReceiver<UserStream>) {
    let mut all = SelectAll::new();
    loop {
        tokio::select! {
            opened = tasks.recv() => match opened {
                Some(stream) => all.push(stream),
                None => return,
            },
            Some(message) = all.next(), if !all.is_empty() => match message {
                ForUser::Push(message) => delivery::received_plain(&core, message),
                ForUser::Kick(message) => kicked(&core, &message),
            },
        }
    }
}

fn kicked(core: &Core, message: &async_nats::Message) {
    let Some(kick) = decode_or_log::<KickMsg>(message) else {
        return;
    };
    if kick.not_for_shaddock {
        return;
    }
    // Pitaya has no reasons, and always a KICK package.
    let op = SessionOp::KickUser {
        uid: kick.user_id.into(),
        reason: Some("kick".into()),
    };
    if let Some(operation) = guarded("session_op", || Some(Arc::clone(&core.node).session_op(op))) {
        tokio::spawn(operation);
    }
}

impl UserTasks {
    pub(super) fn split(
        self,
    ) -> (
        mpsc::UnboundedReceiver<UserStream>,
        mpsc::UnboundedReceiver<owners::Claim>,
    ) {
        (self.opened, self.given_up)
    }
}
