//! `shaddock demo --cluster`, with its own NATS and etcd: people chat, servers are killed, everything ends when it should.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../shaddock-cluster/tests/support/servers.rs"]
mod servers;
mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use servers::Backing;
use shaddock_client::{Client, CloseKind, Subscription};
use shaddock_cluster::{ServerInfo, owner_of};
use support::{
    Demo, SHADDOCK, eventually, ports,
    wait::{self, PATIENCE},
};

/// For `servers`: nothing to set up here.
const fn logs() {}

/// The cluster of a demo, as its greeting tells.
struct Cluster {
    demo: Demo,
    pids: BTreeMap<String, u32>,
    directory: Option<PathBuf>,
}

impl Cluster {
    fn start(more: &[&str]) -> Self {
        let times = [
            "--set",
            "cluster.lease_ttl=2s",
            "--set",
            "cluster.request_timeout=10s",
            "--set",
            "handlers.timeout=10s",
        ];
        let demo = Demo::start(&[&["--cluster"], &times[..], more].concat());
        let mut pids = BTreeMap::new();
        for line in demo.greeting.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, "pid", pid, ..] = words[..] {
                pids.insert(name.to_owned(), pid.parse().unwrap());
            }
        }
        let directory = demo.greeting.lines().find_map(|line| {
            let (_, path) = line.split_once("log into ")?;
            Some(PathBuf::from(path))
        });
        Self {
            demo,
            pids,
            directory,
        }
    }

    fn kill(&self, name: &str) {
        send("-KILL", &self.pids[name].to_string());
    }

    /// The processes that are left.
    fn left(&self) -> Vec<&str> {
        let left = self.pids.iter().filter(|(_, pid)| is_running(**pid));
        left.map(|(name, _)| name.as_str()).collect()
    }

    async fn nothing_is_left(&self) {
        eventually("all processes to end", async || self.left().is_empty()).await;
        let directory = self.directory.as_ref().unwrap();
        eventually("the directory to go", async || !directory.exists()).await;
    }

    /// A user in a room, on the first or the second connector.
    async fn enter(&self, connector: usize, name: &str, room: &str) -> Person {
        let port = self.demo.connectors[connector];
        let (client, answer) = Demo::enter(port, name, room).await;
        assert!(answer["users"].is_array(), "{name}: {answer}");
        let heard = client.subscribe_all();
        Person { client, heard }
    }
}

fn send(signal: &str, to: &str) {
    let sent = Command::new("kill").args([signal, "--", to]).status();
    assert!(sent.unwrap().success());
}

/// True if the process exists and is not a zombie.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// A room whose home is this server, if these are there.
fn room_of(server: &str, all: &[&str]) -> String {
    let all: Vec<_> = all
        .iter()
        .map(|id| Arc::new(ServerInfo::new(id, "chat", false).unwrap()))
        .collect();
    let is_there = |room: &String| owner_of(room.as_bytes(), &all).unwrap().id == *server;
    (0..1000)
        .map(|n| format!("room-{n}"))
        .find(is_there)
        .unwrap()
}

struct Person {
    client: Client,
    heard: Subscription,
}

impl Person {
    async fn say(&self, text: &str) -> bool {
        let message =
            json!({ "rid": "ignored", "content": text, "from": "ignored", "target": "*" });
        let sent = self
            .client
            .request::<_, Value>("chat.chatHandler.send", &message);
        sent.await.is_ok_and(|answer| answer["code"] == 200)
    }

    async fn hear(&mut self) -> (String, Value) {
        let push = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        let push = push.expect("a push in time").unwrap();
        (push.route().to_owned(), push.json().unwrap())
    }

    /// The next message in the room; nothing else may come before.
    async fn hears(&mut self, from: &str, text: &str) {
        let chat = json!({ "msg": text, "from": from, "target": "*" });
        assert_eq!(self.hear().await, ("onChat".to_owned(), chat));
    }
}

/// Both hear what each of them says.
async fn chat(ann: &mut Person, bob: &mut Person, text: &str) {
    assert!(ann.say(text).await);
    ann.hears("ann", text).await;
    bob.hears("ann", text).await;
    assert!(bob.say(text).await);
    ann.hears("bob", text).await;
    bob.hears("bob", text).await;
}

/// `shaddock demo --only ..`, as the parent says it. Killed when dropped.
struct Again(Child);

impl Again {
    fn run(line: &str) -> Self {
        let arguments = line.trim().strip_prefix("shaddock ").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" {arguments}"), SHADDOCK])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let line = out.lines().next().unwrap().unwrap();
        assert!(line.contains("is running in the cluster"), "{line}");
        Self(child)
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_continues_while_servers_die_and_return() {
    let mut cluster = Cluster::start(&["--set", "drain.spread=0s"]);
    let names: Vec<&str> = cluster.pids.keys().map(String::as_str).collect();
    let expected = [
        "chat-1",
        "chat-2",
        "connector-1",
        "connector-2",
        "etcd",
        "gate-1",
        "nats",
    ];
    assert_eq!(names, expected);
    let both = ["chat-1", "chat-2"];
    let (first, second) = (room_of("chat-1", &both), room_of("chat-2", &both));

    // One room, two connectors; and another room.
    let mut ann = cluster.enter(0, "ann", &first).await;
    let mut bob = cluster.enter(1, "bob", &first).await;
    assert_eq!(
        ann.hear().await,
        ("onAdd".to_owned(), json!({ "user": "bob" }))
    );
    chat(&mut ann, &mut bob, "hello").await;
    let mut other = [
        cluster.enter(0, "ann", &second).await,
        cluster.enter(1, "bob", &second).await,
    ];
    assert_eq!(other[0].hear().await.0, "onAdd");
    let [ann2, bob2] = &mut other;

    // A chat server dies: the rooms of the other one do not notice, its own move to the other one.
    cluster.kill("chat-1");
    chat(ann2, bob2, "we go on").await;
    eventually("the room to move", async || ann.say("are we back?").await).await;
    ann.hears("ann", "are we back?").await;
    // Bob has said nothing meanwhile, and is there all the same.
    bob.hears("ann", "are we back?").await;
    chat(&mut ann, &mut bob, "here we are").await;

    // It returns as its parent said, and so do its rooms. No join or leave is reported.
    let log = cluster.demo.log();
    let said = log
        .iter()
        .position(|line| line.contains("chat-1 was killed by signal 9"));
    let command = log[said.unwrap() + 1].split_once("│ ").unwrap().1;
    let back = Again::run(command);
    chat(ann2, bob2, "still here").await;
    for n in 0..20 {
        chat(&mut ann, &mut bob, &format!("moving {n}")).await;
    }

    // A connector dies: who was there leaves the rooms, the others go on.
    cluster.kill("connector-2");
    assert_eq!(
        ann.hear().await,
        ("onLeave".to_owned(), json!({ "user": "bob" }))
    );
    assert!(ann.say("alone").await);
    ann.hears("ann", "alone").await;
    drop(back);

    // Ctrl-C, which the terminal gives to the whole group: clients are told, and nothing is left.
    let group = format!("-{}", cluster.demo.id());
    send("-INT", &group);
    let reason = Some("draining".to_owned());
    assert_eq!(ann.client.closed().await, CloseKind::Kicked { reason });
    assert_eq!(cluster.demo.wait().code(), Some(0));
    assert!(cluster.left().is_empty(), "{:?}", cluster.left());
    assert!(!cluster.directory.as_ref().unwrap().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_is_killed_leaves_nothing_behind() {
    let cluster = Cluster::start(&[]);
    let person = cluster.enter(0, "ann", "lobby").await;
    cluster.demo.signal("-KILL");
    let reason = Some("draining".to_owned());
    assert_eq!(person.client.closed().await, CloseKind::Kicked { reason });
    cluster.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_all_at_once() {
    let mut cluster = Cluster::start(&["--set", "drain.delay=20s"]);
    cluster.demo.signal("-TERM");
    cluster
        .demo
        .logs("a second signal ends the demo immediately")
        .await;
    assert!(cluster.demo.is_running(), "it drains");
    cluster.demo.signal("-INT");
    assert_eq!(cluster.demo.wait().code(), Some(1));
    cluster.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_nats_and_etcd_are_used() {
    let backing = Backing::start();
    let (nats, etcd) = (backing.nats.address, backing.etcd.address);
    let settings = [
        format!("cluster.nats_urls=nats://{nats}"),
        format!("cluster.etcd_endpoints={etcd}"),
    ];
    let mut cluster = Cluster::start(&["--set", &settings[0], "--set", &settings[1]]);
    assert_eq!((cluster.pids.len(), &cluster.directory), (5, &None));
    assert_eq!(backing.etcd.keys("pitaya/servers/").len(), 5);
    cluster.demo.signal("-TERM");
    assert_eq!(cluster.demo.wait().code(), Some(0));
    assert!(cluster.left().is_empty(), "{:?}", cluster.left());
    assert!(backing.etcd.keys("pitaya/servers/").is_empty());
}
