//! What an operator has: the admin API, metrics and the drain, against running servers with clients on real sockets.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use shaddock::{
    admin::{Admin, AdminRequest},
    app::Running,
    config::{Config, Sources},
    launch::Launcher,
    operations::Operations,
    prelude::*,
    shutdown::drain,
};
use shaddock_client::{Client, CloseKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
};

use crate::wait::{PATIENCE, eventually, until};

async fn login(
    mut session: SessionView,
    Json(body): Json<Value>,
) -> Result<Json<Value>, HandlerError> {
    session
        .bind(Uid::new(body["uid"].as_str().unwrap_or_default())?)
        .await?;
    session.set("level", 7);
    session.push("level").await?;
    Ok(Json(
        json!({ "sid": session.id().map(|sid| sid.to_string()) }),
    ))
}

/// The signal that `think` awaits.
struct Gate(Semaphore);

async fn think(State(gate): State<Gate>) -> Json<&'static str> {
    let permit = gate.0.acquire().await;
    permit.unwrap().forget();
    Json("done")
}

/// Two frontends and an admin server.
struct World {
    running: Running,
    operations: Operations,
    admin: SocketAddr,
    server: JoinHandle<()>,
    config: Config,
    gate: Arc<Gate>,
}

impl World {
    async fn start(flags: &[&str]) -> Self {
        let sources = flags
            .iter()
            .fold(Sources::default(), |sources, flag| sources.flag(*flag));
        let launcher = Launcher::new(sources).unwrap();
        let operations = launcher.operations();
        let config = launcher.config().clone();
        let any = ([127, 0, 0, 1], 0).into();
        let admin = Admin::bind(any, &config.admin, operations.clone())
            .await
            .unwrap();
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        let mut servers = Servers::new().workers(1);
        let gate = Arc::new(Gate(Semaphore::new(0)));
        for id in ["front-1", "front-2"] {
            let mut app = App::new("front", id);
            launcher.configure(&mut app);
            app.listen_with(config.listen_config(any));
            app.set_shared(Arc::clone(&gate));
            app.route("user.login", login);
            app.route("user.think", think);
            for_operators(&mut app);
            servers = servers.add(app);
        }
        let (status, _) = call(address, "GET", "/readyz", "", None).await;
        assert_eq!(status, 503, "not ready before it runs");
        let running = servers.start().await.unwrap();
        operations.running(running.apps());
        Self {
            running,
            operations,
            admin: address,
            server,
            config,
            gate,
        }
    }

    /// A client of that frontend, logged in, and its session id.
    async fn client(&self, frontend: &str, uid: &str) -> (Client, String) {
        let address = self.running.address(frontend).unwrap();
        let client = Client::connect(&format!("tcp://{address}")).await.unwrap();
        let answer: Value = client
            .request("front.user.login", &json!({ "uid": uid }))
            .await
            .unwrap();
        let sid = answer["sid"].as_str().unwrap().to_owned();
        (client, sid)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = call(self.admin, "GET", path, "", None).await;
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let json = "Content-Type: application/json\r\n";
        let (status, text) = call(self.admin, "POST", path, json, Some(&body.to_string())).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    async fn uids(&self, query: &str) -> Vec<String> {
        let (status, page) = self.get(&format!("/api/sessions?{query}")).await;
        assert_eq!(status, 200, "{page}");
        let sessions = page["sessions"].as_array().unwrap();
        let uid = |session: &Value| session["uid"].as_str().unwrap().to_owned();
        sessions.iter().map(uid).collect()
    }

    async fn end(self) {
        self.running.shutdown().await;
        self.server.abort();
    }
}

/// One HTTP exchange. `head` are more header lines.
async fn call(
    admin: SocketAddr,
    method: &str,
    path: &str,
    head: &str,
    body: Option<&str>,
) -> (u16, String) {
    let host = if head.contains("Host:") {
        String::new()
    } else {
        format!("Host: {admin}\r\n")
    };
    let body = body.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_filtered_and_shown() {
    let world = World::start(&[]).await;
    assert_eq!(world.get("/healthz").await.0, 200);
    assert_eq!(world.get("/readyz").await.0, 200);
    let (ann, ann_sid) = world.client("front-1", "ann").await;
    let (_bob, _) = world.client("front-2", "bob").await;
    let (_ann2, _) = world.client("front-2", "ann").await;

    assert_eq!(world.uids("").await.len(), 3);
    assert_eq!(world.uids("uid=ann").await, ["ann", "ann"]);
    assert_eq!(world.uids("uid=ann&frontend=front-1").await, ["ann"]);
    assert_eq!(world.uids("frontend=front-2").await.len(), 2);
    assert_eq!(world.uids("transport=ws").await.len(), 0);
    assert_eq!(
        world.uids("transport=tcp&address=127.0.0.0/8").await.len(),
        3
    );
    assert_eq!(world.uids("address=10.0.0.1").await.len(), 0);
    // By what the clients said of themselves.
    let browser = Client::builder()
        .client("browser", "9.1")
        .user(json!({"token": "secret"}))
        .connect(&format!(
            "tcp://{}",
            world.running.address("front-1").unwrap()
        ))
        .await
        .unwrap();
    let found = async |query: &str| {
        let (_, page) = world.get(&format!("/api/sessions?{query}")).await;
        page["sessions"].as_array().unwrap().clone()
    };
    // Its session begins when the server has its acknowledgement.
    eventually("the browser is there", async || {
        found("client=browser&version=9.1").await.len() == 1
    })
    .await;
    let one = found("client=browser&version=9.1").await;
    assert_eq!(
        one[0]["client"],
        json!({"kind": "browser", "version": "9.1"})
    );
    assert_eq!(found("client=browser&version=9.2").await.len(), 0);
    assert_eq!(found("platform=ios").await.len(), 0);
    let sid = one[0]["sid"].as_str().unwrap();
    let (_, one) = world.get(&format!("/api/sessions/{sid}")).await;
    assert_eq!(
        one["client"],
        json!({"kind": "browser", "version": "9.1"}),
        "no token is shown, also where one session is asked for"
    );
    browser.close().await;
    eventually("the browser is gone", async || {
        found("client=browser").await.is_empty()
    })
    .await;

    // Page by page, in the order of ids, each session once.
    let (mut sids, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = world.get(&format!("/api/sessions?limit=1{after}")).await;
        assert_eq!(page["total"], 3);
        sids.push(page["sessions"][0]["sid"].as_str().unwrap().to_owned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(sids.len(), 3);
    assert!(sids.is_sorted_by_key(|sid| sid.parse::<u64>().unwrap()));

    let (_, one) = world.get(&format!("/api/sessions/{ann_sid}")).await;
    assert_eq!(one["sid"], json!(ann_sid), "a sid is text");
    assert_eq!(one["settings"], json!({ "level": 7 }));
    assert_eq!(
        (&one["uid"], &one["transport"]),
        (&json!("ann"), &json!("tcp"))
    );
    // The first request may have come in one piece with the handshake, before there was a session to count for.
    let again = json!({ "uid": "ann" });
    let _: Value = ann.request("front.user.login", &again).await.unwrap();
    eventually("bytes and messages are counted", async || {
        let (_, one) = world.get(&format!("/api/sessions/{ann_sid}")).await;
        let is_some = |key: &str| one[key].as_u64().is_some_and(|n| n > 0);
        is_some("bytes_in") && is_some("bytes_out") && is_some("messages_in")
    })
    .await;
    drop(ann);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kicks_reach_users_sessions_and_addresses() {
    let world = World::start(&[]).await;
    let (ann1, _) = world.client("front-1", "ann").await;
    let (ann2, _) = world.client("front-2", "ann").await;
    let (bob, bob_sid) = world.client("front-1", "bob").await;
    let (carol, _) = world.client("front-2", "carol").await;
    let kick = async |body: Value| world.post("/api/kick", &body).await;
    let told = |reason: &str| CloseKind::Kicked {
        reason: Some(reason.to_owned()),
    };

    assert_eq!(
        kick(json!({ "uid": "ann", "reason": "twice" })).await,
        (200, json!({ "kicked": 2 }))
    );
    assert_eq!(ann1.closed().await, told("twice"));
    assert_eq!(ann2.closed().await, told("twice"));
    assert_eq!(
        kick(json!({ "uid": "ann" })).await,
        (200, json!({ "kicked": 0 }))
    );
    assert_eq!(
        kick(json!({ "sid": bob_sid })).await,
        (200, json!({ "kicked": 1 }))
    );
    assert_eq!(bob.closed().await, told("kicked by an operator"));
    assert_eq!(
        kick(json!({ "address": "127.0.0.1" })).await,
        (200, json!({ "kicked": 1 }))
    );
    assert!(matches!(carol.closed().await, CloseKind::Kicked { .. }));
    assert_eq!(world.uids("").await.len(), 0);

    for (body, hint) in [
        (json!({}), "exactly one of"),
        (json!({ "uid": "a", "sid": "1" }), "exactly one of"),
        (json!({ "sid": "x" }), "not a session id"),
        (json!({ "address": "nowhere" }), "192.0.2.7"),
        (json!({ "user": "ann" }), "unknown field"),
        (
            json!({ "uid": "a", "reason": "x".repeat(300) }),
            "at most 256",
        ),
    ] {
        let (status, answer) = kick(body.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(
            (400..500).contains(&status) && message.contains(hint),
            "{body}: {status} {message}"
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_in_one_process_is_seen_whole() {
    let world = World::start(&[]).await;
    let (ann, ann_sid) = world.client("front-1", "ann").await;
    let (bob, _) = world.client("front-2", "bob").await;

    let (status, overview) = world.get("/api/cluster/servers").await;
    assert_eq!(status, 200, "{overview}");
    let servers = overview["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    for (server, other) in [(&servers[0], "front-2"), (&servers[1], "front-1")] {
        assert_eq!(
            (&server["state"], &server["sessions"], &server["in_flight"]),
            (&json!("running"), &json!(1), &json!(0)),
            "{server}"
        );
        assert_eq!(server["process_shared_with"], json!([other]));
        assert_eq!(
            (&server["here"], &server["listed"]),
            (&json!(true), &json!(true))
        );
    }
    let (_, one) = world.get("/api/cluster/servers/front-2").await;
    assert_eq!((&one["id"], &one["users"]), (&json!("front-2"), &json!(1)));
    assert_eq!(world.get("/api/cluster/servers/front-3").await.0, 404);

    let (_, page) = world.get("/api/cluster/sessions?frontend=front-2").await;
    assert_eq!(
        (&page["total"], &page["sessions"][0]["uid"]),
        (&json!(1), &json!("bob"))
    );
    let (_, one) = world.get(&format!("/api/cluster/sessions/{ann_sid}")).await;
    assert_eq!(one["settings"], json!({ "level": 7 }));
    for (path, status) in [
        ("sessions?frontend=front-3", 404),
        ("sessions?address=nowhere", 400),
        ("sessions/1", 404),
        ("sessions/x", 400),
    ] {
        assert_eq!(
            world.get(&format!("/api/cluster/{path}")).await.0,
            status,
            "{path}"
        );
    }

    let kick = async |body: Value| world.post("/api/cluster/kick", &body).await;
    let (status, kicked) = kick(json!({ "sid": ann_sid, "reason": "bye" })).await;
    assert_eq!(
        (status, kicked),
        (
            200,
            json!({ "kicked": 1, "by_frontend": { "front-1": 1 }, "unanswered": [] })
        )
    );
    let bye = CloseKind::Kicked {
        reason: Some("bye".to_owned()),
    };
    assert_eq!(ann.closed().await, bye);
    assert_eq!(kick(json!({})).await.0, 400);
    assert_eq!(kick(json!({ "uid": "ann" })).await.1["kicked"], 0);
    assert_eq!(bob.close_kind(), None);

    // Others live in the process of that server.
    let drain = async |body: Value| world.post("/api/cluster/drain", &body).await;
    let (status, refused) = drain(json!({ "server": "front-1" })).await;
    let text = refused["error"]["message"].as_str().unwrap();
    assert!(status == 409 && text.contains("front-2"), "{refused}");
    assert_eq!(drain(json!({ "server": "front-3" })).await.0, 404);
    let (status, started) = drain(json!({ "server": "front-1", "whole_process": true })).await;
    assert_eq!(
        (status, &started["sessions"]),
        (202, &json!(1)),
        "{started}"
    );
    world.operations.drain_requested().await;
    world.end().await;
}

/// Reads OpenMetrics as strictly as its specification wants it to be read.
fn strict(text: &str) {
    use std::collections::{BTreeMap, BTreeSet};

    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples: BTreeSet<&str> = BTreeSet::new();
    // Of each histogram: the last bound and number of its buckets, and its count.
    let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    let mut family = "";
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name, kind).is_none(), "{name} comes twice");
            family = name;
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(
                !help.is_empty() && (name == family || !families.contains_key(name)),
                "{line}"
            );
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(samples.insert(series), "{series} comes twice");
        let number: f64 = value.parse().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect("labels end");
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{line} is not of {family}"));
        let suffixes: &[&str] = match families[family] {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            kind => panic!("{kind}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(number >= 0.0, "{line}");
        let mut others = Vec::new();
        let mut bound = None;
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(
                key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{line}"
            );
            match key {
                "le" => bound = Some(value.trim_end_matches('"')),
                _ => others.push(label.trim_end_matches('"')),
            }
        }
        let whose = format!("{family} {others:?}");
        match suffix {
            "_bucket" => {
                let bound = match bound.expect("a bucket has a bound") {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().unwrap(),
                };
                let last = buckets.insert(whose, (bound, number));
                let grows = last.is_none_or(|(before, n)| before < bound && n <= number);
                assert!(grows, "{line}");
            }
            "_count" => drop(counts.insert(whose, number)),
            _ => assert!(bound.is_none(), "{line}"),
        }
    }
    assert!(!counts.is_empty() && counts.len() == buckets.len());
    for (whose, count) in counts {
        assert_eq!(buckets[&whose], (f64::INFINITY, count), "{whose}");
    }
    for name in [
        "process_cpu_seconds",
        "process_start_time_seconds",
        "process_max_fds",
    ] {
        assert!(families.contains_key(name), "{name} is missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_stats_count() {
    let world = World::start(&["access.max_connections=1"]).await;
    let (_ann, _) = world.client("front-1", "ann").await;
    let address = world.running.address("front-1").unwrap();
    assert!(
        Client::connect(&format!("tcp://{address}")).await.is_err(),
        "one is the limit"
    );

    // Of both servers, and one that two of them use differently.
    for app in world.running.apps() {
        app.metrics().counter("matches", "Matches begun").add(3);
    }
    let [one, other] = world.running.apps() else {
        panic!("there are two")
    };
    let called: Result<Value, _> = one.rpc("front.no.remote").to("front-2").call(&1).await;
    assert!(called.is_err());
    one.metrics().gauge("waiting", "Who waits").set(2);
    other.metrics().counter("waiting", "Who waits").add(1);
    let (status, text) = call(world.admin, "GET", "/metrics", "", None).await;
    assert_eq!(status, 200);
    let value = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start}\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let of = r#"{server="front-1",server_type="front""#;
    assert_eq!(value("shaddock_ready"), "1");
    assert_eq!(value(&format!("shaddock_sessions{of}")), "1");
    assert_eq!(value(&format!("shaddock_bound_sessions{of}")), "1");
    assert_eq!(value(&format!("shaddock_connections{of}")), "1");
    assert_eq!(value(&format!("shaddock_requests_total{of}")), "1");
    assert_eq!(value(&format!("shaddock_slow_clients_total{of}")), "0");
    let refused = format!(
        r#"shaddock_connections_refused_total{of},listener="{address}",reason="too_many_connections"}}"#
    );
    assert_eq!(value(&refused), "1");
    let handled = format!(r#"shaddock_handler_seconds_count{of},route="user.login"}}"#);
    assert_eq!(value(&handled), "1");
    for server in ["front-1", "front-2"] {
        let matches = format!(r#"matches_total{{server="{server}",server_type="front"}}"#);
        assert_eq!(value(&matches), "3");
    }
    assert_eq!(value(&format!("waiting{of}")), "2");
    for (metric, expected) in [
        ("connected", "1"),
        ("listed", "1"),
        ("fenced", "0"),
        ("forward_seconds_count", "0"),
        ("rpc_seconds_count", "1"),
    ] {
        assert_eq!(value(&format!("shaddock_cluster_{metric}{of}")), expected);
    }
    let members = format!(r#"shaddock_cluster_members{of},member_type="front"}}"#);
    assert_eq!(value(&members), "2");
    for (reason, expected) in [("no_server", "0"), ("remote", "1"), ("timeout", "0")] {
        let failed = format!(r#"shaddock_cluster_rpc_errors_total{of},reason="{reason}"}}"#);
        assert_eq!(value(&failed), expected);
    }
    // What a quantile is computed from ends with everything.
    let everything = text.lines().find(|line| {
        let parts = [
            "handler_seconds_bucket{",
            "le=\"+Inf\"",
            "front-1",
            "user.login",
        ];
        parts.iter().all(|part| line.contains(part))
    });
    assert!(
        everything.is_some_and(|line| line.ends_with(" 1")),
        "{everything:?}"
    );
    strict(&text);
    assert!(
        value("process_resident_memory_bytes")
            .parse::<u64>()
            .unwrap()
            > 1 << 20
    );

    let (_, report) = world.get("/api/stats").await;
    assert_eq!(report["phase"], "running");
    assert_eq!(report["servers"][0]["sessions"], 1);
    assert_eq!(report["servers"][0]["refused"]["too_many_connections"], 1);
    let (_, servers) = world.get("/api/servers").await;
    assert_eq!(servers["servers"].as_array().unwrap().len(), 2);
    assert_eq!(servers["servers"][0]["addresses"][0], json!(address));
    assert_eq!(servers["servers"][0]["here"], true);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_has_routes_for_operators() {
    let world = World::start(&[]).await;
    for (path, status, answer) in [
        (
            "front-1/level",
            200,
            json!({"app": "front-1", "level": null, "post": false}),
        ),
        (
            "front-2/level?level=7&x=1",
            200,
            json!({"app": "front-2", "level": "7", "post": false}),
        ),
        // By type: the first of them.
        (
            "front/level",
            200,
            json!({"app": "front-1", "level": null, "post": false}),
        ),
        ("front-1/nothing", 204, json!("")),
    ] {
        let (was, body) = world.get(&format!("/api/app/{path}")).await;
        assert_eq!((was, body), (status, answer), "{path}");
    }
    for (path, status, code, text) in [
        ("front-3/level", 404, "not_found", "front-1"),
        ("front-1/other", 404, "not_found", "level"),
        ("front-1/fail/app", 400, "SHOP-1", "no gold"),
        ("front-1/fail/missing", 404, "PIT-404", "no such room"),
        ("front-1/fail/fault", 500, "PIT-500", "internal error"),
        ("front-1/fail/panic", 500, "PIT-000", "failed"),
    ] {
        let (was, body) = world.get(&format!("/api/app/{path}")).await;
        assert_eq!(
            (was, &body["error"]["code"]),
            (status, &json!(code)),
            "{path}"
        );
        assert!(
            body["error"]["message"].as_str().unwrap().contains(text),
            "{body}"
        );
    }
    let path = "/api/app/front-1/sum";
    assert_eq!(world.post(path, &json!([1, 2, 3])).await, (200, json!(6)));
    let (status, body) = world.post(path, &json!({})).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("PIT-400")),
        "{body}"
    );
    // As everything else here, not for pages of others.
    let (status, _) = call(world.admin, "POST", path, "", Some("[1]")).await;
    assert_eq!(status, 415);
    let (status, _) = call(world.admin, "GET", path, "Host: evil.example\r\n", None).await;
    assert_eq!(status, 403);
    world.end().await;
}

/// Routes of the application for operators.
fn for_operators(app: &mut App) {
    app.admin_route("level", async |app: AppHandle, request: AdminRequest| {
        let (level, post) = (request.query("level"), request.is_post());
        Json(json!({"app": app.id(), "level": level, "post": post}))
    });
    app.admin_route("nothing", async |_, _| ());
    app.admin_route("sum", async |_, request: AdminRequest| {
        assert!(request.is_post());
        let numbers: Vec<u64> = request.json()?;
        Ok::<_, HandlerError>(Json(numbers.iter().sum::<u64>()))
    });
    app.admin_route("fail/app", async |_, _| {
        HandlerError::new("SHOP-1", "no gold")
    });
    app.admin_route("fail/missing", async |_, _| {
        HandlerError::not_found("no such room")
    });
    app.admin_route("fail/fault", async |_, _| {
        HandlerError::internal("a secret")
    });
    app.admin_route("fail/panic", async |_, request: AdminRequest| {
        assert!(request.is_post(), "expected in this test");
    });
}

#[test]
fn paths_of_operators_are_checked() {
    for bad in [
        "", "/", "/rooms", "rooms/", "a//b", "a b", "{x}", "../x", "a?b",
    ] {
        let add = || {
            App::new("front", "front-1").admin_route(bad, async |_, _| ());
        };
        assert!(std::panic::catch_unwind(add).is_err(), "{bad}");
    }
    let twice = || {
        let mut app = App::new("front", "front-1");
        app.admin_route("a/b", async |_, _| ());
        app.admin_route("a/b", async |_, _| ());
    };
    assert!(std::panic::catch_unwind(twice).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_pages_of_strangers_are_kept_out() {
    let world = World::start(&[]).await;
    let get = async |head: &str| {
        call(world.admin, "GET", "/api/sessions", head, None)
            .await
            .0
    };
    assert_eq!(get("").await, 200);
    assert_eq!(get("Host: evil.example\r\n").await, 403, "DNS rebinding");
    assert_eq!(get("Origin: http://evil.example\r\n").await, 403);
    let body = Some(r#"{"uid":"x"}"#);
    let post = async |head: &str| call(world.admin, "POST", "/api/kick", head, body).await.0;
    assert_eq!(
        post("Content-Type: text/plain\r\n").await,
        415,
        "a form of another site"
    );
    assert_eq!(post("Content-Type: application/json\r\n").await, 200);
    let (status, answer) = world.get("/api/nothing").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (404, &json!("not_found"))
    );
    let (status, _) = world.get("/api/sessions?colour=red").await;
    assert_eq!(status, 400);
    world.end().await;

    let world = World::start(&["admin.token=0123456789abcdef"]).await;
    let get = async |path: &str, head: &str| call(world.admin, "GET", path, head, None).await.0;
    assert_eq!(get("/readyz", "").await, 200, "probes need no token");
    for path in [
        "/metrics",
        "/api/sessions",
        "/api/stats",
        "/api/cluster/servers",
        "/nothing",
    ] {
        assert_eq!(get(path, "").await, 401, "{path}");
        assert_eq!(
            get(path, "Authorization: Bearer 0123456789abcdeX\r\n").await,
            401
        );
    }
    assert_eq!(
        get("/metrics", "Authorization: Bearer 0123456789abcdef\r\n").await,
        200
    );
    world.end().await;
}

#[tokio::test]
async fn an_open_address_needs_a_token() {
    let config = Config::default();
    let everybody = ([0, 0, 0, 0], 0).into();
    let error = Admin::bind(everybody, &config.admin, Operations::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("admin.token"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_notifies_clients_and_closes_them_in_waves() {
    let flags = [
        "drain.delay=5s",
        "drain.spread=400ms",
        "drain.wave_interval=100ms",
    ];
    let world = World::start(&flags).await;
    let mut clients = Vec::new();
    for n in 0..8 {
        let frontend = if n % 2 == 0 { "front-1" } else { "front-2" };
        clients.push(world.client(frontend, &format!("user{n}")).await.0);
    }
    let (status, answer) = world.post("/api/drain", &json!({})).await;
    assert_eq!(
        (status, answer),
        (202, json!({ "draining": true, "sessions": 8 }))
    );
    world.operations.drain_requested().await;

    let World {
        running,
        operations,
        admin,
        server,
        config,
        ..
    } = world;
    let address = running.address("front-1").unwrap();
    let draining = tokio::spawn(async move { drain(running, &config.drain, &operations).await });
    eventually("it is not ready", async || {
        let (status, text) = call(admin, "GET", "/readyz", "", None).await;
        (status, text.as_str()) == (503, "draining\n")
    })
    .await;
    assert!(
        clients.iter().all(|client| client.close_kind().is_none()),
        "the delay serves on"
    );

    for client in &clients {
        let kind = client.closed().await;
        assert_eq!(
            kind,
            CloseKind::Kicked {
                reason: Some("draining".to_owned())
            }
        );
    }
    assert!(draining.await.unwrap(), "within its deadline");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody new is let in"
    );
    server.abort();
}

/// A drain of one session, whose request is answered while it drains, or never: what becomes of the request.
async fn drain_while_working(deadline: &str, answers: bool) -> Option<Value> {
    let deadline = format!("drain.deadline={deadline}");
    let world = World::start(&["drain.spread=0s", &deadline]).await;
    let (client, _) = world.client("front-1", "user").await;
    let answer = tokio::spawn(async move {
        let answer = client.request("front.user.think", &json!({})).await;
        (answer.ok(), client.closed().await)
    });
    // The request is at work before the drain begins.
    let is_at_work = || {
        let services = world.running.apps().iter();
        let mut services = services.filter_map(|app| app.session_service());
        services.any(|service| {
            let mut working = false;
            service.visit_sessions(|session| working |= session.is_working());
            working
        })
    };
    until("the request is at work", is_at_work).await;
    let World {
        running,
        operations,
        admin,
        server,
        config,
        gate,
    } = world;
    let draining = tokio::spawn(async move { drain(running, &config.drain, &operations).await });
    if answers {
        eventually("it drains", async || {
            call(admin, "GET", "/readyz", "", None).await.0 == 503
        })
        .await;
        assert!(!answer.is_finished());
        gate.0.add_permits(1);
    }
    let drained = tokio::time::timeout(PATIENCE, draining).await;
    drained.expect("the drain ends").unwrap();
    let (answer, end) = answer.await.unwrap();
    let reason = Some("draining".to_owned());
    assert_eq!(end, CloseKind::Kicked { reason });
    server.abort();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_an_answer_gets_it_before_the_drain_closes_it() {
    let answer = drain_while_working("300s", true).await;
    assert_eq!(answer, Some(json!("done")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_ever_for_an_answer() {
    assert_eq!(drain_while_working("2s", false).await, None);
}
