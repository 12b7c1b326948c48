//! How a server enters the cluster: first it can be called, then it is listed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::capabilities::{CAPABILITIES, UNIQUE};
use super::core::{Core, Parts};
use super::departing::{Departing, Suspect};
use super::inbox::Inbox;
use super::link::{Link, LinkEvents};
use super::member::NatsMember;
use super::tasks::{Requests, Tasks};
use super::thread::Thread;
use super::topics::{TopicStream, Topics};
use super::users::{UserStream, Users};
use super::watched::LinkState;
use super::{
    NatsConfig, delivery, etcd_size, events, list_changes, moving, owners, probes, promises,
    questions, serve, subject, user_messages,
};
use crate::clock;
use crate::etcd::{Batches, EnterError, Etcd, Lease, Waiting, Watcher, unreachable};
use crate::random::random;
use crate::{BoxFuture, ClusterError, JoinOptions, Membership, Node, ServerInfo, SessionsPerUser};

/// How long a server that is listed under the same id may take to show that it lives.
const SAME_ID: Duration = Duration::from_millis(500);

/// Joins, on the thread on which this server's own work is done from then on.
pub(super) async fn join(
    config: Arc<NatsConfig>,
    info: ServerInfo,
    options: JoinOptions,
    node: Arc<dyn Node>,
) -> Result<Arc<dyn Membership>, ClusterError> {
    let home = Handle::current();
    let thread = Thread::start(options.background.clone())?;
    let own = thread.handle().clone();
    let joining = own.spawn(enter(config, info, options, node, home, thread));
    // If the caller no longer waits, this ends, and started work is reverted.
    let end = AbortOnDrop(joining.abort_handle());
    let joined = joining.await;
    drop(end);
    let (member, held) = joined.unwrap_or(Err(ClusterError::Left))?;
    // Not before: a member whose caller has dropped the start has not joined.
    held.keep();
    Ok(member)
}

/// A task that ends with this value.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn enter(
    config: Arc<NatsConfig>,
    info: ServerInfo,
    options: JoinOptions,
    node: Arc<dyn Node>,
    home: Handle,
    thread: Thread,
) -> Result<(Arc<dyn Membership>, TakenId), ClusterError> {
    let place = Place::take(&config, info, &options).await?;
    let subjects = Subjects::open(&config, &place.link, &place.info, &options).await?;
    let (users, user_streams) = Users::new(Arc::clone(&place.info));
    let (topics, topic_streams) = Topics::new();
    let (batches, writes) = Batches::new();
    let (departing, suspects) = Departing::new();
    let (refused, moved) = mpsc::channel(owners::REFUSALS);
    let connection = place.connection;
    let parts = Parts {
        home,
        info: place.info,
        options,
        start_number: place.start_number,
        node,
        config,
        link: place.link,
        etcd: place.etcd,
        batches,
        lease: place.lease,
        users,
        topics,
        departing,
        own_subscriptions: subjects.count(),
        refused,
    };
    let core = Arc::new(Core::new(parts, place.token));
    let mut tasks = Tasks::default();
    let requests = subjects.read(&core, &mut tasks, &connection);
    let queues = Queues {
        user_streams,
        topic_streams,
        writes,
        suspects,
    };
    queues.read(&core, &mut tasks, &connection);
    enter_list(&core, &mut tasks).await?;
    stay(&core, &mut tasks, place.link_events, moved);
    let member = NatsMember::new(core, tasks, requests, thread);
    Ok((Arc::new(member), place.held))
}

/// The place of a server in the cluster, before it is listed: its id, and its connections.
struct Place {
    info: Arc<ServerInfo>,
    start_number: u16,
    etcd: Etcd,
    link: Arc<Link>,
    link_events: LinkEvents,
    /// The runtime of the connection to NATS.
    connection: Handle,
    lease: Arc<Lease>,
    token: String,
    held: TakenId,
}

impl Place {
    async fn take(
        config: &Arc<NatsConfig>,
        mut info: ServerInfo,
        options: &JoinOptions,
    ) -> Result<Self, ClusterError> {
        for flag in CAPABILITIES {
            info.announce(flag);
        }
        if info.frontend && options.sessions_per_user != SessionsPerUser::Any {
            info.announce(UNIQUE);
        }
        info.announce_interest(&options.session_events);
        let etcd = Etcd::new(config)?;
        let start_number = start_number(config, &etcd, &info).await?;
        info.announce_node(start_number);
        let info = Arc::new(info);
        let name = format!("{} {}", info.server_type, info.id);
        let connection = options.connection.clone();
        let connection = connection.unwrap_or_else(Handle::current);
        let (link, link_events) = connect(config, name, &connection).await?;
        let token = format!("{:x}", random());
        let lease = Arc::new(Lease::new(
            etcd.clone(),
            Arc::clone(&info),
            config,
            !options.hidden,
            &token,
        ));
        let held = TakenId(Some((Arc::clone(&lease), Handle::current())));
        take_id(config, &link, &lease, &info).await?;
        Ok(Self {
            info,
            start_number,
            etcd,
            link,
            link_events,
            connection,
            lease,
            token,
            held,
        })
    }
}

/// The ends of channels that the parts of a membership pass to its tasks.
struct Queues {
    user_streams: mpsc::Receiver<UserStream>,
    topic_streams: mpsc::Receiver<TopicStream>,
    writes: Waiting,
    suspects: mpsc::Receiver<Suspect>,
}

impl Queues {
    /// Starts the tasks that a server has before it is listed.
    fn read(self, core: &Arc<Core>, tasks: &mut Tasks, connection: &Handle) {
        tasks.spawn(user_messages::read_all(Arc::clone(core), self.user_streams));
        tasks.spawn_on(
            connection,
            delivery::read_topics(Arc::clone(core), self.topic_streams),
        );
        tasks.spawn(self.writes.execute(core.etcd.clone()));
        tasks.spawn(owners::delete_given_up(Arc::clone(core)));
        tasks.spawn(promises::revoke_broken(Arc::clone(core)));
        tasks.spawn(probes::probe_departed(Arc::clone(core), self.suspects));
        tasks.spawn(probes::probe_suspects(Arc::clone(core)));
        tasks.spawn_on(connection, Arc::clone(&core.link).send_waiting());
    }
}

/// Starts the tasks that keep a listed server in the cluster.
fn stay(
    core: &Arc<Core>,
    tasks: &mut Tasks,
    link_events: LinkEvents,
    moved: mpsc::Receiver<Arc<str>>,
) {
    // There are no claims yet.
    let fence = core.lease.fence();
    fence.settle(fence.begin(), clock::now());
    let (state, link_state) = watch::channel(LinkState {
        up: true,
        losses: 0,
    });
    tasks.spawn(follow_link(Arc::clone(core), link_events, state));
    tasks.spawn(moving::move_over(Arc::clone(core)));
    tasks.spawn(etcd_size::watch(Arc::clone(core)));
    if core.is_unique() {
        tasks.spawn(owners::guard(Arc::clone(core), link_state));
        tasks.spawn(owners::notices(Arc::clone(core)));
        tasks.spawn(owners::look_after_refused(Arc::clone(core), moved));
    }
}

/// The id of a joining server. If the join fails, or its caller no longer waits, the id is released: otherwise the next start would have to
/// wait until the lease ends. With the runtime on which that is done.
struct TakenId(Option<(Arc<Lease>, Handle)>);

impl TakenId {
    /// The server has joined.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for TakenId {
    fn drop(&mut self) {
        if let Some((lease, runtime)) = self.0.take() {
            runtime.spawn(async move { lease.revoke().await });
        }
    }
}

/// Connects from the runtime where the connection shall be served.
async fn connect(
    config: &Arc<NatsConfig>,
    name: String,
    runtime: &Handle,
) -> Result<(Arc<Link>, LinkEvents), ClusterError> {
    let config = Arc::clone(config);
    let connecting = runtime.spawn(async move { Link::connect(&config, name).await });
    connecting.await.map_err(|_| ClusterError::Left)?
}

/// The subscriptions of a server from start to stop.
struct Subjects {
    requests: Inbox,
    own: Inbox,
    goodbyes: Inbox,
    sessions: Option<Inbox>,
    bindings: Option<Inbox>,
}

impl Subjects {
    async fn open(
        config: &NatsConfig,
        link: &Link,
        info: &ServerInfo,
        options: &JoinOptions,
    ) -> Result<Self, ClusterError> {
        let open = async |wanted: bool, subject: String| {
            if !wanted {
                return Ok(None);
            }
            let opened = link.subscribe(subject).await;
            opened.map(Some).map_err(|e| ClusterError::Unreachable {
                what: "NATS",
                address: crate::secret::list(&config.nats_urls),
                reason: e.to_string(),
            })
        };
        let always = async |subject| open(true, subject).await?.ok_or(ClusterError::Left);
        let unique = info.frontend && options.sessions_per_user != SessionsPerUser::Any;
        let subjects = Self {
            requests: always(subject::server(&info.server_type, info.id.as_str())).await?,
            own: always(subject::own_all(info)).await?,
            goodbyes: always(subject::GOODBYES.to_owned()).await?,
            sessions: match info.interest() {
                Some((text, _)) => open(true, subject::events(text)).await?,
                None => None,
            },
            bindings: open(unique, subject::bindings(&info.server_type)).await?,
        };
        // A server that finds this one in the list can call it.
        link.round_trip(config.nats_connect_timeout).await;
        Ok(subjects)
    }

    fn count(&self) -> usize {
        3 + usize::from(self.sessions.is_some()) + usize::from(self.bindings.is_some())
    }

    /// Starts the readers; the value ends the one that takes requests. What every forwarded request passes is read where the connection is.
    fn read(self, core: &Arc<Core>, tasks: &mut Tasks, connection: &Handle) -> Requests {
        let calls = Arc::clone(&core.calls);
        tasks.spawn(async move { calls.sweep().await });
        tasks.spawn_on(connection, serve::own(Arc::clone(core), self.own));
        tasks.spawn(events::goodbyes(Arc::clone(core), self.goodbyes));
        if let Some(sessions) = self.sessions {
            tasks.spawn(events::sessions(Arc::clone(core), sessions));
        }
        if let Some(bindings) = self.bindings {
            tasks.spawn(owners::bindings(Arc::clone(core), bindings));
        }
        let (stop, stopped) = oneshot::channel();
        let (done, finished) = oneshot::channel();
        let requests = serve::requests(Arc::clone(core), self.requests, stopped);
        tasks.spawn_on(connection, async move {
            requests.await;
            let _ = done.send(());
        });
        Requests::new(stop, finished)
    }
}

/// Reads the list of servers, then enters it.
async fn enter_list(core: &Arc<Core>, tasks: &mut Tasks) -> Result<(), ClusterError> {
    let (lease, members) = (Arc::clone(&core.lease), core.members.clone());
    let follower = Arc::downgrade(core);
    let changed = move |change| {
        if let Some(core) = follower.upgrade() {
            list_changes::member_changed(&core, change);
        }
    };
    let comes = Arc::downgrade(core);
    let before = move |info: &ServerInfo| -> Option<BoxFuture<'static, ()>> {
        let core = comes.upgrade().filter(|_| !info.is_shaddock())?;
        Some(Box::pin(
            async move { list_changes::expect_pitaya(&core).await },
        ))
    };
    let own = Arc::clone(&core.info);
    let mut watcher = Watcher::new(
        core.etcd.clone(),
        Arc::clone(&lease),
        own,
        members,
        &core.config,
        (before, changed),
    );
    watcher
        .read_all()
        .await
        .map_err(|e| unreachable(&core.config, &e))?;
    match lease.list().await {
        Ok(()) => {}
        Err(EnterError::Taken(_)) => return Err(ClusterError::IdTaken(core.info.id.clone())),
        Err(error) => return Err(unreachable(&core.config, &error)),
    }
    if !core.options.hidden {
        core.members.add(Arc::clone(&core.info));
    }
    list_changes::entered(core);
    let keeper = Arc::clone(core);
    tasks.spawn(async move {
        lease.keep().await;
        keeper.expelled();
    });
    tasks.spawn(watcher.follow());
    Ok(())
}

/// Takes the id of this server at etcd. Where an earlier life of it has died, that is when its lease has ended; a server that replies there lives.
async fn take_id(
    config: &NatsConfig,
    link: &Link,
    lease: &Lease,
    info: &ServerInfo,
) -> Result<(), ClusterError> {
    let mut end = None;
    loop {
        let holder = match lease.enter().await {
            Ok(()) => return Ok(()),
            Err(EnterError::Taken(holder)) => holder,
            Err(error) => return Err(unreachable(config, &error)),
        };
        let taken = || Err(ClusterError::IdTaken(info.id.clone()));
        let value = String::from_utf8_lossy(&holder.value).into_owned();
        // A life is a token and the type of the server; what a server without one has written, is at a key of the own type.
        let other_type = value
            .split_once(' ')
            .map_or(&*info.server_type, |(_, kind)| kind);
        let subject = subject::server(other_type, info.id.as_str());
        if link
            .is_heard(subject, questions::are_you_there(), SAME_ID)
            .await
        {
            return taken();
        }
        let rest = lease.rest_of(&holder).await;
        let Some(rest) = rest.map_err(|e| unreachable(config, &e))? else {
            continue;
        };
        let now = tokio::time::Instant::now();
        let end = *end.get_or_insert_with(|| {
            tracing::warn!(
                server = %info.id, ?rest,
                "another server holds the id and does not reply, perhaps a previous run of this one; waiting until its lease ends"
            );
            now + rest + SAME_ID * 4
        });
        if now > end {
            return taken();
        }
        tokio::time::sleep(SAME_ID / 2).await;
    }
}

/// The lower bits of how many frontends of the cluster have started so far.
async fn start_number(
    config: &NatsConfig,
    etcd: &Etcd,
    info: &ServerInfo,
) -> Result<u16, ClusterError> {
    if !info.frontend {
        return Ok(0);
    }
    let started = etcd.count_start(info.id.as_str()).await;
    let started = started.map_err(|e| unreachable(config, &e))?;
    Ok(u16::try_from(started & 0xffff).unwrap_or_default())
}

async fn follow_link(core: Arc<Core>, mut events: LinkEvents, state: watch::Sender<LinkState>) {
    let (mut losses, mut moves) = (0, 0);
    loop {
        let now = *events.borrow_and_update();
        if now.losses != losses {
            // Pitaya's frontends announce their users over NATS only, perhaps in this moment.
            let matters = core.is_unique() && core.has_pitaya_frontend(&core.info.server_type);
            if core.link.has_moved() && now.losses == losses + 1 && !matters {
                moves += 1;
                // The answers to calls over the old connection arrive at that one.
                core.calls
                    .fail_before(core.moved_at.load(Ordering::Acquire));
            } else {
                if core.is_unique() {
                    core.lease.fence().suspect();
                    owners::notify_fenced(&core, true);
                }
                core.link.forget_waiting();
                core.calls.fail_all();
            }
            // Promises that were kept meanwhile are lost.
            core.directory.end_leases();
            losses = now.losses;
        }
        state.send_replace(LinkState {
            losses: losses - moves,
            ..now
        });
        if events.changed().await.is_err() {
            return;
        }
    }
}
