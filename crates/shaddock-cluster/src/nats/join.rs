//! How a server enters the cluster: first it can be called, then it is listed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::core::{CAPABILITIES, Core, Parts};
use super::link::{Link, LinkEvents};
use super::member::NatsMember;
use super::users::{self, Users};
use super::{NatsConfig, events, owners, serve, subject};
use crate::etcd::{Etcd, Lease, Watcher, unreachable};
use crate::{ClusterError, JoinOptions, Membership, Node, RemoteError, ServerId, ServerInfo};

/// How long a server that is listed under the same id may take to show that it lives.
const SAME_ID: Duration = Duration::from_millis(500);

pub(super) async fn join(
    config: Arc<NatsConfig>,
    mut info: ServerInfo,
    options: JoinOptions,
    node: Arc<dyn Node>,
) -> Result<Arc<dyn Membership>, ClusterError> {
    CAPABILITIES.iter().for_each(|flag| info.announce(flag));
    let info = Arc::new(info);
    let etcd = Etcd::new(&config)?;
    let (link, link_events) =
        Link::connect(&config, format!("{} {}", info.server_type, info.id)).await?;
    let lease = Lease::new(
        etcd.clone(),
        Arc::clone(&info),
        config.lease_ttl,
        config.etcd_retry_delay,
        !options.hidden,
    );
    let lease = Arc::new(lease);
    refuse_taken_id(
        &config,
        &link,
        &lease,
        &info.id,
        subject::server(&info.server_type, info.id.as_str()),
    )
    .await?;

    let (users, user_tasks) = Users::new(Arc::clone(&info));
    let unreachable_nats = |e: RemoteError| ClusterError::Unreachable {
        what: "NATS",
        address: config.nats_urls.join(","),
        reason: e.to_string(),
    };
    let subscribe = async |subject: String| link.subscribe(subject).await.map_err(unreachable_nats);
    let requests = subscribe(subject::server(&info.server_type, info.id.as_str())).await?;
    let own = subscribe(subject::own_all(&info)).await?;
    let goodbyes = subscribe(subject::GOODBYES.to_owned()).await?;
    let sessions = if options.session_events {
        Some(subscribe(subject::EVENTS.to_owned()).await?)
    } else {
        None
    };
    let unique = info.frontend && options.unique != crate::Unique::No;
    let bindings = if unique {
        Some(subscribe(subject::bindings(&info.server_type)).await?)
    } else {
        None
    };
    link.flush(config.nats_connect_timeout).await;

    let own_subscriptions = 3 + usize::from(sessions.is_some()) + usize::from(bindings.is_some());
    let parts = Parts {
        info,
        options,
        node,
        config: Arc::clone(&config),
        link: Arc::clone(&link),
        etcd: etcd.clone(),
        lease: Arc::clone(&lease),
        users,
        own_subscriptions,
    };
    let core = Arc::new(Core::new(parts, token()));

    let follower = Arc::downgrade(&core);
    let mut watcher = Watcher::new(
        etcd,
        Arc::clone(&lease),
        Arc::clone(&core.info),
        core.members.clone(),
        &config,
        move |change| {
            if let Some(core) = follower.upgrade() {
                core.member_changed(change);
            }
        },
    );
    let mut tasks = Tasks::default();
    tasks.spawn({
        let link = Arc::clone(&link);
        async move { link.pump().await }
    });
    tasks.spawn(serve::own(Arc::clone(&core), own));
    let requests = tasks.spawn(serve::requests(Arc::clone(&core), requests));
    tasks.spawn(events::goodbyes(Arc::clone(&core), goodbyes));
    if let Some(sessions) = sessions {
        tasks.spawn(events::sessions(Arc::clone(&core), sessions));
    }
    if let Some(bindings) = bindings {
        tasks.spawn(owners::bindings(Arc::clone(&core), bindings));
    }
    let (user_streams, given_up) = user_tasks.split();
    tasks.spawn(users::read_all(Arc::clone(&core), user_streams));
    tasks.spawn(owners::delete_given_up(Arc::clone(&core), given_up));

    watcher
        .read_all()
        .await
        .map_err(|e| unreachable(&config, &e))?;
    lease
        .register()
        .await
        .map_err(|e| unreachable(&config, &e))?;
    if !options.hidden {
        core.members.add(Arc::clone(&core.info));
    }
    core.check_user_subjects();
    tasks.spawn(async move { lease.keep().await });
    tasks.spawn(watcher.follow());
    let (up, connected) = watch::channel(true);
    tasks.spawn(follow_link(Arc::clone(&core), link_events, up));
    if core.is_unique() {
        tasks.spawn(owners::guard(Arc::clone(&core), connected));
    }
    Ok(Arc::new(NatsMember::new(core, tasks, requests)))
}

/// A server with this id may be listed because it died lately; then nobody listens under its name.
async fn refuse_taken_id(
    config: &NatsConfig,
    link: &Link,
    lease: &Lease,
    id: &ServerId,
    subject: String,
) -> Result<(), ClusterError> {
    if lease
        .id_is_listed()
        .await
        .map_err(|e| unreachable(config, &e))?
        && link.is_heard(subject, SAME_ID).await
    {
        return Err(ClusterError::IdTaken(id.clone()));
    }
    Ok(())
}

/// 64 random bits: std's hasher has a new key each time.
fn token() -> String {
    format!(
        "{:x}",
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
    )
}

async fn follow_link(core: Arc<Core>, mut events: LinkEvents, up: watch::Sender<bool>) {
    while let Some(connected) = events.recv().await {
        if !connected {
            core.calls.fail_all();
        }
        up.send_replace(connected);
    }
}

/// Background work of a membership; ends with it.
#[derive(Default)]
pub(super) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let handle = tokio::spawn(task).abort_handle();
        self.0.push(handle.clone());
        handle
    }
}

impl Tasks {
    /// Ends all of it.
    pub(super) fn stop(&self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}
