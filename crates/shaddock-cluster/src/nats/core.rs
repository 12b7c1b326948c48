//! The state that all parts of one membership share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::Subject;
use bytes::Bytes;
use hashbrown::HashMap;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::calls::{Calls, Target};
use super::departing::Departing;
use super::detector::Rules;
use super::directory::Directory;
use super::health::Health;
use super::interest::Interests;
use super::link::Link;
use super::pace::Paces;
use super::request_id::RequestIds;
use super::topics::Topics;
use super::users::Users;
use super::watches::Watches;
use super::wire::{self, Response, Stamp};
use super::{NatsConfig, encode, subject};
use crate::clock;
use crate::etcd::{Batches, Etcd, EtcdSize, Lease};
use crate::owners::{Moment, Number};
use crate::random::random;
use crate::reply::{ServingCount, guarded};
use crate::{
    ClusterError, Context, ForwardedSession, JoinOptions, Members, Node, RemoteError, ServerId,
    ServerInfo, SessionsPerUser, code,
};

/// Answers to deliveries that wait for room at the same time ([`Node::kept_room`](crate::Node::kept_room)). More are sent at once.
const MAX_WAITS: usize = 1024;

pub(super) struct Core {
    pub(super) info: Arc<ServerInfo>,
    pub(super) options: JoinOptions,
    pub(super) start_number: u16,
    pub(super) node: Arc<dyn Node>,
    /// The runtime in which the server joined: work that does not complete at once runs there, not in the runtime of the connection.
    pub(super) home: Handle,
    pub(super) config: Arc<NatsConfig>,
    pub(super) members: Members,
    pub(super) link: Arc<Link>,
    pub(super) calls: Arc<Calls>,
    pub(super) health: Arc<Health>,
    /// The metadata of requests with nothing but their sender and its timeout.
    plain_metadata: PlainMetadata,
    /// Tells this life of the server from an earlier one with its id.
    pub(super) token: String,
    /// Names the clock of this life, which begins here.
    clock: u64,
    clock_from: Moment,
    /// The type of this server as a number, for the numbers of claims.
    scope: u32,
    pub(super) etcd: Etcd,
    pub(super) batches: Batches,
    pub(super) lease: Arc<Lease>,
    pub(super) users: Users,
    /// The directory of users of other frontends.
    pub(super) directory: Directory,
    /// Promises to notify servers of this frontend's users.
    pub(super) watches: Watches,
    /// The subscriptions of other servers to session events.
    pub(super) interests: Interests,
    pub(super) topics: Arc<Topics>,
    /// Places of answers to deliveries that wait for room.
    pub(super) waits: Arc<Semaphore>,
    pub(super) serving: Arc<ServingCount>,
    pub(super) refused_busy: AtomicU64,
    /// Requests that were not run because their caller had given up.
    pub(super) too_late: AtomicU64,
    /// Requests that were rejected because another frontend owns their user.
    pub(super) outdated: AtomicU64,
    /// The node was notified that this server may not act for its users.
    pub(super) fence_notified: AtomicBool,
    pub(super) left: AtomicBool,
    /// The list was read once; from now on the node is notified of changes.
    entered: AtomicBool,
    /// Subscriptions that every server of its kind has.
    pub(super) own_subscriptions: usize,
    targets: ArcSwap<HashMap<ServerId, Arc<Target>>>,
    pub(super) departing: Departing,
    pub(super) request_ids: RequestIds,
    /// How quick the handlers of this server are.
    pub(super) paces: Paces,
    /// The first call that may have been sent by the present connection, if the server went to it of its own will.
    pub(super) moved_at: AtomicU64,
    /// Notified when the claims of this server were verified again.
    pub(super) claims_verified: Notify,
    /// The last known size of etcd's database.
    pub(super) etcd_size: EtcdSize,
}

/// The parts that are made before the rest.
pub(super) struct Parts {
    pub(super) home: Handle,
    pub(super) info: Arc<ServerInfo>,
    pub(super) options: JoinOptions,
    pub(super) start_number: u16,
    pub(super) node: Arc<dyn Node>,
    pub(super) config: Arc<NatsConfig>,
    pub(super) link: Arc<Link>,
    pub(super) etcd: Etcd,
    pub(super) batches: Batches,
    pub(super) lease: Arc<Lease>,
    pub(super) users: Users,
    pub(super) topics: Arc<Topics>,
    pub(super) departing: Departing,
    pub(super) own_subscriptions: usize,
    pub(super) refused: mpsc::Sender<Arc<str>>,
}

impl Core {
    pub(super) fn new(parts: Parts, token: String) -> Self {
        let members = Members::new();
        let rules = Rules {
            timeouts: parts.config.suspect_after,
            pause: parts.config.probe_interval,
        };
        let health = Arc::new(Health::new(members.clone(), rules));
        let calls = Arc::new(Calls::new(
            Arc::clone(&parts.link),
            Arc::clone(&health),
            (parts.config.push_timeout(), parts.config.request_timeout),
            subject::answers(&parts.info, &token),
            parts.refused,
        ));
        let scope = scope(&parts.info.server_type);
        let directory = Directory::new(parts.config.directory_size);
        let watches = Watches::new(parts.options.sessions_per_user);
        Self {
            info: parts.info,
            options: parts.options,
            start_number: parts.start_number,
            node: parts.node,
            home: parts.home,
            config: parts.config,
            members,
            link: parts.link,
            calls,
            health,
            plain_metadata: PlainMetadata::default(),
            token,
            clock: random().max(1),
            clock_from: clock::now(),
            scope,
            etcd: parts.etcd,
            batches: parts.batches,
            lease: parts.lease,
            users: parts.users,
            directory,
            watches,
            interests: Interests::default(),
            topics: parts.topics,
            waits: Arc::new(Semaphore::new(MAX_WAITS)),
            serving: Arc::default(),
            refused_busy: AtomicU64::new(0),
            too_late: AtomicU64::new(0),
            outdated: AtomicU64::new(0),
            fence_notified: AtomicBool::new(false),
            left: AtomicBool::new(false),
            entered: AtomicBool::new(false),
            own_subscriptions: parts.own_subscriptions,
            targets: ArcSwap::default(),
            departing: parts.departing,
            request_ids: RequestIds::default(),
            paces: Paces::default(),
            moved_at: AtomicU64::new(0),
            claims_verified: Notify::new(),
            etcd_size: EtcdSize::default(),
        }
    }

    /// Where a server is called, with the count of calls on the way to it.
    pub(super) fn target(&self, to: &ServerInfo) -> Arc<Target> {
        if let Some(target) = self.targets.load().get(&to.id) {
            return Arc::clone(target);
        }
        let capacity = if to.is_shaddock() {
            self.config.calls_per_server
        } else {
            self.config.calls_per_pitaya_server
        };
        let made = Arc::new(Target::new(
            Arc::new(to.clone()),
            capacity,
            self.config.waiting_calls_per_server,
        ));
        let mut target = Arc::clone(&made);
        self.targets.rcu(|targets| {
            let mut targets = HashMap::clone(targets);
            target = Arc::clone(
                targets
                    .entry(to.id.clone())
                    .or_insert_with(|| Arc::clone(&made)),
            );
            targets
        });
        target
    }

    /// The list was read: from now on the node is notified of changes.
    pub(super) fn set_entered(&self) {
        self.entered.store(true, Ordering::Release);
    }

    /// Whether the list was read once.
    pub(super) fn has_entered(&self) -> bool {
        self.entered.load(Ordering::Acquire)
    }

    /// A request of a session was received: the directory learns the frontend of its user.
    pub(super) fn learn_frontend(&self, session: &ForwardedSession) {
        if !self.directory.is_used() {
            return;
        }
        if let (Some(uid), Some(frontend)) = (&session.uid, &session.frontend)
            && let Some(info) = self.members.server(frontend.as_str())
            && info.is_shaddock()
            && self
                .directory
                .facts(&self.members, &info.server_type)
                .unique
        {
            self.directory.seen(&info.server_type, uid, frontend);
        }
    }

    /// Forgets where a server was called, unless it was the incarnation that is listed: calls may be on their way to it already, and count.
    pub(super) fn forget_target(&self, server: &ServerId, listed: Option<&ServerInfo>) {
        self.targets.rcu(|targets| {
            let mut targets = HashMap::clone(targets);
            targets.retain(|id, target| id != server || listed == Some(&*target.info));
            targets
        });
    }

    /// Whether a server may push to a user without knowing the user's frontend.
    pub(super) fn need_user_subjects(&self) -> bool {
        !self.config.lazy_user_subjects
            || self
                .members
                .all()
                .iter()
                .any(|server| !server.is_shaddock())
    }

    /// Whether a frontend of this type is a Pitaya server.
    pub(super) fn has_pitaya_frontend(&self, frontend_type: &str) -> bool {
        self.members
            .servers_of(frontend_type)
            .iter()
            .any(|server| server.frontend && !server.is_shaddock())
    }

    /// Whether sessions of a user are unique.
    pub(super) fn is_unique(&self) -> bool {
        self.info.frontend && self.options.sessions_per_user != SessionsPerUser::Any
    }

    /// Another life holds the id of this server: it is out of the cluster, and nothing of it reaches others.
    pub(super) fn expelled(&self) {
        // First: messages on their way to the id are for the other incarnation ([`Inbox`](super::inbox::Inbox)).
        self.link.close();
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        let error = ClusterError::IdTaken(self.info.id.clone());
        tracing::error!(server = %self.info.id, "this server was silent for longer than its lease, and another one has its id now; it ends");
        self.users.forget_all();
        self.calls.fail_all();
        guarded("expelled", || self.node.expelled(&error));
    }

    /// Whether this server may not act for its users now. Reads the clock, if sessions are unique.
    pub(super) fn is_fenced(&self) -> bool {
        self.is_unique() && !self.lease.fence().is_open(clock::now())
    }

    /// As [`is_fenced`](Self::is_fenced), at a time that was read before.
    pub(super) fn is_fenced_at(&self, now: Moment) -> bool {
        self.is_unique() && !self.lease.fence().is_open(now)
    }

    /// The stamp of a request to a shaddock server that is made now, for a user whose claim has this number.
    pub(super) fn stamp(&self, now: Moment, claim: Option<Number>) -> Stamp {
        let claim = claim.unwrap_or_default();
        let sent = self.clock_from.until(now).as_micros();
        Stamp {
            clock: self.clock,
            sent: u64::try_from(sent).unwrap_or(u64::MAX),
            scope: self.scope,
            revision: claim.revision,
            era: claim.era,
        }
    }

    /// The metadata of a request. Most have nothing of their own and one of few timeouts: those texts are made once.
    pub(super) fn metadata(&self, context: &Context, timeout: Duration) -> Bytes {
        let make = || context.to_json(&self.info, timeout);
        if context.is_plain() {
            return self.plain_metadata.get(timeout, make);
        }
        make()
    }

    /// Replies to a request; without a reply subject no reply is expected.
    pub(super) fn answer(&self, reply: Option<Subject>, result: &Result<Bytes, RemoteError>) {
        let Some(reply) = reply else { return };
        let mut payload = match result {
            Ok(data) => encode::success(data),
            Err(_) => wire::encode(&Response::of(result)),
        };
        let max = self.link.max_payload();
        if payload.len() > max {
            let text = format!(
                "the reply has {} bytes and the limit of NATS is {max}",
                payload.len()
            );
            payload = wire::encode(&Response::of(&Err(RemoteError::new(code::INTERNAL, text))));
        }
        let life = self.config.request_timeout;
        if let Err(error) = self.link.publish_for(life, reply, None, payload) {
            tracing::debug!(%error, "a reply was lost");
        }
    }
}

/// A server type as a number: FNV-1a, which all servers compute alike.
fn scope(server_type: &str) -> u32 {
    server_type.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// How many timeouts have their text kept.
const KEPT_TIMEOUTS: usize = 8;

/// Metadata with nothing but a timeout, for the timeouts that were asked for first: those of the servers' routes.
#[derive(Default)]
struct PlainMetadata([OnceLock<(Duration, Bytes)>; KEPT_TIMEOUTS]);

impl PlainMetadata {
    fn get(&self, timeout: Duration, make: impl FnOnce() -> Bytes) -> Bytes {
        for place in &self.0 {
            match place.get() {
                Some((known, text)) if *known == timeout => return text.clone(),
                Some(_) => {}
                None => {
                    let text = make();
                    // If another thread was faster, the next request finds a place.
                    let _ = place.set((timeout, text.clone()));
                    return text;
                }
            }
        }
        make()
    }
}
