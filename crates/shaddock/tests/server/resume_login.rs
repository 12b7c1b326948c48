//! Clients that are logged in by their handshake and come back to a session: of another user, or with a fresher token. At the same frontend and at another.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use shaddock::{cluster::LocalCluster, prelude::*, session::ResumeConfig, testing::TestServers};
use shaddock_core::Session;

use crate::support::by_hand::{ByHand, Lost};

/// Its clients say who they are and for how many seconds their token is good.
fn connector(id: &str) -> App {
    let mut app = App::new("connector", id);
    app.listen("127.0.0.1:0");
    app.set(
        SessionConfig::default().resume(ResumeConfig::default().window(Duration::from_secs(3600))),
    );
    app.on_handshake(|info: HandshakeInfo| async move {
        let user = info.user();
        let mut accept = Accept::new().settings([("login", user["n"].clone())]);
        if let Some(name) = user["name"].as_str() {
            accept = accept.bind(Uid::new(name.to_owned()).unwrap());
        }
        if let Some(seconds) = user["seconds"].as_u64() {
            accept = accept.expires_at(SystemTime::now() + Duration::from_secs(seconds));
        }
        Ok::<_, HandshakeReject>(accept)
    });
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    app
}

/// A client that has come to the first frontend, and is away.
async fn lost(servers: &TestServers, user: Value) -> Lost {
    let (stream, _faults) = servers.connect_raw("connector-1");
    let client = ByHand::come(stream, json!({"v": 1}), user).await;
    servers.settle().await;
    let client = client.cut();
    servers.settle().await;
    client
}

fn sessions(servers: &TestServers, frontend: &str, name: &str) -> Vec<std::sync::Arc<Session>> {
    let service = servers.app(frontend).session_service().unwrap();
    service.get_by_uid(name)
}

async fn two() -> TestServers {
    let servers = Servers::new()
        .add(connector("connector-1"))
        .add(connector("connector-2"));
    TestServers::start(servers.cluster(LocalCluster::new()))
        .await
        .unwrap()
}

const FRONTENDS: [&str; 2] = ["connector-1", "connector-2"];

#[tokio::test(start_paused = true)]
async fn another_user_begins_a_new_session() {
    for frontend in FRONTENDS {
        let servers = two().await;
        let ann = json!({"name": "ann", "n": 1});
        for (user, resumed) in [
            (json!({"name": "ann", "n": 2}), true),
            (json!({"n": 2}), true),
            (json!({"name": "bob", "n": 2}), false),
        ] {
            let lost = lost(&servers, ann.clone()).await;
            let mut client = lost
                .comes_as(servers.connect_raw(frontend).0, user.clone())
                .await;
            assert_eq!(client.resume["resumed"], resumed, "{frontend}, {user}");
            let answer = client.request("connector.h.echo", &json!({"m": 1})).await;
            assert_eq!(answer, json!({"m": 1}));
            if resumed {
                let session = sessions(&servers, "connector-1", "ann").remove(0);
                assert_eq!(
                    session.get("login"),
                    Some(json!(1)),
                    "its settings are its own"
                );
            } else {
                assert_eq!(client.resume["why"], "denied");
                // Ann's session still waits, for ann.
                assert!(
                    sessions(&servers, "connector-1", "ann")[0]
                        .resumable()
                        .is_some_and(|state| state.suspended.is_some())
                );
                let bob = sessions(&servers, frontend, "bob").remove(0);
                assert_eq!(bob.get("login"), Some(json!(2)));
            }
            client.goodbye().await;
            servers.settle().await;
            for session in sessions(&servers, "connector-1", "ann") {
                session.close(CloseReason::ClientClosed);
            }
        }
        servers.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresher_token_puts_the_end_off_and_an_older_one_does_not_bring_it_forward() {
    for frontend in FRONTENDS {
        // What the first token is good for, the second one, and the session in the end. (The window is longer.)
        for (first, second, ends) in [
            (Some(100), Some(300), Some(300)),
            (Some(100), Some(50), Some(100)),
            (Some(100), None, Some(100)),
            (None, Some(50), None),
        ] {
            let servers = two().await;
            let user = |seconds: Option<u64>| json!({"name": "ann", "seconds": seconds});
            let lost = lost(&servers, user(first)).await;
            let client = lost
                .comes_as(servers.connect_raw(frontend).0, user(second))
                .await;
            assert_eq!(client.resume["resumed"], true);
            servers.settle().await;
            let case = format!("{frontend}, {first:?}, {second:?}");
            let lives = || !sessions(&servers, "connector-1", "ann").is_empty();
            if let Some(ends) = ends {
                servers.pass(Duration::from_secs(ends - 10)).await;
                assert!(lives(), "{case}");
                servers.pass(Duration::from_secs(20)).await;
                assert!(!lives(), "{case}");
            } else {
                servers.pass(Duration::from_secs(1000)).await;
                assert!(lives(), "{case}");
            }
            drop(client);
            servers.shutdown().await;
        }
    }
}
