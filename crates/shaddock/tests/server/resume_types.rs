//! Clients that show the token of a session at a frontend of another type.

use std::time::Duration;

use serde_json::{Value, json};
use shaddock::{cluster::LocalCluster, prelude::*, session::ResumeConfig, testing::TestServers};

use crate::support::by_hand::ByHand;

fn frontend(server_type: &str, id: &str) -> App {
    let mut app = App::new(server_type, id);
    app.listen("127.0.0.1:0");
    app.set(
        SessionConfig::default().resume(ResumeConfig::default().window(Duration::from_secs(3600))),
    );
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    app
}

fn suspended(servers: &TestServers, id: &str) -> usize {
    let service = servers.app(id).session_service().unwrap();
    service.resume_statistics().suspended
}

/// It gets a new session there, and the one with the token waits as before: also where frontends of its own type could relay.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_type_is_unknown() {
    let servers = [
        frontend("gate", "gate-1"),
        frontend("gate", "gate-2"),
        frontend("connector", "connector-1"),
    ];
    let servers = servers.into_iter().fold(Servers::new(), Servers::add);
    let servers = TestServers::start(servers.cluster(LocalCluster::new()));
    let servers = servers.await.unwrap();
    let (stream, _faults) = servers.connect_raw("gate-1");
    let client = ByHand::new(stream).await;
    servers.settle().await;
    let (said, client) = (client.back(), client.cut());
    servers.settle().await;
    assert_eq!(suspended(&servers, "gate-1"), 1);

    let (stream, _faults) = servers.connect_raw("connector-1");
    let mut other = ByHand::come(stream, said, Value::Null).await;
    assert_eq!(
        (&other.resume["resumed"], &other.resume["why"]),
        (&json!(false), &json!("unknown"))
    );
    let echo = other.request("connector.h.echo", &json!(1)).await;
    assert_eq!(echo, json!(1), "a session like any other");
    assert_eq!(suspended(&servers, "gate-1"), 1);

    // At another frontend of its own type it is there.
    let (stream, _faults) = servers.connect_raw("gate-2");
    let mut client = client.again(stream).await;
    assert_eq!(client.request("gate.h.echo", &json!(2)).await, json!(2));
    assert_eq!(suspended(&servers, "gate-1"), 0);
    other.goodbye().await;
    client.goodbye().await;
    servers.shutdown().await;
}
