//! Members that a store remembers, whose frontends are gone, silent or slow to say: none of them is a ghost.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use shaddock::{
    channel::{Channel, ChannelConfig, ChannelStore, JoinError, MemoryStore, StoreError},
    cluster::LocalCluster,
    prelude::*,
};
use shaddock_cluster::{
    BoxFuture, Cluster as _, ForwardedRequest, JoinAnswer, JoinOptions, Membership, Node,
    RemoteCall, RemoteError, ServerInfo, SessionAnswer, SessionOp,
};

use crate::support::{eventually, front, pass, uid};

const SECOND: Duration = Duration::from_secs(1);
const LIST: &str = "pomelo:channel:chat-1";

struct Restores;

impl Component for Restores {
    fn name(&self) -> &'static str {
        "restores channels"
    }

    async fn start(&self, app: &AppHandle) -> Result<(), shaddock::app::BoxError> {
        app.channels().restore()?;
        Ok(())
    }
}

/// A store in which these are in the lobby.
fn remembering(members: &[&str]) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::default());
    store.add(LIST, "lobby").unwrap();
    for member in members {
        store.add(&format!("{LIST}:lobby"), member).unwrap();
    }
    store
}

fn stored(store: &MemoryStore) -> Vec<String> {
    store.load(&format!("{LIST}:lobby")).unwrap()
}

async fn chat(cluster: &LocalCluster, store: &Arc<MemoryStore>) -> (Running, Channel) {
    let mut chat = App::new("chat", "chat-1");
    chat.set(ChannelConfig::default().store(Arc::clone(store) as Arc<dyn ChannelStore>));
    chat.component(Restores);
    let servers = Servers::new().add(chat).cluster(cluster.clone());
    let running = servers.start().await.unwrap();
    let lobby = running.apps()[0].channels().get("lobby").unwrap();
    (running, lobby)
}

/// A store that accepts nothing.
struct OutOfOrder;

impl ChannelStore for OutOfOrder {
    fn add(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Err(StoreError("out of order".into()))
    }

    fn remove(&self, _: &str, _: &str) -> Result<(), StoreError> {
        panic!("out of order")
    }

    fn remove_all(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn load(&self, _: &str) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn failed_calls_of_the_store_are_a_metric() {
    let mut chat = App::new("chat", "chat-1");
    chat.set(ChannelConfig::default().store(Arc::new(OutOfOrder)));
    let running = Servers::new().add(chat).start().await.unwrap();
    let failed = || crate::metrics::value(&running, "shaddock_channel_store_errors_total");
    assert_eq!(failed(), 0);
    let channel = running.apps()[0].channels().create("lobby").unwrap();
    assert_eq!(failed(), 1);
    // The list of channels cannot be shortened, which panics.
    channel.destroy();
    assert_eq!(failed(), 2);
}

/// A frontend that answers what it is asked as a test says: these, and then that the session is closed.
struct Slow {
    answers: Mutex<VecDeque<Result<JoinAnswer, RemoteError>>>,
    asked: Mutex<Vec<String>>,
}

impl Slow {
    async fn join(
        cluster: &LocalCluster,
        answers: impl IntoIterator<Item = Result<JoinAnswer, RemoteError>>,
    ) -> (Arc<Self>, Arc<dyn Membership>) {
        let node = Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
        });
        let info = ServerInfo::new("connector-9", "connector", true).unwrap();
        let as_node = Arc::clone(&node) as Arc<dyn Node>;
        let member = cluster.join(info, JoinOptions::default(), as_node).await;
        (node, member.unwrap())
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Node for Slow {
    fn serve_request(
        self: Arc<Self>,
        _: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Err(RemoteError::new("SLOW", "not for clients")) })
    }

    fn serve_call(
        self: Arc<Self>,
        _: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Err(RemoteError::new("SLOW", "no remotes")) })
    }

    fn session_op(
        self: Arc<Self>,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let SessionOp::Join { uid, .. } = op else {
            return Box::pin(async { Ok(SessionAnswer::Count(0)) });
        };
        self.asked.lock().unwrap().push(uid.to_string());
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or(Ok(JoinAnswer::Closed));
        Box::pin(async { answer.map(SessionAnswer::Joined) })
    }
}

async fn members(lobby: &Channel) -> Vec<String> {
    let members = lobby.members().await.unwrap().uids();
    members.iter().map(ToString::to_string).collect()
}

/// Its frontend died while this server was away. It may only have been cut off, so it has a minute to come back.
#[tokio::test(start_paused = true)]
async fn members_of_a_frontend_that_does_not_come_leave_after_a_minute() {
    let store = remembering(&["connector-9:ann", "connector-9:bob"]);
    let cluster = LocalCluster::new();
    let (running, lobby) = chat(&cluster, &store).await;
    pass(SECOND * 55).await;
    assert_eq!(members(&lobby).await, ["ann", "bob"]);
    assert_eq!(stored(&store).len(), 2);
    pass(SECOND * 15).await;
    assert_eq!(members(&lobby).await, [""; 0]);
    assert!(stored(&store).is_empty());
    // There are no receivers, which is not an error.
    let pushed = lobby.push_message("onText", "x").await.unwrap();
    assert_eq!((pushed.queued, pushed.failed.len()), (0, 0));
    running.shutdown().await;
}

/// One that comes in time says who is there.
#[tokio::test(start_paused = true)]
async fn a_frontend_that_comes_in_time_is_asked() {
    let store = remembering(&["connector-9:ann", "connector-9:bob"]);
    let cluster = LocalCluster::new();
    let (running, lobby) = chat(&cluster, &store).await;
    pass(SECOND * 30).await;
    let (slow, _member) = Slow::join(&cluster, [Ok(JoinAnswer::Joined)]).await;
    eventually("ann is there, bob is not", || {
        stored(&store) == ["connector-9:ann"]
    })
    .await;
    pass(SECOND * 120).await;
    assert_eq!(slow.asked(), ["ann", "bob"], "each was asked for once");
    assert_eq!(stored(&store), ["connector-9:ann"]);
    drop((running, lobby));
}

/// A frontend that does not answer is asked again until it does: what closes meanwhile is no member for good.
#[tokio::test(start_paused = true)]
async fn a_frontend_that_does_not_answer_is_asked_again() {
    let store = remembering(&["connector-9:ann", "connector-9:bob"]);
    let cluster = LocalCluster::new();
    let silent = || Err(RemoteError::new("PIT-504", "it does not answer"));
    let (slow, _member) = Slow::join(&cluster, [silent(), silent()]).await;
    let (running, lobby) = chat(&cluster, &store).await;
    eventually("both are known to have gone", || stored(&store).is_empty()).await;
    assert_eq!(members(&lobby).await, [""; 0]);
    // One question for each look while it was silent, and about another member each time.
    assert_eq!(slow.asked(), ["ann", "bob", "ann", "bob"]);
    drop(running);
}

/// Only frontends have members.
#[tokio::test(start_paused = true)]
async fn a_backend_has_no_members() {
    let cluster = LocalCluster::new();
    let (running, lobby) = chat(&cluster, &remembering(&[])).await;
    for server in ["chat-1", "connector-9"] {
        let joined = lobby.add(&uid("ann"), &front(server)).await;
        assert!(
            matches!(joined, Err(JoinError::Remote(_))),
            "{server}: {joined:?}"
        );
    }
    assert_eq!(members(&lobby).await, [""; 0]);
    drop(running);
}
