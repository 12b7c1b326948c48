//! The server API over a cluster of two frontends: permissions, receivers, and rejected commands.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use serde_json::{Value, json};
use shaddock::{
    admin::{Admin, AdminRequest},
    backend::HttpBackend,
    cluster::LocalCluster,
    config::{Config, Sources},
    operations::Operations,
    prelude::*,
};
use shaddock_cluster::{
    BoxFuture, Cluster as _, ForwardedRequest, JoinOptions, Membership, Node, RemoteCall,
    RemoteError, ServerInfo,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::support::{Client, drive, eventually, frontend, login, uid, wait::breathe};

const OPERATE: &str = "operate-operate-operate";
const PUSH: &str = "push-push-push-push-push";
const READ: &str = "read-read-read-read-read";

/// Two frontends, an admin server, and an audit log.
struct World {
    running: Running,
    operations: Operations,
    address: SocketAddr,
    server: JoinHandle<()>,
    audit: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_file(&self.audit);
    }
}

impl World {
    async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    /// `change` gets each frontend and the address of the admin server.
    async fn with(change: impl Fn(&mut App, SocketAddr)) -> Self {
        Self::on(LocalCluster::new(), change).await
    }

    async fn on(cluster: LocalCluster, change: impl Fn(&mut App, SocketAddr)) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shaddock-audit-{}-{number}.jsonl", std::process::id());
        let audit = std::env::temp_dir().join(name);
        let flags = [
            format!("admin.audit={}", audit.display()),
            format!("admin.token={OPERATE}"),
            format!("admin.push_tokens={PUSH}"),
            format!("admin.read_tokens={READ}"),
        ];
        let sources = flags
            .iter()
            .fold(Sources::default(), |all, flag| all.flag(flag.clone()));
        let mut config = Config::load(&sources).unwrap();
        // A machine with too much to do is slow, and still right.
        config.admin.cluster_timeout.0 = Duration::from_secs(60);
        let operations = Operations::new();
        let any = ([127, 0, 0, 1], 0).into();
        let admin = Admin::bind(any, &config.admin, operations.clone())
            .await
            .unwrap();
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        let mut servers = Servers::new();
        for id in ["connector-1", "connector-2"] {
            let mut app = frontend(id);
            change(&mut app, address);
            servers = servers.add(app);
        }
        let running = servers.cluster(cluster).start().await.unwrap();
        operations.running(running.apps());
        Self {
            running,
            operations,
            address,
            server,
            audit,
        }
    }

    /// A metric of the process.
    fn metric(&self, name: &str) -> String {
        let text = shaddock::metrics::render(&self.operations);
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let found = lines.find(|(series, _)| series.trim_end_matches("{}") == name);
        found
            .unwrap_or_else(|| panic!("no {name}\n{text}"))
            .1
            .to_owned()
    }

    async fn client(&self, frontend: usize, name: &str) -> Client {
        login(&self.running.apps()[frontend], name).await
    }

    /// With the token that may do everything.
    async fn call(&self, body: &Value) -> (u16, Value) {
        self.ask(OPERATE, "POST", "/api/cluster/call", "", &body.to_string())
            .await
    }

    /// The result of one command: what came of it, or the error's code and text.
    async fn one(&self, command: Value) -> Result<Value, (String, String)> {
        let (status, answer) = self.call(&json!({"commands": [command]})).await;
        assert_eq!(status, 200, "{answer}");
        let result = &answer["results"][0];
        if result["ok"].is_object() {
            return Ok(result["ok"].clone());
        }
        let text = |key: &str| result["error"][key].as_str().unwrap().to_owned();
        Err((text("code"), text("message")))
    }

    async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        head: &str,
        body: &str,
    ) -> (u16, Value) {
        ask(self.address, token, method, path, head, body).await
    }

    fn audited(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

async fn ask(
    address: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    head: &str,
    body: &str,
) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         {head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A frontend that answers operators as a test says, and keeps what it was asked.
struct Odd {
    asked: Mutex<Vec<Value>>,
    /// To `find` and to `do`, in their order; the last one is repeated.
    answers: Mutex<VecDeque<Result<Value, RemoteError>>>,
    /// A place for each answer.
    gate: Semaphore,
}

impl Odd {
    fn new(answers: impl IntoIterator<Item = Result<Value, RemoteError>>) -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            answers: Mutex::new(answers.into_iter().collect()),
            gate: Semaphore::new(0),
        })
    }

    /// As `connector-9`; with the number that is in its sids.
    async fn join(self: &Arc<Self>, cluster: &LocalCluster) -> (Arc<dyn Membership>, u16) {
        let mut info = ServerInfo::new("connector-9", "connector", true).unwrap();
        info.announce("ops");
        let node = Arc::clone(self) as Arc<dyn Node>;
        let member = cluster.join(info, JoinOptions::default(), node).await;
        let member = member.unwrap();
        let number = member.start_number();
        (member, number)
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

impl Node for Odd {
    fn serve_request(
        self: Arc<Self>,
        _: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Err(RemoteError::new("ODD", "not for clients")) })
    }

    fn serve_call(
        self: Arc<Self>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        let asked = serde_json::from_slice(&call.body).unwrap();
        self.asked.lock().unwrap().push(asked);
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            let mut answers = self.answers.lock().unwrap();
            let answer = answers.pop_front().unwrap();
            if answers.is_empty() {
                answers.push_back(answer.clone());
            }
            answer.map(|answer| answer.to_string().into())
        })
    }
}

/// Who does not say which sessions it has may have sessions of which a predicate is not true.
/// For a client whose socket is full.
#[tokio::test]
async fn pushes_of_which_the_newest_is_enough() {
    let world = World::start().await;
    let mut ann = world.client(0, "ann").await;
    let app = &world.running.apps()[0];
    let topic = app.topic("room");
    topic
        .add(&uid("ann"), &crate::support::front("connector-1"))
        .await
        .unwrap();
    let outbox = ann.session.outbox();
    outbox.begin_poll(std::task::Waker::noop());
    assert!(!outbox.end_poll(shaddock_core::Flush::Blocked));
    let push =
        |n, to: Value| json!({"push": {"to": to, "route": "onMove", "body": n, "latest": "place"}});
    for command in [
        push(1, json!({"uid": "ann"})),
        json!({"push": {"to": {"uid": "ann"}, "route": "onMove", "body": 2}}),
        push(3, json!({"all": true})),
        push(4, json!({"topic": "room"})),
    ] {
        world.one(command).await.unwrap();
    }
    let seen = [ann.wait_push("onMove").await, ann.wait_push("onMove").await];
    assert_eq!(seen, [json!(2), json!(4)]);
    assert_eq!(ann.drain(), []);
    for key in [String::new(), "x".repeat(129)] {
        let bad = json!({"push": {"to": {"all": true}, "route": "a", "body": 1, "latest": key}});
        let (status, answer) = world.call(&json!({"commands": [bad]})).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.to_string().contains("`latest` has"), "{answer}");
    }
}

#[tokio::test]
async fn no_command_runs_without_the_sessions_of_every_frontend() {
    let cluster = LocalCluster::new();
    let odd = Odd::new([Err(RemoteError::new("PIT-500", "its answer is too long"))]);
    let (_odd, _) = odd.join(&cluster).await;
    odd.gate.add_permits(1000);
    let world = World::on(cluster, |_, _| {}).await;
    let (ann, bob) = (world.client(0, "ann").await, world.client(1, "bob").await);
    let commands =
        |to: Value| json!([{"kick": {"to": to}}, {"set": {"to": to, "values": {"a": 1}}}]);
    let two = json!({"where": "uid = ann or age >= 0s"});
    for (to, per_second) in [
        (two.clone(), 0),
        (json!({"where": "uid = ann"}), 0),
        (json!({"where": "uid = ann"}), 1),
        (json!({"uid": "ann"}), 1),
        (json!({"all": true}), 1),
        (json!({"where": "age >= 0s", "all": true}), 100),
    ] {
        let (_, answer) = world
            .call(&json!({"commands": commands(to.clone()), "per_second": per_second}))
            .await;
        for result in answer["results"].as_array().unwrap() {
            assert_eq!(result["error"]["code"], "unanswered", "{to}: {answer}");
            let text = result["error"]["message"].as_str().unwrap();
            assert!(
                text.contains("connector-9") && text.contains("too long"),
                "{text}"
            );
        }
    }
    assert!(!ann.session.is_closed() && !bob.session.is_closed());
    assert!(ann.session.settings().is_empty());
    assert!(odd.asked().iter().all(|one| one["ask"] == "find"));
    // Who says so means all of those that can be reached.
    let all = json!({"kick": {"to": {"where": "age >= 0s", "all": true}}});
    let outcome = world.one(all).await.unwrap();
    assert_eq!(
        (&outcome["done"], &outcome["unanswered"][0]["server"]),
        (&json!(2), &json!("connector-9"))
    );
    let line = world.audited().pop().unwrap();
    assert_eq!(line["unanswered"], json!(["connector-9"]));
}

/// A predicate is asked once for each session: those of which it was true then, and no others, are told.
#[tokio::test]
async fn what_was_found_is_what_something_is_done_to() {
    let cluster = LocalCluster::new();
    let odd = Odd::new([]);
    let (_odd, node) = odd.join(&cluster).await;
    odd.gate.add_permits(1000);
    let sid = |n: u64| ((n << 16) | u64::from(node)).to_string();
    let page = |sids: &[String], more: bool| {
        Ok(json!({"matched": 3, "total": 9, "sids": sids, "more": more}))
    };
    let world = World::on(cluster, |_, _| {}).await;
    let ann = world.client(0, "ann").await;
    for per_second in [0, 100] {
        odd.asked.lock().unwrap().clear();
        *odd.answers.lock().unwrap() = VecDeque::from([
            page(&[sid(5), sid(6)], true),
            page(&[sid(8)], false),
            Ok(json!({"matched": 2, "done": 1, "failed": 1, "errors": ["no"]})),
        ]);
        let set = json!({"set": {"to": {"where": "age >= 0s"}, "values": {"a": per_second}}});
        let (_, answer) = world
            .call(&json!({"commands": [set], "per_second": per_second}))
            .await;
        let outcome = &answer["results"][0]["ok"];
        assert_eq!(
            (&outcome["matched"], &outcome["done"], &outcome["failed"]),
            (&json!(4), &json!(2), &json!(1)),
            "{answer}"
        );
        let asked = odd.asked();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert_eq!(asked[0]["with"]["after"], Value::Null);
        assert_eq!(asked[1]["with"]["after"], json!(sid(6)));
        let told = asked[2]["with"]["select"]["sids"].as_array().unwrap();
        let named: HashSet<&str> = told.iter().map(|one| one.as_str().unwrap()).collect();
        let ours = ann.sid().to_string();
        assert_eq!(
            named,
            HashSet::from([sid(5).as_str(), &sid(6), &sid(8), &ours])
        );
        assert_eq!(ann.session.settings().get("a"), Some(&json!(per_second)));
    }
    // One that was asked and says nothing more: its sessions are among those that failed.
    let error = RemoteError::new("PIT-500", "it breaks");
    *odd.answers.lock().unwrap() =
        VecDeque::from([page(&[sid(5), sid(6), sid(8)], false), Err(error)]);
    let set = json!({"set": {"to": {"where": "age >= 0s"}, "values": {"a": 7}}});
    let outcome = world.one(set).await.unwrap();
    assert_eq!(
        (&outcome["matched"], &outcome["done"], &outcome["failed"]),
        (&json!(4), &json!(1), &json!(3)),
        "{outcome}"
    );
    assert_eq!(outcome["unanswered"][0]["server"], "connector-9");
}

/// So many at a time: one more is refused, with its key still free.
#[tokio::test]
async fn requests_at_the_same_time_have_a_bound() {
    let cluster = LocalCluster::new();
    let odd = Odd::new([Ok(json!({"matched": 0, "total": 0}))]);
    let (_odd, _) = odd.join(&cluster).await;
    let world = World::on(cluster, |_, _| {}).await;
    let address = world.address;
    let count = json!({"commands": [{"count": {"to": {"all": true}}}]}).to_string();
    let mut waiting = JoinSet::new();
    for _ in 0..16 {
        let body = count.clone();
        waiting
            .spawn(async move { ask(address, READ, "POST", "/api/cluster/call", "", &body).await });
    }
    eventually("all are at work", || odd.asked().len() == 16).await;
    let key = "idempotency-key: k\r\n";
    let (status, answer) = world
        .ask(READ, "POST", "/api/cluster/call", key, &count)
        .await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (429, &json!("too_many"))
    );
    odd.gate.add_permits(17);
    while let Some(done) = waiting.join_next().await {
        assert_eq!(done.unwrap().0, 200);
    }
    let (status, answer) = world
        .ask(READ, "POST", "/api/cluster/call", key, &count)
        .await;
    assert_eq!(
        (status, &answer["results"][0]["ok"]["matched"]),
        (200, &json!(0))
    );
}

/// Whatever changes something has its line, with the token that did it.
#[tokio::test]
async fn everything_that_is_done_is_noted() {
    let world = World::with(|app, _| {
        app.admin_route("reset", async |_, request: AdminRequest| {
            request.json::<u64>().map(Json)
        });
    })
    .await;
    let _clients = [
        world.client(0, "ann").await,
        world.client(1, "bob").await,
        world.client(1, "eve").await,
    ];
    for (path, body, status, command, part) in [
        (
            "/api/kick",
            json!({"uid": "ann", "reason": "late"}),
            200,
            "kick",
            json!({"to": {"uid": "ann"}, "what": {"reason": "late"}, "done": 1}),
        ),
        (
            "/api/cluster/kick",
            json!({"uid": "bob"}),
            200,
            "kick",
            json!({"to": {"uid": "bob"}, "done": 1}),
        ),
        (
            "/api/app/connector-1/reset",
            json!(7),
            200,
            "app",
            json!({"to": {"server": "connector-1", "path": "reset"}, "error": null}),
        ),
        (
            "/api/app/connector-1/reset",
            json!("secret"),
            400,
            "app",
            json!({"error": "the response had status 400 Bad Request"}),
        ),
        (
            "/api/cluster/drain",
            json!({"server": "connector-1"}),
            409,
            "drain",
            json!({"to": {"server": "connector-1"}}),
        ),
        (
            "/api/drain",
            json!({}),
            202,
            "drain",
            json!({"error": null}),
        ),
    ] {
        let before = world.audited().len();
        let (said, answer) = world
            .ask(OPERATE, "POST", path, "", &body.to_string())
            .await;
        assert_eq!(said, status, "{path}: {answer}");
        let lines = world.audited();
        assert_eq!(lines.len(), before + 1, "{path}");
        let line = lines.last().unwrap();
        assert_eq!(line["command"], command, "{line}");
        assert!(
            line["who"].as_str().unwrap().starts_with("operate:"),
            "{line}"
        );
        for (key, value) in part.as_object().unwrap() {
            assert_eq!(&line[key], value, "{path}: {line}");
        }
    }
    let before = world.audited().len();
    let asked = world
        .ask(OPERATE, "GET", "/api/app/connector-1/reset", "", "")
        .await;
    let wrong = world.ask(OPERATE, "POST", "/api/kick", "", "{}").await;
    assert_eq!(
        (asked.0, wrong.0, world.audited().len()),
        (400, 400, before)
    );
    assert!(!json!(world.audited()).to_string().contains("secret"));
}

/// Each command, by each way to say whom it is about, on both frontends.
#[tokio::test]
async fn commands() {
    let world = World::start().await;
    let (mut ann, mut bob) = (world.client(0, "ann").await, world.client(1, "bob").await);
    let eve = world.client(1, "eve").await;
    let guest = Client::connect(&world.running.apps()[0]);
    let push = |to: Value| json!({"push": {"to": to, "route": "onNews", "body": {"n": 1}}});
    for (to, reached) in [
        (json!({"uid": "ann"}), 1),
        (json!({"uids": ["ann", "bob", "nobody"]}), 2),
        (json!({"sid": bob.sid().to_string()}), 1),
        (
            json!({"sids": [ann.sid().to_string(), bob.sid().to_string(), "7"]}),
            2,
        ),
        (json!({"where": "uid = ann or uid = bob"}), 2),
        (json!({"all": true}), 4),
        (json!({"uid": "nobody"}), 0),
    ] {
        let outcome = world.one(push(to.clone())).await.unwrap();
        assert_eq!(outcome["done"], reached, "{to}: {outcome}");
        let mut got = 0;
        for client in [&mut ann, &mut bob] {
            got += client.drain().len();
        }
        assert_eq!(got, reached.min(2), "{to}");
    }
    let outcome = world
        .one(json!({"join": {"to": {"uids": ["ann", "bob"]}, "topic": "lobby"}}))
        .await
        .unwrap();
    assert_eq!(
        outcome["by_frontend"],
        json!({"connector-1": 1, "connector-2": 1})
    );
    let to_topic = push(json!({"topic": "lobby", "except": "ann"}));
    assert_eq!(world.one(to_topic).await.unwrap(), json!({"failed": 0}));
    assert_eq!(bob.wait_push("onNews").await, json!({"n": 1}));
    assert!(ann.drain().is_empty(), "who is left out");
    let left = world
        .one(json!({"leave": {"to": {"uid": "bob"}, "topic": "lobby"}}))
        .await
        .unwrap();
    assert_eq!(left["done"], 1);

    let set =
        json!({"set": {"to": {"where": "uid != null"}, "values": {"level": 9}, "remove": ["old"]}});
    assert_eq!(world.one(set).await.unwrap()["done"], 3);
    assert_eq!(eve.session.settings().get("level"), Some(&json!(9)));
    assert!(guest.session.settings().is_empty());
    let bind = json!({"bind": {"to": {"sid": guest.sid().to_string()}, "uid": "gus"}});
    assert_eq!(world.one(bind.clone()).await.unwrap()["done"], 1);
    assert_eq!(guest.session.uid(), Some(uid("gus")));
    let other = json!({"bind": {"to": {"sid": guest.sid().to_string()}, "uid": "ann"}});
    let outcome = world.one(other).await.unwrap();
    assert_eq!(
        (&outcome["done"], &outcome["failed"]),
        (&json!(0), &json!(1)),
        "{outcome}"
    );
    assert!(
        outcome["errors"][0].as_str().unwrap().contains("gus"),
        "{outcome}"
    );
    assert_eq!(
        world
            .one(json!({"unbind": {"to": {"uid": "gus"}}}))
            .await
            .unwrap()["done"],
        1
    );
    assert!(guest.session.uid().is_none());

    let count = |text: &str| json!({"count": {"to": {"where": text}}});
    let counted = world
        .one(count("settings.level >= 9 and frontend = connector-2"))
        .await
        .unwrap();
    assert_eq!(
        (&counted["matched"], counted.get("done")),
        (&json!(2), None)
    );
    let kicked = world.one(json!({"kick": {"to": {"where": "settings.level >= 9 and not uid = ann"}, "reason": "late"}})).await.unwrap();
    assert_eq!(
        (&kicked["matched"], &kicked["done"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(bob.wait_kick().await, "late");
    assert!(eve.session.is_closed() && !ann.session.is_closed() && !guest.session.is_closed());

    let lines = world.audited();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["command"], &last["matched"], &last["done"]),
        (&json!("kick"), &json!(2), &json!(2))
    );
    assert_eq!(last["what"], json!({"reason": "late"}));
    assert!(last["who"].as_str().unwrap().starts_with("operate:"));
    let text = json!(lines).to_string();
    assert!(
        lines.len() >= 14 && !text.contains(r#""n":1"#) && !text.contains(OPERATE),
        "bodies and tokens are not in it"
    );
}

/// A request is judged as a whole: what is wrong with it is said, and nothing is done.
#[tokio::test]
async fn requests_that_are_refused() {
    let world = World::start().await;
    let ann = world.client(0, "ann").await;
    let _bob = world.client(1, "bob").await;
    let kick = |to: Value| json!({"kick": {"to": to}});
    let fine = kick(json!({"uid": "ann"}));
    for (command, part) in [
        (kick(json!({})), "exactly one of `sid`"),
        (
            kick(json!({"uid": "ann", "sid": "7"})),
            "exactly one of `sid`",
        ),
        (
            kick(json!({"uid": "ann", "all": true})),
            "exactly one of `sid`",
        ),
        (kick(json!({"topic": "lobby"})), "only pushes accept"),
        (kick(json!({"who": "ann"})), "unknown field `who`"),
        (kick(json!({"sid": "abc"})), "not a session id"),
        (kick(json!({"uids": [""]})), "an invalid user"),
        (
            kick(json!({"uids": vec!["ann"; 1001]})),
            "1001 of at most 1000",
        ),
        (
            kick(json!({"where": "uid = ann and"})),
            "`where`, column 14: a field",
        ),
        (kick(json!({"where": ""})), "`where`, column 1"),
        (
            kick(json!({"where": "age > soon"})),
            "column 7: \"soon\" is not a time",
        ),
        (
            json!({"kick": {"to": {"uid": "ann"}, "reason": "x".repeat(257)}}),
            "at most 256",
        ),
        (
            json!({"fly": {}}),
            "unknown variant `fly`, expected one of `count`",
        ),
        (
            json!({"push": {"to": {"uid": "ann"}, "route": "", "body": 1}}),
            "1 to 255 bytes",
        ),
        (
            json!({"push": {"to": {"uid": "ann"}, "route": "a", "body": null}}),
            "`body` is null",
        ),
        (
            json!({"push": {"to": {"uid": "ann", "topic": "t"}, "route": "a", "body": 1}}),
            "another receiver",
        ),
        (
            json!({"push": {"to": {"topic": ""}, "route": "a", "body": 1}}),
            "1 to 256 bytes",
        ),
        (
            json!({"set": {"to": {"uid": "ann"}}}),
            "requires `values` or `remove`",
        ),
        (
            json!({"bind": {"to": {"uid": "ann"}, "uid": "bob"}}),
            "write its `sid`",
        ),
        (
            json!({"bind": {"to": {"sid": "7"}, "uid": ""}}),
            "`uid` is invalid",
        ),
        (
            json!({"join": {"to": {"uid": "ann"}, "topic": ""}}),
            "1 to 256 bytes",
        ),
    ] {
        let (status, answer) = world.call(&json!({"commands": [fine, command]})).await;
        let text = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("bad_request")),
            "{command}"
        );
        assert!(text.contains(part), "{command}: {text}");
        assert!(!ann.session.is_closed(), "{command}: something was done");
    }
    assert!(
        world.audited().is_empty(),
        "what was not begun is not noted"
    );
}

#[tokio::test]
async fn requests_that_are_none() {
    let world = World::start().await;
    let ann = world.client(0, "ann").await;
    let fine = json!({"kick": {"to": {"uid": "ann"}}});
    for (body, part) in [
        (json!({"commands": []}), "1 to 100"),
        (json!({"commands": vec![fine.clone(); 101]}), "1 to 100"),
        (json!([]), "the body is invalid"),
        (
            json!({"commands": [fine], "dry": true}),
            "unknown field `dry`",
        ),
    ] {
        let (status, answer) = world.call(&body).await;
        let text = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && text.contains(part), "{text}");
    }
    assert!(!ann.session.is_closed());
    assert!(
        world.audited().is_empty(),
        "what was not begun is not noted"
    );
}

/// A session that is named twice, in any spelling, is one session: for every command, also if it is paced.
#[tokio::test]
async fn a_session_that_is_named_twice_counts_once() {
    let world = World::start().await;
    let (mut ann, _bob) = (world.client(0, "ann").await, world.client(1, "bob").await);
    let sid = ann.sid().to_string();
    let commands = [
        json!({"count": {}}),
        json!({"push": {"route": "onNews", "body": 1}}),
        json!({"set": {"values": {"level": 1}}}),
        json!({"join": {"topic": "lobby"}}),
        json!({"leave": {"topic": "lobby"}}),
        json!({"unbind": {}}),
        json!({"kick": {}}),
    ];
    for (number, command) in commands.into_iter().enumerate() {
        for to in [
            json!({"sids": [sid, sid]}),
            json!({"sids": [sid, format!("0{sid}"), format!("+{sid}")]}),
            json!({"uids": ["ann", "ann"]}),
        ] {
            if number >= 5 {
                // They take away what the next one would be about.
                ann.session.close(CloseReason::Draining);
                ann = world.client(0, "ann").await;
            }
            let to = if number >= 5 && to.get("sids").is_some() {
                json!({"sids": [ann.sid().to_string(), format!("0{}", ann.sid())]})
            } else {
                to
            };
            let mut command = command.clone();
            let body = command
                .as_object_mut()
                .unwrap()
                .values_mut()
                .next()
                .unwrap();
            body["to"] = to;
            let outcome = world.one(command.clone()).await.unwrap();
            assert_eq!(outcome["matched"], 1, "{command}: {outcome}");
            assert_eq!(outcome["failed"], 0, "{command}: {outcome}");
            if command.get("push").is_some() {
                assert_eq!(ann.drain().len(), 1, "{command}");
            }
        }
    }
    ann.session.close(CloseReason::Draining);
    let ann = world.client(0, "ann").await;
    let kick = json!({"kick": {"to": {"uids": ["ann", "ann", "bob", "bob"]}}});
    let (_, answer) = world
        .call(&json!({"commands": [kick], "per_second": 2}))
        .await;
    let ok = &answer["results"][0]["ok"];
    assert_eq!(
        (&ok["matched"], &ok["done"]),
        (&json!(2), &json!(2)),
        "{ok}"
    );
    assert!(ann.session.is_closed());
}

/// A predicate that matches every session must be confirmed with `all`, or nothing is done. A dry run counts.
#[tokio::test]
async fn a_push_to_all_sessions_is_explicit() {
    let world = World::start().await;
    let (ann, bob) = (world.client(0, "ann").await, world.client(1, "bob").await);
    let kick = |to: Value| json!({"kick": {"to": to}});
    let (code, text) = world
        .one(kick(json!({"where": "age >= 0s"})))
        .await
        .unwrap_err();
    assert_eq!(code, "everybody");
    assert!(
        text.contains("all 2 sessions") && text.contains("--all"),
        "{text}"
    );
    let whole = json!({"commands": [kick(json!({"where": "age >= 0s"})), kick(json!({"all": true}))], "dry_run": true});
    let (_, answer) = world.call(&whole).await;
    for result in answer["results"].as_array().unwrap() {
        assert_eq!(result["ok"]["matched"], 2, "{result}");
        assert!(result["ok"].get("done").is_none(), "{result}");
    }
    assert!(!ann.session.is_closed() && !bob.session.is_closed());
    let outcome = world
        .one(kick(json!({"where": "age >= 0s", "all": true})))
        .await
        .unwrap();
    assert_eq!(outcome["done"], 2);
    let lines = world.audited();
    let codes: Vec<bool> = lines.iter().map(|line| line["error"].is_string()).collect();
    assert_eq!(codes, [true, false, false, false]);
    assert_eq!(
        (&lines[1]["dry_run"], &lines[3]["dry_run"]),
        (&json!(true), &json!(false))
    );
}

/// Every path with every token, from the document itself; and every command.
#[tokio::test]
async fn scopes() {
    let world = World::start().await;
    let ann = world.client(0, "ann").await;
    let (status, document) = world.ask(READ, "GET", "/api/openapi.json", "", "").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let (path, method) = (
                path.replace("{id}", "7").replace("{sid}", "7"),
                method.to_uppercase(),
            );
            let wanted = operation["description"].as_str().unwrap();
            for (token, name) in [
                (READ, "read"),
                (PUSH, "push"),
                ("nobody-nobody-nobody", "none"),
            ] {
                let (status, answer) = world.ask(token, &method, &path, "", "[]").await;
                let is_allowed = wanted == format!("Scope: {name}.")
                    || wanted.contains("command's")
                    || wanted == "Scope: any.";
                match name {
                    "none" => assert_eq!(status, 401, "{method} {path}"),
                    _ if is_allowed => {
                        assert!(
                            status != 401 && status != 403 && status != 405,
                            "{method} {path} {name}: {status}"
                        );
                        // What there is says so, also of something in it that there is not.
                        let text = answer["error"]["message"].as_str().unwrap_or_default();
                        assert!(!text.contains("there are GET"), "{method} {path}: {text}");
                    }
                    _ => {
                        assert_eq!(status, 403, "{method} {path} {name}");
                        let text = answer["error"]["message"].as_str().unwrap();
                        assert!(text.contains("requires a token with scope"), "{text}");
                    }
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "{seen}");
    let (status, answer) = world.ask(OPERATE, "DELETE", "/api/stats", "", "").await;
    let text = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 405, "{text}");
    let wanted = "/api/stats does not support DELETE; there are GET";
    assert!(text.starts_with(wanted), "{text}");
    let to = json!({"uid": "ann"});
    let commands = [
        ("count", json!({"to": to})),
        ("push", json!({"to": to, "route": "a", "body": 1})),
        ("set", json!({"to": to, "values": {"a": 1}})),
        ("bind", json!({"to": {"sid": "7"}, "uid": "bob"})),
        ("unbind", json!({"to": to})),
        ("join", json!({"to": to, "topic": "t"})),
        ("leave", json!({"to": to, "topic": "t"})),
        ("kick", json!({"to": to})),
    ];
    for (name, value) in commands {
        let commands = json!([{name: value}]);
        for (token, allows, dry_run) in [
            (READ, name == "count", false),
            (READ, true, true),
            (PUSH, name == "push", false),
            (PUSH, false, true),
        ] {
            let body = json!({"commands": commands, "dry_run": dry_run}).to_string();
            let (status, answer) = world
                .ask(token, "POST", "/api/cluster/call", "", &body)
                .await;
            assert_eq!(
                status,
                if allows { 200 } else { 403 },
                "{name} {token} {dry_run}: {answer}"
            );
        }
    }
    assert!(!ann.session.is_closed());
}

/// The same key: the same answer, and done once.
#[tokio::test]
async fn a_repeated_request_is_carried_out_once() {
    let world = World::start().await;
    let mut ann = world.client(0, "ann").await;
    let push = |n: u32| {
        json!({"commands": [{"push": {"to": {"uid": "ann"}, "route": "onNews", "body": n}}]})
            .to_string()
    };
    let ask = async |token: &str, key: &str, body: &str| {
        let head = format!("idempotency-key: {key}\r\n");
        world
            .ask(token, "POST", "/api/cluster/call", &head, body)
            .await
    };
    let first = ask(PUSH, "k", &push(1)).await;
    assert_eq!(first.1["results"][0]["ok"]["done"], 1);
    assert_eq!(ask(PUSH, "k", &push(1)).await, first);
    assert_eq!(ann.drain().len(), 1);
    let (status, answer) = ask(PUSH, "k", &push(2)).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (422, &json!("idempotency_key_reused"))
    );
    assert_eq!(ask(OPERATE, "k", &push(2)).await.0, 200, "another caller");
    assert_eq!(ask(PUSH, &"k".repeat(256), &push(1)).await.0, 400);
    assert_eq!(ann.drain().len(), 1);
    assert_eq!(world.audited().len(), 2);
}

/// So many a second: the answer names a job, which ends when all are gone, or is stopped.
#[expect(clippy::too_many_lines, reason = "one story")]
#[tokio::test]
async fn paced_commands() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for n in 0..40 {
        clients.push(world.client(n % 2, &format!("user{n}")).await);
    }
    let start = async |per_second: u64| {
        let kick = json!({"kick": {"to": {"all": true}}});
        let (_, answer) = world
            .call(&json!({"commands": [kick], "per_second": per_second}))
            .await;
        answer["results"][0]["ok"].clone()
    };
    let begun = start(1).await;
    assert_eq!(
        (&begun["matched"], begun.get("done")),
        (&json!(40), None),
        "{begun}"
    );
    assert_eq!(world.metric("shaddock_admin_jobs"), "1");
    let path = format!("/api/cluster/jobs/{}", begun["job"].as_str().unwrap());
    let (status, stopped) = world
        .ask(OPERATE, "POST", &format!("{path}/stop"), "", "{}")
        .await;
    assert_eq!((status, &stopped["running"]), (200, &json!(false)));
    assert_eq!(world.metric("shaddock_admin_jobs"), "0");
    assert!(stopped["left"].as_u64().unwrap() > 0, "{stopped}");
    let left = clients
        .iter()
        .filter(|one| !one.session.is_closed())
        .count();
    assert!(left > 0);
    let of_job = |job: &Value| -> Vec<Value> {
        let lines = world.audited().into_iter();
        lines.filter(|line| line["job"] == *job).collect()
    };
    eventually("its last line", || of_job(&begun["job"]).len() == 3).await;
    let lines = of_job(&begun["job"]);
    assert_eq!(
        (&lines[0]["command"], lines[0].get("done")),
        (&json!("kick"), None)
    );
    let of = |command: &str| lines[1..].iter().find(|line| line["command"] == command);
    assert!(of("stop_job").is_some(), "{lines:?}");
    assert_eq!(of("kick").unwrap()["error"], "it was stopped");
    assert!(lines.iter().all(|line| line["who"] == lines[0]["who"]));
    assert_eq!(
        world
            .ask(OPERATE, "POST", &format!("{path}/stop"), "", "{}")
            .await
            .0,
        200
    );
    assert_eq!(of_job(&begun["job"]).len(), 3, "it was stopped before");

    let begun = start(20).await;
    let job = begun["job"].as_str().unwrap_or_default().to_owned();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !clients.iter().all(|one| one.session.is_closed()) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it does not end: {begun}"
        );
        breathe().await;
    }
    if !job.is_empty() {
        let path = format!("/api/cluster/jobs/{job}");
        loop {
            assert!(tokio::time::Instant::now() < deadline, "it does not end");
            let (_, status) = world.ask(READ, "GET", &path, "", "").await;
            if status["running"] == json!(false) {
                assert_eq!(
                    (&status["left"], &status["failed"]),
                    (&json!(0), &json!(0)),
                    "{status}"
                );
                break;
            }
        }
    }
    if begun["job"].is_string() {
        eventually("its last line", || of_job(&begun["job"]).len() == 2).await;
        let last = &of_job(&begun["job"])[1];
        assert_eq!(
            (&last["done"], &last["matched"]),
            (&begun["matched"], &begun["matched"]),
            "{last}"
        );
        assert!(last.get("error").is_none(), "{last}");
    }
    // Those that are named are meant, also if there are no others.
    let _last = [world.client(0, "ann").await, world.client(1, "bob").await];
    let kick = json!({"kick": {"to": {"uids": ["ann", "bob"]}}});
    let (_, answer) = world
        .call(&json!({"commands": [kick], "per_second": 2}))
        .await;
    assert_eq!(answer["results"][0]["ok"]["done"], 2, "{answer}");
    assert_eq!(
        world
            .ask(READ, "GET", "/api/cluster/jobs/99", "", "")
            .await
            .0,
        404
    );
}

/// A service that calls the server API while its session waits for its response: there is no deadlock.
#[tokio::test]
async fn a_backend_calls_from_inside_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/shaddock", listener.local_addr().unwrap());
    let world = World::with(|app, _| {
        let mut backend = HttpBackend::new([&url]).unwrap();
        backend.timeout = Duration::from_secs(60);
        backend.connect_timeout = backend.timeout;
        if app.server_type() == "connector" {
            app.http_backend("chat", backend);
        }
    })
    .await;
    let address = world.address;
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"}") {
            let mut more = [0; 4096];
            let read = stream.read(&mut more).await.unwrap();
            asked.extend_from_slice(&more[..read]);
        }
        let text = String::from_utf8(asked).unwrap();
        let call: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        let to = json!({"sid": call["session"]["sid"]});
        let commands = json!({"commands": [
            {"set": {"to": to, "values": {"level": 3}}},
            {"push": {"to": to, "route": "onLevel", "body": 3}},
            {"unbind": {"to": to}},
            {"bind": {"to": to, "uid": "eve"}},
        ]});
        let (_, answer) = ask(
            address,
            OPERATE,
            "POST",
            "/api/cluster/call",
            "",
            &commands.to_string(),
        )
        .await;
        let body = json!({"body": answer["results"]}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    });
    let mut ann = world.client(0, "ann").await;
    drive(ann.start(Some(1), "chat.room.up", "{}")).await;
    assert_eq!(ann.wait_push("onLevel").await, json!(3));
    let (results, is_error) = ann.wait_answer(1).await;
    assert!(!is_error, "{results}");
    for result in results.as_array().unwrap() {
        assert_eq!(result["ok"]["done"], 1, "{results}");
    }
    assert_eq!(ann.session.uid(), Some(uid("eve")));
    assert_eq!(ann.session.settings().get("level"), Some(&json!(3)));
    service.await.unwrap();
}

/// A disk that takes nothing loses no line silently: each is in the log of the process, and counted.
#[tokio::test]
async fn lines_that_are_not_in_the_audit_log_are_counted() {
    let world = World::start().await;
    let set = json!({"set": {"to": {"all": true}, "values": {"a": 1}}});
    world.one(set.clone()).await.unwrap();
    assert_eq!(world.audited().len(), 1);
    let lost = || world.metric("shaddock_admin_audit_lost_total");
    assert_eq!(lost(), "0");
    // Nothing can be appended to a directory.
    std::fs::remove_file(&world.audit).unwrap();
    std::fs::create_dir(&world.audit).unwrap();
    world.one(set).await.unwrap();
    assert_eq!(lost(), "1");
    std::fs::remove_dir(&world.audit).unwrap();
}

/// What does not fit the schema, with the place.
fn misfits(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(to) = schema["$ref"].as_str() {
        let schema = document.pointer(to.trim_start_matches('#')).unwrap();
        return misfits(document, schema, value, place, found);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !kinds.contains(&kind) {
        found.push(format!("{place} is {kind}, not {kinds:?}"));
    }
    for item in value.as_array().into_iter().flatten() {
        misfits(
            document,
            &schema["items"],
            item,
            &format!("{place}[]"),
            found,
        );
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if value.get(name).is_none() {
            found.push(format!("{place}.{name} is not there"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match (
            schema["properties"].get(name),
            schema.get("additionalProperties"),
        ) {
            (Some(schema), _) | (None, Some(schema)) => {
                misfits(document, schema, member, &place, found);
            }
            (None, None) if schema.get("properties").is_some() => {
                found.push(format!("{place} is not in the document"));
            }
            // An object of which nothing is promised.
            (None, None) => {}
        }
    }
}

/// Every route of the document is asked, and its answer is what the document promises, no less and no more.
#[tokio::test]
async fn answers_match_the_openapi_document() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for name in ["ann", "bob", "cid", "dan", "eve", "fay"] {
        clients.push(world.client(0, name).await);
    }
    clients.push(Client::connect(&world.running.apps()[1]));
    let sid = clients[0].sid().to_string();
    let (_, document) = world.ask(READ, "GET", "/api/openapi.json", "", "").await;
    let join = json!({"join": {"to": {"where": "uid != null"}, "topic": "lobby"}});
    assert_eq!(world.one(join).await.unwrap()["done"], 6);
    let (_, audiences) = world
        .ask(READ, "GET", "/api/cluster/audiences", "", "")
        .await;
    let key = audiences["audiences"][0]["key"].as_str().unwrap();
    let slow = json!({"commands": [{"unbind": {"to": {"all": true}}}], "per_second": 1});
    let (_, answer) = world.call(&slow).await;
    let job = answer["results"][0]["ok"]["job"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let body = match path.as_str() {
                "/api/cluster/call" => json!({"commands": [
                    {"count": {"to": {"all": true}}},
                    {"push": {"to": {"all": true}, "route": "onNews", "body": 1}},
                    {"bind": {"to": {"sid": sid}, "uid": "ann"}},
                    {"kick": {"to": {"where": "age >= 0s"}}},
                ]}),
                "/api/kick" | "/api/cluster/kick" => json!({"uid": "fay"}),
                "/api/cluster/drain" => json!({"server": "connector-1", "whole_process": true}),
                _ => json!({}),
            };
            let at = path
                .replace("jobs/{id}", &format!("jobs/{job}"))
                .replace("servers/{id}", "servers/connector-1")
                .replace("{sid}", &sid)
                .replace("/members", &format!("/members?key={key}"));
            if at.ends_with("/config") {
                // No launcher has a configuration here.
                continue;
            }
            let method = method.to_uppercase();
            let sent = if method == "GET" {
                String::new()
            } else {
                body.to_string()
            };
            let (status, answer) = world.ask(OPERATE, &method, &at, "", &sent).await;
            let promised = &operation["responses"][status.to_string()]["content"];
            assert!(promised.is_object(), "{method} {at}: {status} {answer}");
            asked += 1;
            let Some(schema) = promised["application/json"].get("schema") else {
                assert_eq!(path, "/metrics");
                continue;
            };
            let mut found = Vec::new();
            misfits(&document, schema, &answer, path, &mut found);
            assert!(found.is_empty(), "{found:#?} {answer}");
            let says_nothing = *schema == json!({"type": "object"});
            assert_eq!(says_nothing, path == "/api/openapi.json", "{path}");
        }
    }
    assert!(asked >= 23, "{asked}");
}
