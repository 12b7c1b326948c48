//! `examples/lobby` as a cluster: two connectors and a lobby on NATS and etcd. Its own tests run it in one process.

use std::time::Duration;

use serde_json::{Value, json};
use shaddock::prelude::*;
use shaddock_client::{Client, Subscription};

use crate::{ask_soon, servers::Backing, wait::until};

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

#[allow(
    dead_code,
    unreachable_pub,
    reason = "a program, of which the servers are used"
)]
#[rustfmt::skip] // It has its own width.
#[path = "../../../../examples/lobby/src/main.rs"]
mod program;

async fn start(backing: &Backing, app: App) -> Running {
    let servers = Servers::new().add(app).workers(1);
    servers.cluster(backing.cluster()).start().await.unwrap()
}

async fn player(connector: &Running, id: &str, name: &str) -> (Client, Subscription) {
    let address = connector.address(id).unwrap();
    let client = Client::builder()
        .user(json!({"token": format!("{name}.secret")}))
        .connect(&format!("tcp://{address}"))
        .await
        .unwrap();
    let pushes = client.subscribe_all();
    (client, pushes)
}

/// The next push of this route that is as it should be.
async fn hears(pushes: &mut Subscription, route: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let next = async {
        loop {
            let push = pushes.recv().await.expect("the connection is still open");
            let body: Value = push.json().unwrap();
            if push.route() == route && wanted(&body) {
                return body;
            }
        }
    };
    let next = tokio::time::timeout(PATIENCE, next).await;
    next.unwrap_or_else(|_| panic!("no push {route}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lobby_of_the_examples_is_a_cluster() {
    let backing = Backing::start();
    let scores = std::env::temp_dir().join(format!("lobby-cluster-{}.json", std::process::id()));
    let mut lobby = App::new("lobby", "lobby-1");
    program::lobby(&mut lobby, scores.clone());
    let lobby = start(&backing, lobby).await;
    let mut connectors = Vec::new();
    for id in ["connector-1", "connector-2"] {
        let mut app = App::new("connector", id);
        app.listen("127.0.0.1:0");
        program::connector(&mut app);
        connectors.push(start(&backing, app).await);
    }
    let knows = |server: &Running, kind: &str, count: usize| {
        let members = server.apps()[0].membership().unwrap().members();
        members.servers_of(kind).len() == count
    };
    let all_know =
        || knows(&lobby, "connector", 2) && connectors.iter().all(|one| knows(one, "lobby", 1));
    until("the servers know each other", all_know).await;
    let (ann, mut to_ann) = player(&connectors[0], "connector-1", "ann").await;
    let (bob, mut to_bob) = player(&connectors[1], "connector-2", "bob").await;
    for client in [&ann, &bob] {
        ask_soon(client, "lobby.match.join").await;
    }
    let met = hears(&mut to_ann, "onMatch", |_| true).await;
    assert_eq!(met["room"], "match-1");
    let _: Value = ann
        .request("lobby.world.walk", &json!([1, 0]))
        .await
        .unwrap();
    hears(&mut to_bob, "onWorld", |world| {
        world["ann"] == json!([1, 0])
    })
    .await;
    let whisper = json!({"to": "ann", "text": "hi"});
    let _: Value = bob.request("lobby.chat.whisper", &whisper).await.unwrap();
    let heard = hears(&mut to_ann, "onWhisper", |_| true).await;
    assert_eq!(heard, json!({"from": "bob", "text": "hi"}));
    // The same player on another connector: one session only.
    let (_again, _) = player(&connectors[0], "connector-1", "bob").await;
    let ended = tokio::time::timeout(PATIENCE, bob.closed()).await;
    assert!(ended.unwrap().to_string().contains("replaced"));
    for connector in connectors {
        connector.shutdown().await;
    }
    lobby.shutdown().await;
    let saved: Value = serde_json::from_slice(&std::fs::read(&scores).unwrap()).unwrap();
    assert_eq!(saved, json!({"ann": 1}));
    std::fs::remove_file(scores).unwrap();
}
