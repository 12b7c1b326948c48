//! A frontend that drains and lingers: clients of the shipped library come back through the other one, to the same sessions.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use shaddock_client::{Client, Events, Reconnect, RequestError, SessionEvent};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::{ends_well, holds};
use crate::{
    Frontend, ask_soon, operators,
    pitaya::UNIQUE,
    room,
    servers::Backing,
    wait::{PATIENCE, breathe, until},
};

const LINGER: [&str; 4] = ["--set", "drain.linger=1h", "--set", "drain.spread=200ms"];

/// A plain TCP load balancer: the next frontend that answers. Its address.
async fn balance(frontends: &Arc<Mutex<Vec<SocketAddr>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let (all, turn) = (Arc::clone(frontends), AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let now = all.lock().unwrap().clone();
            let first = turn.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                for n in 0..now.len() {
                    let frontend = now[(first + n) % now.len()];
                    if let Ok(mut frontend) = TcpStream::connect(frontend).await {
                        let _ = copy_bidirectional(&mut client, &mut frontend).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Two frontends of one type, a room, and clients whose sessions are all at the first one.
struct World {
    backing: Backing,
    first: Frontend,
    second: Frontend,
    _room: crate::Program,
    clients: Vec<(Client, Events)>,
}

impl World {
    async fn start(clients: usize) -> Self {
        let backing = Backing::start();
        let settings = [&UNIQUE, &LINGER[..]].concat();
        let first = Frontend::start(&backing, "connector-1", &settings);
        let second = Frontend::start(&backing, "connector-2", &settings);
        let room = room::start_process(&backing, "room-1");
        let address_of = |frontend: &Frontend| -> SocketAddr {
            frontend
                .address
                .strip_prefix("tcp://")
                .unwrap()
                .parse()
                .unwrap()
        };
        let frontends = Arc::new(Mutex::new(vec![address_of(&first)]));
        let address = balance(&frontends).await;
        let waits = Reconnect::new().waits(Duration::from_millis(20), Duration::from_millis(500));
        let builder = Client::builder()
            .request_timeout(Some(PATIENCE))
            .resume(waits.attempts(1000));
        let coming = (0..clients).map(|n| {
            let (builder, address) = (builder.clone(), &address);
            async move {
                let both = builder.connect_with(address, Client::events).await;
                let (client, events) = both.unwrap();
                ask_soon(&client, "room.room.echo").await;
                let uid = json!({ "uid": format!("user-{n}") });
                let bound = client.request::<_, Value>("room.room.bind", &uid).await;
                bound.unwrap();
                (client, events)
            }
        });
        let clients = join_all(coming).await;
        frontends.lock().unwrap().push(address_of(&second));
        Self {
            backing,
            first,
            second,
            _room: room,
            clients,
        }
    }

    /// The row of the first frontend in the output of `shaddock servers`.
    async fn relayed(&self, clients: usize) {
        operators::says(
            &self.second,
            "all came back through the other one",
            |said| {
                let first = operators::server(said, "connector-1");
                first["state"] == "draining" && first["sessions_relayed"] == clients
            },
        )
        .await;
    }
}

/// Asks until it is told to stop. The number of answers, or the first error.
async fn ask_steadily(client: &Client, is_over: &AtomicBool) -> Result<usize, RequestError> {
    let mut asked = 0;
    while !is_over.load(Ordering::Acquire) {
        asked += 1;
        let text = format!("{asked}");
        let body = json!({ "ms": 5, "text": text });
        let answer: Value = client.request("room.room.echo", &body).await?;
        assert_eq!(answer["text"], text);
        breathe().await;
    }
    Ok(asked)
}

/// Events of a session since the last call.
async fn news(events: &mut Events) -> Vec<SessionEvent> {
    // Whoever has polled much is told that nothing is there.
    tokio::task::yield_now().await;
    let next = || futures_util::FutureExt::now_or_never(events.recv()).flatten();
    std::iter::from_fn(next).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_drain_of_their_frontend() {
    const CLIENTS: usize = 100;
    let mut world = World::start(CLIENTS).await;
    let is_over = AtomicBool::new(false);
    let admin = world.second.admin.clone();
    let command = tokio::task::spawn_blocking(move || {
        crate::shaddock(&["drain", "connector-1", "--wait", "--admin", &admin])
    });
    let load = join_all(
        world
            .clients
            .iter()
            .map(|(client, _)| ask_steadily(client, &is_over)),
    );
    let drain = async {
        world.relayed(CLIENTS).await;
        // And they play on for a while.
        for _ in 0..100 {
            breathe().await;
        }
        is_over.store(true, Ordering::Release);
    };
    let (answers, ()) = tokio::join!(load, drain);
    for answers in answers {
        assert!(answers.unwrap() > 0);
    }
    assert!(!command.is_finished(), "as long as sessions are there");
    for (client, events) in &mut world.clients {
        assert_eq!(client.close_kind(), None);
        let news = news(events).await;
        let went_on = |event: &SessionEvent| {
            matches!(
                event,
                SessionEvent::Suspended(_) | SessionEvent::Resumed { missed: 0 }
            )
        };
        assert!(news.len() >= 2 && news.iter().all(went_on), "{news:?}");
    }
    join_all(world.clients.iter().map(|(client, _)| client.close())).await;
    let said = command.await.unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("with clients at other frontends"),
        "{said:?}"
    );
    assert!(said.out.contains("connector-1 is gone after"), "{said:?}");
    ends_well(world.first.program).await;
    holds(
        &world.backing,
        &["connector connector-2", "room room-1"],
        &[],
    )
    .await;
}

/// The old frontend is killed while it lingers: its sessions are gone, and each client hears it and has a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_drains_and_is_killed_takes_its_sessions_with_it_and_clients_hear_of_it() {
    const CLIENTS: usize = 20;
    let mut world = World::start(CLIENTS).await;
    world.first.program.signal("-TERM");
    world.relayed(CLIENTS).await;
    for (_, events) in &mut world.clients {
        let news = news(events).await;
        assert!(
            !news
                .iter()
                .any(|event| matches!(event, SessionEvent::Restarted { .. })),
            "{news:?}"
        );
    }
    world.first.program.signal("-KILL");
    for (client, events) in &mut world.clients {
        let restarted = async {
            loop {
                match events.recv().await {
                    Some(SessionEvent::Restarted { why, .. }) => return why,
                    Some(_) => {}
                    None => panic!("{:?}", client.close_kind()),
                }
            }
        };
        let why = tokio::time::timeout(PATIENCE, restarted).await;
        assert_eq!(why.expect("it hears of it in time"), "unknown");
        ask_soon(client, "room.room.echo").await;
    }
    until("the users have no owner", || {
        world.backing.etcd.keys("pitaya/bindings/").is_empty()
    })
    .await;
}
