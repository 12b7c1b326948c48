//! What the console asks: its page, and the parts of the API that were made for it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use shaddock::{
    admin::Admin, cluster::LocalCluster, config::Sources, launch::Launcher, operations::Operations,
    prelude::*, session::CloseReason,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::support::{Client, frontend, login, wait::eventually};

const OPERATE: &str = "operate-operate-operate";
const PUSH: &str = "push-push-push-push-push";
const READ: &str = "read-read-read-read-read";
const TOKENS: [&str; 3] = [
    "admin.token=operate-operate-operate",
    "admin.push_tokens=push-push-push-push-push",
    "admin.read_tokens=read-read-read-read-read",
];

/// Two frontends and an admin server.
struct World {
    running: Running,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn start() -> Self {
        Self::with(&TOKENS, |_| {}).await
    }

    async fn with(flags: &[&str], change: impl Fn(&mut App)) -> Self {
        // A machine with too much to do is slow, and still right.
        let patient = Sources::default().flag("admin.cluster_timeout=8s");
        let sources = flags.iter().fold(patient, |all, flag| all.flag(*flag));
        let launcher = Launcher::new(sources).unwrap();
        let operations: Operations = launcher.operations();
        let any = ([127, 0, 0, 1], 0).into();
        let admin = Admin::bind(any, &launcher.config().admin, operations.clone());
        let admin = admin.await.unwrap();
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        let mut servers = Servers::new();
        for id in ["connector-1", "connector-2"] {
            let mut app = frontend(id);
            launcher.configure(&mut app);
            app.route("h.echo", async |Json(body): Json<Value>| Json(body));
            app.route("h.fail", async || {
                Err::<(), _>(HandlerError::bad_request("no"))
            });
            change(&mut app);
            servers = servers.add(app);
        }
        let running = servers.cluster(LocalCluster::new()).start().await.unwrap();
        operations.running(running.apps());
        Self {
            running,
            address,
            server,
        }
    }

    fn app(&self, number: usize) -> &AppHandle {
        &self.running.apps()[number]
    }

    async fn login(&self, number: usize, name: &str) -> Client {
        login(self.app(number), name).await
    }

    /// As someone who may look.
    async fn get(&self, path: &str) -> (u16, Value) {
        let head = format!("authorization: Bearer {READ}\r\n");
        let (status, _, body) = exchange(self.address, "GET", path, &head).await;
        let body = serde_json::from_str(&body);
        (status, body.unwrap_or(Value::Null))
    }

    async fn got(&self, path: &str) -> Value {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The message of an error.
    async fn refused(&self, path: &str) -> String {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, 400, "{path}: {answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// Status, head and body.
async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    head: &str,
) -> (u16, String, String) {
    let host = if head.to_lowercase().contains("host:") {
        String::new()
    } else {
        format!("host: {address}\r\n")
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{head}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn texts(list: &Value, key: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    let text = |item: &Value| item[key].as_str().unwrap_or_default().to_owned();
    items.map(text).collect()
}

/// The page needs no token, is told to browsers as strictly as it is made, and is not shown under a stranger's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_public_and_nothing_else_is() {
    for flags in [&TOKENS[..], &[]] {
        let world = World::with(flags, |_| {}).await;
        let get = async |path: &str, head: &str| exchange(world.address, "GET", path, head).await;
        let (status, head, body) = get("/console/", "").await;
        assert_eq!(status, 200);
        assert!(body.contains("<script type=\"module\" src=\"app.js\">"));
        for part in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(part), "{part}: {head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
        for (path, kind) in [
            ("/console/app.js", "text/javascript"),
            ("/console/style.css", "text/css"),
            ("/console/icon.svg", "image/svg+xml"),
        ] {
            let (status, head, _) = get(path, "").await;
            assert_eq!(status, 200, "{path}");
            assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        }
        for path in ["/", "/console"] {
            let (status, head, _) = get(path, "").await;
            assert!(
                status == 307 && head.contains("location: console/"),
                "{head}"
            );
        }
        let (status, _, body) = get("/console/nothing.js", "").await;
        assert!(status == 404 && body.contains("no file"), "{status} {body}");
        // A page of a stranger whose name resolves to 127.0.0.1. With tokens any name may be that of the server.
        let has_tokens = !flags.is_empty();
        let (status, ..) = get("/console/", "host: evil.example\r\n").await;
        assert_eq!(status, if has_tokens { 200 } else { 403 });
        let (status, ..) = get("/api/whoami", "").await;
        assert_eq!(status, if has_tokens { 401 } else { 200 });
        let foreign = "sec-fetch-site: cross-site\r\n";
        assert_eq!(
            get("/api/whoami", foreign).await.0,
            if has_tokens { 401 } else { 403 }
        );
    }
    let world = World::with(&["admin.console=false"], |_| {}).await;
    let (status, ..) = exchange(world.address, "GET", "/console/", "").await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_reports_its_scopes() {
    let world = World::start().await;
    for (token, scope) in [(OPERATE, "operate"), (PUSH, "push"), (READ, "read")] {
        let head = format!("authorization: Bearer {token}\r\n");
        let (status, _, body) = exchange(world.address, "GET", "/api/whoami", &head).await;
        let who: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &who["scope"]), (200, &json!(scope)));
        assert_eq!(who["servers"], json!(["connector-1", "connector-2"]));
        assert!(!body.contains(token), "{body}");
    }
    let open = World::with(&[], |_| {}).await;
    let (_, _, body) = exchange(open.address, "GET", "/api/whoami", "").await;
    let who: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&who["scope"], &who["name"]),
        (&json!("operate"), &json!("local"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_found_by_a_predicate_and_mistakes_have_a_column() {
    let world = World::start().await;
    let ann = world.login(0, "ann").await;
    let bob = world.login(1, "bob").await;
    let nobody = Client::connect(world.app(1));
    bob.session.set("level", 12).unwrap();
    for (text, sessions) in [
        ("uid%20%3D%20null", vec![&nobody]),
        ("settings.level%20%3E%3D%2010", vec![&bob]),
        ("uid%20!%3D%20null", vec![&ann, &bob]),
        ("uid%20!%3D%20null&frontend=connector-1", vec![&ann]),
        ("frontend%20%3D%20%22connector-1%22", vec![&ann]),
        ("address%20%3D%20%22127.0.0.1%22&uid=bob", vec![&bob]),
    ] {
        let mut sids: Vec<_> = sessions.iter().map(|one| one.sid()).collect();
        sids.sort_unstable();
        let sids: Vec<String> = sids.iter().map(ToString::to_string).collect();
        for path in ["/api/cluster/sessions", "/api/sessions"] {
            let page = world.got(&format!("{path}?where={text}")).await;
            assert_eq!(texts(&page["sessions"], "sid"), sids, "{path} {text}");
            assert_eq!(page["total"], json!(sids.len()));
        }
    }
    for path in ["/api/cluster/sessions", "/api/sessions"] {
        let (status, answer) = world.get(&format!("{path}?where=age%20%3E%20soon")).await;
        assert_eq!((status, &answer["error"]["column"]), (400, &json!(7)));
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("`where`, column 7: "), "{text}");
        let text = world.refused(&format!("{path}?colour=red")).await;
        assert!(text.contains("known are where, uid"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_shown_with_its_rooms() {
    let world = World::start().await;
    let ann = world.login(0, "ann").await;
    ann.session.set("level", 7).unwrap();
    let app = world.app(0);
    for topic in ["news", "arena"] {
        let body = json!({"commands": [{"join": {"to": {"uid": "ann"}, "topic": topic}}]});
        operate(&world, &body).await;
    }
    let room = app.channels().create("lobby").unwrap();
    room.add(
        &Uid::new("ann").unwrap(),
        &FrontendId::new("connector-1").unwrap(),
    )
    .await
    .unwrap();
    for path in ["/api/cluster/sessions", "/api/sessions"] {
        let shown = world.got(&format!("{path}/{}", ann.sid())).await;
        assert_eq!(shown["settings"], json!({"level": 7}));
        assert_eq!(
            texts(&shown["audiences"], "name"),
            ["lobby", "arena", "news"]
        );
        let kinds = texts(&shown["audiences"], "kind");
        assert_eq!(kinds, ["channel", "topic", "topic"]);
        assert_eq!(shown["audiences"][0]["owner"], "connector-1");
        // This client cannot come back.
        assert_eq!(shown["kept_messages"], Value::Null);
    }
    let listed = world.got("/api/cluster/sessions").await;
    assert_eq!(listed["sessions"][0]["audiences"], Value::Null);
}

/// A command of the server API.
async fn operate(world: &World, body: &Value) -> Value {
    let text = body.to_string();
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = format!(
        "POST /api/cluster/call HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPERATE}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(body).unwrap();
    assert!(answer["results"][0]["ok"].is_object(), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_topics_are_listed_with_their_members() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for (number, name) in [(0, "ann"), (1, "bob"), (1, "ann")] {
        clients.push(world.login(number, name).await);
    }
    operate(
        &world,
        &json!({"commands": [{"join": {"to": {"all": true}, "topic": "news"}}]}),
    )
    .await;
    operate(
        &world,
        &json!({"commands": [{"join": {"to": {"uid": "bob"}, "topic": "arena"}}]}),
    )
    .await;
    let all = world.got("/api/cluster/audiences").await;
    assert_eq!(texts(&all["audiences"], "name"), ["arena", "news"]);
    let news = &all["audiences"][1];
    assert_eq!(
        (&news["kind"], &news["members"]),
        (&json!("topic"), &json!(3))
    );
    assert_eq!(
        news["by_frontend"],
        json!({"connector-1": 1, "connector-2": 2})
    );
    let one = world.got("/api/cluster/audiences?limit=1").await;
    let next = one["next"].as_str().unwrap();
    assert_eq!(
        (texts(&one["audiences"], "name"), next),
        (vec!["arena".to_owned()], "t/arena")
    );
    let rest = world
        .got("/api/cluster/audiences?limit=1&after=t%2Farena")
        .await;
    assert_eq!(
        (texts(&rest["audiences"], "name"), &rest["next"]),
        (vec!["news".to_owned()], &Value::Null)
    );
    let found = world
        .got("/api/cluster/audiences?name=ews&kind=topic")
        .await;
    assert_eq!(texts(&found["audiences"], "name"), ["news"]);

    let members = world
        .got("/api/cluster/audiences/members?key=t%2Fnews")
        .await;
    assert_eq!(members["total"], 3);
    assert_eq!(
        members["members"],
        json!([
            {"uid": "ann", "frontend": "connector-1"},
            {"uid": "ann", "frontend": "connector-2"},
            {"uid": "bob", "frontend": "connector-2"},
        ])
    );
    let none = world
        .got("/api/cluster/audiences/members?key=t%2Fnothing")
        .await;
    assert_eq!(none["members"], json!([]));
    assert!(
        world
            .refused("/api/cluster/audiences?kind=room")
            .await
            .contains("room")
    );
    let text = world
        .refused("/api/cluster/audiences/members?key=news")
        .await;
    assert!(text.contains("/api/cluster/audiences"), "{text}");
    clients.clear();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_sessions_have_their_reason() {
    let world = World::start().await;
    let ann = world.login(0, "ann").await;
    let bob = world.login(1, "bob").await;
    bob.session.close(CloseReason::SlowClient);
    let kick = json!({"commands": [{"kick": {"to": {"uid": "ann"}, "reason": "flood"}}]});
    operate(&world, &kick).await;
    assert!(ann.session.is_closed());

    let all = world.got("/api/cluster/events").await;
    let events = texts(&all["events"], "event");
    assert_eq!(events.iter().filter(|event| *event == "closed").count(), 2);
    assert_eq!((events.len(), &all["since_ms"]), (4, &Value::Null), "{all}");
    let times: Vec<u64> = all["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["time_ms"].as_u64().unwrap())
        .collect();
    assert!(
        times.is_sorted_by(|newer, older| newer >= older),
        "{times:?}"
    );

    let of_ann = world
        .got(&format!("/api/cluster/events?sid={}", ann.sid()))
        .await;
    assert_eq!(texts(&of_ann["events"], "event"), ["closed", "bound"]);
    let closed = &of_ann["events"][0];
    assert_eq!(
        (&closed["uid"], &closed["frontend"]),
        (&json!("ann"), &json!("connector-1"))
    );
    assert_eq!(
        (&closed["reason"], &closed["code"], &closed["text"]),
        (&json!("kicked"), &json!(3500), &json!("kicked: flood"))
    );
    assert_eq!(closed["address"], "127.0.0.1:4711");

    for (query, sids) in [
        ("uid=bob&event=closed", vec![bob.sid()]),
        ("reason=slow_client", vec![bob.sid()]),
        ("reason=kicked&address=127.0.0.0/8", vec![ann.sid()]),
        ("address=192.0.2.1", vec![]),
        ("event=suspended", vec![]),
    ] {
        let found = world.got(&format!("/api/cluster/events?{query}")).await;
        let sids: Vec<String> = sids.iter().map(ToString::to_string).collect();
        assert_eq!(texts(&found["events"], "sid"), sids, "{query}");
    }
    assert_eq!(
        texts(
            &world.got("/api/cluster/events?limit=1").await["events"],
            "sid"
        )
        .len(),
        1
    );
    for query in ["event=born", "sid=x", "address=here", "colour=red"] {
        world.refused(&format!("/api/cluster/events?{query}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_events_are_kept_than_configured() {
    let flags = [TOKENS[0], TOKENS[2], "admin.kept_events=16"];
    let world = World::with(&flags, |_| {}).await;
    for n in 0..100 {
        let client = world.login(0, &format!("user-{n}")).await;
        client.session.close(CloseReason::Idle);
    }
    let kept = world.got("/api/cluster/events?limit=1000").await;
    assert_eq!(kept["events"].as_array().unwrap().len(), 16);
    assert!(kept["since_ms"].is_u64(), "some were forgotten");
}

/// Samples are taken every two seconds; what a sample says is tested where it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_and_work_are_counted() {
    let world = World::start().await;
    let mut ann = world.login(0, "ann").await;
    let column = |series: &Value, name: &str| -> Vec<u64> {
        let columns = series["columns"].as_array().unwrap();
        let place = columns.iter().position(|column| column == name).unwrap();
        let rows = series["rows"].as_array().unwrap().iter();
        rows.map(|row| row[place].as_u64().unwrap()).collect()
    };
    let sum = |series: &Value, name: &str| column(series, name).iter().sum::<u64>();
    let mut last = Value::Null;
    // The first sample only says where counting begins, so requests before it are not in any.
    let mut sent = 0;
    eventually("a sample with requests", async || {
        ann.request("connector.h.echo", json!(1)).await;
        ann.request("connector.h.fail", json!(1)).await;
        sent += 1;
        last = world.got("/api/cluster/load").await;
        let first = &last["servers"][0]["series"];
        first["rows"]
            .as_array()
            .is_some_and(|rows| !rows.is_empty())
            && sum(first, "requests") > 0
    })
    .await;
    assert_eq!(
        texts(&last["servers"], "id"),
        ["connector-1", "connector-2"]
    );
    assert_eq!(last["unanswered"], json!([]));
    let series = &last["servers"][0]["series"];
    assert_eq!(column(series, "sessions").last(), Some(&1));
    assert!(sum(series, "errors") > 0 && sum(series, "requests") <= 2 * sent);
    let answers = series["answers"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap());
    assert!(answers.map(|n| n.as_u64().unwrap()).sum::<u64>() > 0);
    let bounds = series["bounds_us"].as_array().unwrap();
    assert_eq!(
        series["answers"][0].as_array().unwrap().len(),
        bounds.len() + 1
    );
    let time = column(series, "time_ms")[0];
    assert_eq!(time % last["step_ms"].as_u64().unwrap(), 0);
    let after = world
        .got(&format!("/api/cluster/load?after_ms={time}"))
        .await;
    let times = column(&after["servers"][0]["series"], "time_ms");
    assert!(times.iter().all(|one| *one > time), "{times:?}");
    assert!(
        world
            .refused("/api/cluster/load?after_ms=x")
            .await
            .contains("after_ms")
    );

    let work = world.got("/api/cluster/servers/connector-1/work").await;
    assert_eq!(texts(&work["routes"], "route"), ["h.echo", "h.fail"]);
    let counts = |route: &Value| -> u64 {
        let answers = route["answers"].as_array().unwrap().iter();
        answers.map(|n| n.as_u64().unwrap()).sum()
    };
    assert_eq!(
        (counts(&work["routes"][0]), &work["routes"][0]["errors"]),
        (sent, &json!(0))
    );
    assert_eq!(
        (counts(&work["routes"][1]), &work["routes"][1]["errors"]),
        (sent, &json!(sent))
    );
    assert_eq!(texts(&work["calls"], "route"), ["forward", "http", "rpc"]);
    let (status, _) = world.get("/api/cluster/servers/nowhere/work").await;
    assert_eq!(status, 404);
    // No launcher runs these servers, so it is not known what is configured.
    let (status, answer) = world.get("/api/cluster/servers/connector-1/config").await;
    assert_eq!(status, 409, "{answer}");
}
