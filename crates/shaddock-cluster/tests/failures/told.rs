//! Reports of NATS and etcd: a subject that is not allowed, an end that is near, no room for writes.

use std::time::Duration;

use shaddock_cluster::{Conflict, JoinOptions, SessionsPerUser};

use crate::support::node::{request, works};
use crate::support::ports::{free_port, local};
use crate::support::proxy::Proxy;
use crate::support::servers::{Backing, EtcdServer, NatsServer, config};
use crate::support::until;
use crate::{SECOND, join, join_with};

/// A configuration file of NATS that is there as long as this value.
struct File(std::path::PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let name = format!("shaddock-nats-{}-{}.conf", std::process::id(), free_port());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn arguments(&self) -> Vec<String> {
        vec!["-c".to_owned(), self.0.display().to_string()]
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_nats_does_not_allow_is_named() {
    crate::support::logs();
    let subject = "pitaya/servers/chat/chat-1";
    let rules = File::new(&format!(
        r#"authorization {{ users = [
            {{ user: all, password: x }}
            {{ user: some, password: x, permissions: {{ subscribe: {{ deny: ["{subject}"] }}, publish: {{ deny: ["shaddock.servers"] }} }} }}
        ] }}"#
    ));
    let nats = NatsServer::start_with(&rules.arguments());
    let etcd = EtcdServer::start();
    let with = |user: &str| {
        let mut config = config(nats.address, etcd.address);
        config.nats_urls = vec![format!("nats://{user}:x@{}", nats.address).into()];
        config
    };
    let front = join(&with("all"), "front-1", "connector").await;
    let back = join(&with("some"), "chat-1", "chat").await;
    until("it is named", || {
        let trouble = back.member.trouble();
        trouble.is_some_and(|text| text.contains("subscribe to") && text.contains(subject))
    })
    .await;
    assert_eq!(front.member.trouble(), None);
    // A refusal is reported for a while.
    back.member.withdraw().await;
    until("one more", || {
        let trouble = back.member.trouble();
        trouble.is_some_and(|text| text.contains("and 1 more"))
    })
    .await;
}

/// The NATS server of both says that it is about to end, with a request on its way: that is answered, and both go to the other one in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_leave_a_nats_server_before_it_ends() {
    crate::support::logs();
    let slow_end = File::new("lame_duck_grace_period: \"60s\"\nlame_duck_duration: \"120s\"\n");
    let routes = local(free_port());
    let other = NatsServer::start_in_cluster(routes, None);
    let words = ["--cluster_name", "test", "--cluster"].map(str::to_owned);
    let mut words = [&slow_end.arguments()[..], &words].concat();
    words.push(format!("nats://{}", local(free_port())));
    words.extend(["--routes".to_owned(), format!("nats://{routes}")]);
    let ends = NatsServer::start_with(&words);
    until("one cluster", || other.routes() >= 1 && ends.routes() >= 1).await;
    let etcd = EtcdServer::start();
    let mut config = config(ends.address, etcd.address);
    config.request_timeout = SECOND * 60;
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", unique).await;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let (go_on, blocked) = std::sync::mpsc::channel::<()>();
    let (began, begins) = std::sync::mpsc::channel::<()>();
    *back.node.block.lock().unwrap() = Some((began, blocked));
    let slow = front
        .member
        .forward(back.info(), request("chat.room.block", "on its way"));
    tokio::task::block_in_place(|| begins.recv().unwrap());
    ends.lame_duck();
    go_on.send(()).unwrap();
    assert_eq!(slow.await.unwrap(), "on its way");
    until("both are at the other one", || {
        let there = other.subscriptions();
        ["connector front-1", "chat chat-1"]
            .iter()
            .all(|name| there.contains_key(*name))
    })
    .await;
    until("connected", || {
        front.member.status().connected && back.member.status().connected
    })
    .await;
    works(&front, &back).await;
    assert!(
        front.state().fenced.is_empty(),
        "nobody can have taken a user meanwhile"
    );
}

/// A frontend that is not sure of its users, as just after a start or a short cut, lets a bind wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_waits_until_its_frontend_is_no_longer_fenced() {
    let backing = Backing::start();
    let nats = Proxy::to(backing.nats.address).await;
    let mut config = config(nats.address, backing.etcd.address);
    config.request_timeout = SECOND * 60;
    config.push_timeout = SECOND * 30;
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", unique).await;
    front.open(1);
    nats.sever();
    until("cut off", || front.member.is_fenced()).await;
    // In this order: the bind has begun.
    let heal = async { nats.heal() };
    let (bound, ()) = tokio::join!(front.bind(1, "u"), heal);
    bound.unwrap();
    assert_eq!(front.uid(1).as_deref(), Some("u"));
}

/// etcd is full: users cannot log in, and this is reported to operators. When there is room again, everything recovers automatically.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_room_is_named() {
    crate::support::logs();
    let nats = NatsServer::start();
    let etcd = EtcdServer::start_with("http", &["--quota-backend-bytes=2097152".to_owned()]);
    let mut config = config(nats.address, etcd.address);
    config.sync_interval = Duration::from_millis(200);
    let unique = JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let front = join_with(&config, "front-1", "connector", unique).await;
    let back = join(&config, "chat-1", "chat").await;
    until("its size is known", || {
        let status = front.member.status();
        status.etcd_bytes > 0 && status.etcd_bytes_in_use > 0 && !status.etcd_full
    })
    .await;
    assert_eq!(front.member.trouble(), None);
    let much = "x".repeat(100_000);
    for n in 0..40 {
        etcd.etcdctl(&["put", &format!("fill/{n}"), &much]);
    }
    until("it is named", || {
        let trouble = front.member.trouble();
        trouble.is_some_and(|text| text.contains("etcd has reached its quota"))
    })
    .await;
    assert!(back.member.status().etcd_full);
    assert_eq!(back.member.trouble(), None, "it needs no writes");
    front.open(1);
    let error = front.bind(1, "u").await.unwrap_err();
    assert!(
        error.message().contains("database space exceeded"),
        "{error}"
    );

    etcd.etcdctl(&["del", "--prefix", "fill/"]);
    let answer: serde_json::Value =
        serde_json::from_str(&etcd.etcdctl(&["get", "fill/", "-w", "json"])).unwrap();
    etcd.etcdctl(&["compact", &answer["header"]["revision"].to_string()]);
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
    until("there is room", || front.member.trouble().is_none()).await;
    front.bind(1, "u").await.unwrap();
}
