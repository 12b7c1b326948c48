//! `shaddock bench resume` against a real server, one that keeps all and ones that do not.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use clap::Parser;
use shaddock::{prelude::*, session::ResumeConfig, wire::CodecConfig};
use shaddock_bench::{BenchArgs, Report, measure};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn server(resume: ResumeConfig) -> App {
    let mut app = App::new("bench", "bench-1");
    app.listen("127.0.0.1:0");
    app.set(CodecConfig::default());
    app.set(SessionConfig::default().resume(resume));
    app.route("echo.echo", async |Json(body): Json<serde_json::Value>| {
        Json(body)
    });
    app.route(
        "echo.bind",
        async |mut session: SessionView, Json(login): Json<serde_json::Value>| {
            session
                .bind(Uid::new(login["uid"].as_str().unwrap())?)
                .await?;
            Ok::<_, HandlerError>(Json(serde_json::json!({"code": 200})))
        },
    );
    app.route(
        "echo.push",
        async |channels: Channels, Json(body): Json<serde_json::Value>| {
            let bound = BroadcastOptions::bound();
            channels.broadcast("bench", "onPush", &body, bound).await?;
            Ok::<_, HandlerError>(Json(serde_json::json!({"code": 200})))
        },
    );
    app
}

/// Runs `flags` against a server of its own.
fn bench(resume: ResumeConfig, scheme: &str, flags: &str) -> Report {
    bench_app(server(resume), scheme, flags)
}

fn bench_app(app: App, scheme: &str, flags: &str) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let servers = Servers::new().add(app);
    let running = runtime.block_on(servers.start()).unwrap();
    let port = running.address("bench-1").unwrap().port();
    let url = format!("{scheme}://127.0.0.1:{port}");
    let (scenario, flags) = flags.split_once(' ').unwrap();
    let words = ["bench", scenario, &url, "--quiet"];
    // Where nothing is lost, nothing may look as if it was because the machine is slow.
    let patience = ["--timeout", "60s"];
    let patience = patience.iter().filter(|_| !flags.contains("--timeout"));
    let words = words
        .into_iter()
        .chain(patience.copied())
        .chain(flags.split_ascii_whitespace());
    let report = measure(&Cli::parse_from(words).bench).unwrap();
    let app = running.app("bench-1").unwrap();
    let service = app.session_service().unwrap().clone();
    // It says goodbye, so nothing is kept for it (but for those whose sockets it took).
    let left = if flags.contains("--suspend") { 50 } else { 0 };
    let deadline = Instant::now() + Duration::from_secs(30);
    while service.session_count() > left {
        assert!(Instant::now() < deadline, "sessions wait for nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(service.session_count(), left);
    println!("{report}  server  {:?}", service.resume_statistics());
    runtime.block_on(running.shutdown());
    report
}

#[test]
fn nothing_is_lost_twice_or_late_over_every_transport_and_in_both_dialects() {
    for (scheme, flags) in [
        ("tcp", "--threads 2"),
        ("ws", ""),
        ("tcp", "--dialect pitaya --burst 1"),
        ("tcp", "--no-plain --away 1ms --burst 40"),
    ] {
        let flags = format!("resume -c 20 --cuts 6 {flags}");
        let report = bench(ResumeConfig::default(), scheme, &flags);
        assert!(report.is_clean(), "{flags}: {report}");
        let burst = report.settings["burst"].as_u64().unwrap();
        assert_eq!(report.messages, 20 * 6 * burst, "{flags}: {report}");
        assert_eq!(report.plain.is_none(), flags.contains("no-plain"));
        // Of the sessions whose requests had all arrived before the cut, some had a response to wait for.
        let back = report.latency.map_or(0, |latency| latency.count);
        assert!(back > 0, "{flags}: {back}");
    }
}

#[test]
fn what_a_server_cannot_keep_is_counted_as_lost() {
    let forgetful = ResumeConfig::default().max_messages(2);
    let report = bench(
        forgetful,
        "tcp",
        "resume -c 4 --cuts 4 --limit 3s --timeout 5s",
    );
    assert!(report.lost > 0, "{report}");
    assert!(!report.is_clean(), "{report}");
}

#[test]
fn a_server_that_keeps_no_sessions_fails() {
    let mut app = server(ResumeConfig::default());
    app.set(ResumePolicy::default().enabled(false));
    let report = bench_app(app, "tcp", "resume -c 4 --cuts 2 --limit 3s");
    assert_eq!(report.failed, 4, "{report}");
    assert!(report.notes[0].contains("keeps no sessions"), "{report}");
}

/// 400 sessions at once, which is what a debug build does in a second on a small machine. 5,000 with a release build: `bench/README.md`.
#[test]
fn a_storm_of_sessions_comes_back_whole() {
    let flags = "resume -c 400 --cuts 2 --connecting 400 --no-plain --burst 4";
    let report = bench(ResumeConfig::default(), "tcp", flags);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.messages, 400 * 2 * 4);
}

#[test]
fn idle_sessions_can_be_suspended() {
    let flags = "idle -c 50 --settle 1s --suspend";
    let report = bench(ResumeConfig::default(), "tcp", flags);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.sessions, 50);
}

#[test]
fn other_scenarios_count_and_acknowledge_too() {
    for flags in [
        "echo -c 4 --in-flight 4 --warmup 50ms --duration 300ms --resume",
        "fanout -c 8 --pushes 100 --resume",
        "mix -c 2 --warmup 0s --duration 300ms --resume",
    ] {
        let report = bench(ResumeConfig::default(), "tcp", flags);
        assert!(report.is_clean(), "{flags}: {report}");
        assert!(report.messages > 0, "{flags}: {report}");
    }
}
