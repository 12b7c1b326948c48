//! The `shaddock` command from outside: the demo's contract with a client over TCP, operators' commands, signals.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::{Command, Output};

use serde_json::{Value, json};
use shaddock_client::{Client, CloseKind};
use support::{Demo, SHADDOCK, Scratch, eventually, wait::PATIENCE};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kicked(reason: &str) -> CloseKind {
    CloseKind::Kicked {
        reason: Some(reason.to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_of_the_chat_sample() {
    let mut demo = Demo::start(&["--set", "drain.spread=0s"]);
    let gate = Demo::connect(demo.gate).await;
    let entry: Value = gate
        .request("gate.gateHandler.queryEntry", &json!({ "uid": "ann" }))
        .await
        .unwrap();
    assert_eq!(
        (&entry["code"], &entry["host"]),
        (&json!(200), &json!("127.0.0.1"))
    );
    assert!(demo.connectors.iter().any(|port| entry["port"] == *port));
    let nobody = json!({ "uid": "" }).to_string();
    let answer = gate
        .request_raw("gate.gateHandler.queryEntry", nobody)
        .await
        .unwrap();
    assert_eq!(text(&answer), r#"{"code":500}"#);

    let [first, second] = demo.connectors;
    let (ann, users) = Demo::enter(first, "ann", "lobby").await;
    assert_eq!(users, json!({ "users": ["ann"] }));
    let mut heard = ann.subscribe_all();
    let (bob, users) = Demo::enter(second, "bob", "lobby").await;
    assert_eq!(users, json!({ "users": ["ann", "bob"] }));
    let taken = json!({ "code": 500, "error": true });
    let (_other, answer) = Demo::enter(second, "ann", "lobby").await;
    assert_eq!(answer, taken, "on the other connector");
    let (_other, answer) = Demo::enter(first, "a*b", "lobby").await;
    assert_eq!(answer, taken, "a name with an asterisk");
    let message = json!({ "rid": "lobby", "content": "hi", "from": "forged", "target": "*" });
    let _: Value = bob
        .request("chat.chatHandler.send", &message)
        .await
        .unwrap();
    // As long as a package takes.
    let long = "字".repeat(20_000);
    let message = json!({ "rid": "lobby", "content": long, "from": "bob", "target": "*" });
    let _: Value = bob
        .request("chat.chatHandler.send", &message)
        .await
        .unwrap();
    drop(bob);
    let mut told = Vec::new();
    while told.len() < 4 {
        let push = tokio::time::timeout(PATIENCE, heard.recv());
        let push = push.await.unwrap().unwrap();
        told.push((push.route().to_owned(), push.json::<Value>().unwrap()));
    }
    let expected = [
        ("onAdd", json!({ "user": "bob" })),
        (
            "onChat",
            json!({ "msg": "hi", "from": "bob", "target": "*" }),
        ),
        (
            "onChat",
            json!({ "msg": long, "from": "bob", "target": "*" }),
        ),
        ("onLeave", json!({ "user": "bob" })),
    ];
    assert_eq!(told, expected.map(|(route, body)| (route.to_owned(), body)));

    // SIGTERM: the client is told, and the process ends with 0.
    demo.signal("-TERM");
    assert_eq!(ann.closed().await, kicked("draining"));
    assert!(demo.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_list_and_kick() {
    let demo = Demo::start(&[]);
    let (ann, _) = Demo::enter(demo.connectors[0], "ann", "lobby").await;
    let table = text(&demo.shaddock("sessions", &[]).stdout);
    let row = table.lines().nth(1).unwrap();
    assert!(table.starts_with("SID"), "{table}");
    assert!(
        row.contains("ann*lobby") && row.contains("connector-1"),
        "{table}"
    );
    assert!(table.contains("1 of "), "{table}");
    let listed = demo.shaddock("sessions", &["--json", "--uid", "ann*lobby"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let sid = listed["sessions"][0]["sid"].as_str().unwrap();
    let one = text(&demo.shaddock("sessions", &[sid]).stdout);
    assert!(one.contains("\"rid\": \"lobby\""), "{one}");

    let kick = demo.shaddock("kick", &["--uid", "ann*lobby", "--reason", "bye"]);
    assert!(kick.status.success() && text(&kick.stdout).contains("kicked 1 session"));
    assert_eq!(ann.closed().await, kicked("bye"));
    let again = demo.shaddock("kick", &["--uid", "ann*lobby"]);
    assert_eq!(
        (again.status.code(), text(&again.stdout).trim()),
        (Some(1), "no session matched")
    );
    let wrong = demo.shaddock("sessions", &["not-a-sid"]);
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("not a session id"));
}

/// The server API from the command line: predicates, dry runs, a pace, mistakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_the_server_api() {
    let demo = Demo::start(&[]);
    let (ann, _) = Demo::enter(demo.connectors[0], "ann", "lobby").await;
    let (bob, _) = Demo::enter(demo.connectors[1], "bob", "lobby").await;
    let mut heard = ann.subscribe("onNews");
    let push = r#"{"push": {"to": {"uid": "ann*lobby"}, "route": "onNews", "body": {"n": 1}}}"#;
    let pushed = demo.shaddock("call", &[push, "--key", "once"]);
    let again = demo.shaddock("call", &[push, "--key", "once"]);
    let answer: Value = serde_json::from_slice(&pushed.stdout).unwrap();
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    assert_eq!(answer["results"][0]["ok"]["done"], 1, "{answer}");
    assert_eq!(again.stdout, pushed.stdout);
    let news = tokio::time::timeout(PATIENCE, heard.recv()).await;
    assert_eq!(
        news.unwrap().unwrap().json::<Value>().unwrap(),
        json!({"n": 1})
    );

    let run = |args: &[&str]| {
        let ended = demo.shaddock("kick", args);
        let said = text(&ended.stdout) + &text(&ended.stderr);
        (ended.status.code(), said.trim().to_owned())
    };
    let at_bobs = "frontend = connector-2 and settings.rid = lobby";
    let dry = run(&["--where", at_bobs, "--dry-run"]);
    assert_eq!(dry, (Some(0), "would kick 1 session".to_owned()));
    let (code, said) = run(&["--where", "age >= 0s"]);
    assert!(code == Some(2) && said.contains("--all"), "{said}");
    let (code, said) = run(&["--where", "uid ="]);
    assert!(code == Some(2) && said.contains("column 6"), "{said}");
    let (code, said) = run(&["--where", at_bobs, "--uid", "ann*lobby"]);
    assert!(
        code == Some(2) && said.contains("cannot be used with"),
        "{said}"
    );
    assert!(ann.close_kind().is_none() && bob.close_kind().is_none());
    let kick = run(&["--where", at_bobs, "--reason", "late"]);
    assert_eq!(kick, (Some(0), "kicked 1 session".to_owned()));
    assert_eq!(bob.closed().await, kicked("late"));
    assert_eq!(
        run(&["--where", "uid = nobody"]),
        (Some(1), "no session matched".to_owned())
    );
    let (other, _) = Demo::enter(demo.connectors[1], "eve", "lobby").await;
    let paced = run(&["--all", "--per-second", "1"]);
    assert_eq!(paced, (Some(0), "kicked 2 sessions".to_owned()));
    assert_eq!(ann.closed().await, other.closed().await);
    let none = demo.shaddock("call", &["{"]);
    assert!(text(&none.stderr).contains("this is not JSON"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_one_process_are_listed_and_drained_together() {
    let mut demo = Demo::start(&["--set", "drain.spread=0s"]);
    let (ann, _) = Demo::enter(demo.connectors[1], "ann", "lobby").await;
    let table = text(&demo.shaddock("servers", &[]).stdout);
    let row = |id: &str| {
        let found = table.lines().find(|line| line.starts_with(id));
        let cells = found.unwrap_or_default().split_whitespace();
        cells.map(str::to_owned).collect::<Vec<_>>()
    };
    let connector = row("connector-2");
    assert_eq!(
        connector[1..6],
        ["connector", "frontend", "running", "1", "1"],
        "{table}"
    );
    assert_eq!(row("chat-1")[2..5], ["backend", "running", "-"], "{table}");
    assert!(table.contains("4 servers, 1 session, 1 user"), "{table}");

    let alone = demo.shaddock("drain", &["connector-2"]);
    let said = text(&alone.stderr);
    assert!(
        alone.status.code() == Some(2) && said.contains("--whole-process"),
        "{said}"
    );
    assert_eq!(ann.close_kind(), None);
    let all = demo.shaddock("drain", &["connector-2", "--whole-process", "--wait"]);
    let said = text(&all.stdout);
    assert!(
        all.status.success() && said.contains("connector-2 is gone"),
        "{said}"
    );
    assert_eq!(ann.closed().await, kicked("draining"));
    assert!(demo.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_applies_lists_and_survives_mistakes() {
    let file = Scratch::new("reload");
    file.write("[access]\n");
    let demo = Demo::start(&["--config", file.path()]);
    let port = demo.connectors[0];
    let (inside, _) = Demo::enter(port, "ann", "lobby").await;
    let connects = async || {
        Client::connect(&format!("tcp://127.0.0.1:{port}"))
            .await
            .is_ok()
    };

    file.write("[access]\ndeny = [\"127.0.0.0/8\"]\n");
    demo.signal("-HUP");
    eventually("the deny list", async || !connects().await).await;
    assert_eq!(inside.close_kind(), None, "who is in stays in");

    file.write("[access]\ndeny = [\"nonsense\"]\n");
    demo.signal("-HUP");
    demo.logs("nonsense").await;
    assert!(!connects().await, "a broken file changes nothing");

    file.write("[access]\ndeny = [\"127.0.0.0/8\"]\n[app]\nmotd = \"secret\"\n");
    demo.signal("-HUP");
    demo.logs("app.motd").await;
    demo.logs("App::on_reload").await;

    file.write("[access]\ndeny = []\n[protocol]\nmax_package_size = 1024\n");
    demo.signal("-HUP");
    eventually("the empty list", connects).await;
    let (newcomer, _) = Demo::enter(port, "bob", "lobby").await;
    let long = json!({ "username": "x".repeat(2000), "rid": "r" }).to_string();
    let answer = newcomer
        .request_raw("connector.entryHandler.enter", long.clone())
        .await;
    assert!(answer.is_err(), "newcomers have the new limit");
    let answer = inside
        .request_raw("connector.entryHandler.enter", long)
        .await;
    assert!(answer.is_ok(), "who was in keeps the old one");
}

/// A new token is good at once after a reload, and the old one no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_rotates_tokens() {
    let file = Scratch::new("tokens");
    let tokens = |list: &str| format!("[admin]\nread_tokens = [{list}]\n");
    let [old, new] = ["old-old-old-old-old", "new-new-new-new-new"];
    file.write(&tokens(&format!("\"{old}\"")));
    let demo = Demo::start(&["--config", file.path()]);
    let is_good = |token: &str| {
        let asked = demo.shaddock("sessions", &["--token", token]);
        asked.status.success()
    };
    assert!(is_good(old) && !is_good(new));
    let kick = demo.shaddock("kick", &["--uid", "ann", "--token", old]);
    let said = text(&kick.stderr);
    assert!(
        said.contains("requires a token with scope `operate`"),
        "{said}"
    );
    file.write(&tokens(&format!("\"{new}\", \"{old}\"")));
    demo.signal("-HUP");
    eventually("both are good", async || is_good(new) && is_good(old)).await;
    file.write(&tokens(&format!("\"{new}\"")));
    demo.signal("-HUP");
    eventually("the old one is not", async || is_good(new) && !is_good(old)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let mut demo = Demo::start(&["--set", "drain.delay=20s"]);
    demo.signal("-TERM");
    demo.logs("a second signal ends the process immediately")
        .await;
    assert!(demo.is_running(), "it drains");
    demo.signal("-INT");
    assert_eq!(demo.wait().code(), Some(1));
}

fn config(args: &[&str], variable: (&str, &str)) -> Output {
    let mut command = Command::new(SHADDOCK);
    command
        .arg("config")
        .args(args)
        .env(variable.0, variable.1)
        .output()
        .unwrap()
}

#[test]
fn the_configuration_is_printed_and_checked() {
    let good = config(
        &["--set", "drain.deadline=40s"],
        ("SHADDOCK_SESSION__SINGLE_SESSION", "true"),
    );
    let printed = text(&good.stdout);
    assert!(good.status.success());
    for line in [
        "single_session = true  # environment SHADDOCK_SESSION__SINGLE_SESSION\n",
        "deadline = \"40s\"  # --set\n",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    let file = Scratch::new("mistake");
    file.write("[session]\nsingel_session = true\n");
    let wrong = config(&["--check"], ("SHADDOCK_CONFIG", file.path()));
    assert_eq!(wrong.status.code(), Some(2));
    let message = format!(
        "{}:2: `session.singel_session`: unknown key; did you mean `session.single_session`?",
        file.path()
    );
    let said = text(&wrong.stderr);
    assert!(said.contains(&message), "{said}");
    let demo = Command::new(SHADDOCK)
        .args(["demo", "--config", file.path()])
        .output()
        .unwrap();
    assert!(!demo.status.success(), "a server does not start with it");
    assert!(text(&demo.stderr).contains(&message));
}

#[test]
fn a_server_that_cannot_start_reports_the_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("listen.address={}", taken.local_addr().unwrap());
    let gone = support::ports::local(support::ports::free_port());
    let gone = format!("cluster.etcd_endpoints={gone}");
    for (settings, reason) in [
        ([port.as_str(), "cluster.mode=local"], "in use"),
        ([gone.as_str(), "listen.address=127.0.0.1:0"], "refused"),
    ] {
        let output = Command::new(SHADDOCK)
            .args(["serve", "--set", "admin.address="])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}
