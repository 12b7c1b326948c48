//! Servers that behave, and servers that do not: every fault must be counted, and make the run unclean.
#![expect(clippy::unwrap_used, reason = "tests")]

mod server;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use clap::Parser;
use server::{Manners, Server};
use shaddock_bench::{BenchArgs, Report, measure};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn bench(server: &Server, flags: &str) -> Report {
    let (scenario, flags) = flags.split_once(' ').unwrap_or((flags, ""));
    let url = server.url();
    let mut words = vec!["bench", scenario, &url, "--quiet", "--insecure"];
    words.extend(flags.split_ascii_whitespace());
    // Where nothing is lost, nothing may look as if it was because the machine is slow.
    if !words.contains(&"--timeout") {
        words.extend(["--timeout", "30s"]);
    }
    measure(&Cli::parse_from(words).bench).unwrap()
}

/// Long enough for an answer on a machine that is busy.
const SHORT: &str = "--warmup 50ms --duration 1s";
/// Long enough for some requests on every connection, and a time-out for those that are lost.
const SOME: &str = "--warmup 50ms --duration 2s --timeout 5s";

fn echo(manners: Manners) -> Report {
    bench(
        &Server::tcp(manners),
        &format!("echo -c 4 --in-flight 2 {SHORT}"),
    )
}

fn echo_for_a_while(manners: Manners) -> Report {
    bench(
        &Server::tcp(manners),
        &format!("echo -c 4 --in-flight 2 {SOME}"),
    )
}

#[test]
fn a_good_server_is_clean_over_every_transport() {
    for server in [
        Server::tcp(Manners::Good),
        Server::tls(Manners::Good),
        Server::ws(Manners::Good),
    ] {
        let report = bench(
            &server,
            &format!("echo -c 8 --in-flight 4 --threads 2 {SHORT}"),
        );
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.sessions, 8);
        assert!(report.messages > 0, "{report}");
        let latency = report.latency.unwrap();
        assert!(latency.min <= latency.p50 && latency.p50 <= latency.max);
        assert!(
            latency.count >= report.messages,
            "late answers are timed too"
        );
    }
}

#[test]
fn a_wrong_answer_is_counted() {
    let report = echo(Manners::ChangesOneByte);
    assert!(report.wrong > 0 && report.lost == 0, "{report}");
    assert!(!report.notes.is_empty());
}

#[test]
fn an_error_in_the_place_of_a_bind_is_a_wrong_answer() {
    let report = bench(
        &Server::tcp(Manners::RefusesBinds),
        &format!("mix -c 2 {SHORT}"),
    );
    assert!(report.wrong > 0, "{report}");
}

#[test]
fn a_lost_answer_is_counted_once_for_each_request() {
    let report = echo_for_a_while(Manners::LosesEveryTenth);
    // Two in flight on each of four connections, and all of them end up waiting.
    assert_eq!(
        (report.lost, report.wrong, report.repeated),
        (8, 0, 0),
        "{report}"
    );
}

/// Answers that take this long are lost. It also bounds a connect, which must not fail on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

/// With a timeout that ends before the run does.
fn impatient(server: &Server, flags: &str) -> Report {
    let words = flags.split_ascii_whitespace();
    let words = ["bench"].into_iter().chain(words);
    let url = server.url();
    let timeout = format!("{}s", TIMEOUT.as_secs());
    let words = words.chain([url.as_str(), "--quiet", "--timeout", &timeout]);
    measure(&Cli::parse_from(words).bench).unwrap()
}

#[test]
fn a_session_continues_after_a_lost_answer() {
    // It waits once and again, and a third time.
    let duration = (TIMEOUT * 3).as_secs();
    let check = |flags: &str| {
        let server = Server::tcp(Manners::LosesEveryTenth);
        let flags = format!("{flags} --warmup 0s --duration {duration}s");
        let report = impatient(&server, &flags);
        assert!(report.lost > 1 && report.messages > 10, "{flags}: {report}");
        assert_eq!((report.wrong, report.repeated), (0, 0), "{flags}: {report}");
        assert!(report.notes[0].contains("not answered in time"), "{report}");
    };
    std::thread::scope(|scope| {
        for flags in ["echo -c 1", "mix -c 1 --script bind,request*3"] {
            scope.spawn(move || check(flags));
        }
    });
}

#[test]
fn an_answer_that_comes_too_late_is_lost_and_nothing_else() {
    let server = Server::tcp(Manners::SleepsAtTenth(TIMEOUT + Duration::from_secs(1)));
    // The late answers come while it runs.
    let duration = (TIMEOUT * 2).as_secs();
    let flags = format!("echo -c 1 --in-flight 4 --warmup 0s --duration {duration}s");
    let report = impatient(&server, &flags);
    assert!(report.lost > 0, "{report}");
    assert_eq!((report.wrong, report.repeated), (0, 0), "{report}");
}

#[test]
fn binds_without_an_answer_end_a_fan_out() {
    let flags = "fanout -c 40 --connecting 8 --pushes 2";
    let report = impatient(&Server::tcp(Manners::LosesBinds), flags);
    assert_eq!((report.lost, report.messages), (40, 0), "{report}");
    let report = impatient(&Server::tcp(Manners::ClosesAtBinds), flags);
    assert_eq!((report.closed, report.lost), (40, 40), "{report}");
}

#[test]
fn a_repeated_answer_is_counted() {
    let report = echo(Manners::AnswersTwice);
    assert!(report.repeated > 0 && report.wrong == 0, "{report}");
}

#[test]
fn answers_out_of_order_are_right() {
    let report = echo(Manners::AnswersBackwards);
    assert!(report.is_clean(), "{report}");
    assert!(report.messages > 0, "{report}");
}

#[test]
fn a_connection_that_the_server_ends_is_counted_with_its_requests() {
    let report = echo_for_a_while(Manners::ClosesAfterTen);
    assert_eq!(report.closed, 4, "{report}");
    assert!(report.lost > 0, "{report}");
}

#[test]
fn a_refused_handshake_is_a_failed_connection() {
    let report = echo(Manners::RefusesHandshakes);
    assert_eq!((report.failed, report.sessions), (4, 0), "{report}");
    assert!(report.notes[0].contains("500"), "{:?}", report.notes);
}

#[test]
fn a_silent_server_is_given_up() {
    let flags = "idle -c 3 --settle 0s --timeout 1s";
    let report = bench(&Server::tcp(Manners::Silent), flags);
    assert_eq!(report.failed, 3, "{report}");
}

#[test]
fn an_unreachable_server_is_a_failed_connection_not_a_hang() {
    let server = Server::tcp(Manners::Good);
    let url = server.url();
    drop(server);
    for (scenario, failed) in [("churn", 5), ("echo", 5), ("mix", 5), ("fanout", 6)] {
        let begin = Instant::now();
        let args = Cli::parse_from(["bench", scenario, &url, "-c", "5", "--quiet"]);
        let report = measure(&args.bench).unwrap();
        assert_eq!(report.failed, failed, "{report}");
        // The load would take ten seconds and more; without a connection there is none to wait for.
        assert!(begin.elapsed() < Duration::from_secs(60), "{report}");
    }
}

#[test]
fn pushes_reach_every_client_that_reads() {
    for flags in [
        "--pushes 5",
        "--pushes 5 --rate 50",
        "--pushes 5 --threads 2",
        "--pushes 5 --stalled 25",
    ] {
        let report = bench(&Server::tcp(Manners::Good), &format!("fanout -c 8 {flags}"));
        assert!(report.is_clean(), "{flags}: {report}");
        let readers = if flags.contains("stalled") { 6 } else { 8 };
        assert_eq!(report.messages, 5 * readers, "{flags}");
    }
}

#[test]
fn what_a_server_compresses_is_read() {
    let report = echo(Manners::Compresses);
    assert!(report.is_clean(), "{report}");
    assert!(report.messages > 0, "{report}");
    for manners in [Manners::Compresses, Manners::SendsCodes] {
        let report = bench(&Server::tcp(manners), "fanout -c 4 --pushes 3");
        assert!(report.is_clean(), "{manners:?}: {report}");
        assert_eq!(report.messages, 12, "{manners:?}");
    }
}

#[test]
fn to_a_body_of_the_users_any_answer_is_right_that_is_no_error() {
    let flags = format!("echo -c 2 {SHORT} --request-body {{\"rid\":1}}");
    let report = bench(&Server::tcp(Manners::AnswersItsOwn), &flags);
    assert!(report.is_clean(), "{report}");
    assert!(report.messages > 0, "{report}");
    // Without it the same answers are wrong.
    assert!(echo(Manners::AnswersItsOwn).wrong > 0);
    let flags = format!("{flags} --echo-route bench.echo.bind");
    let report = bench(&Server::tcp(Manners::RefusesBinds), &flags);
    assert!(report.wrong > 0, "an error is no answer: {report}");
}

/// A schema is no fault of the server: it is said, and no answer is called wrong.
#[test]
fn a_route_with_a_schema_is_named() {
    let server = Server::tcp(Manners::HasASchema);
    let report = bench(&server, &format!("echo -c 3 {SHORT}"));
    assert_eq!((report.wrong, report.failed), (0, 3), "{report}");
    let note = report.notes.first().unwrap();
    assert!(
        note.contains("protobuf schema for `bench.echo.echo`"),
        "{note}"
    );
    // A route that the scenario does not use may have a schema.
    for flags in [
        "churn -c 3",
        &format!("echo -c 3 {SHORT} --echo-route bench.echo.other"),
    ] {
        let report = bench(&server, flags);
        assert!(report.is_clean(), "{flags}: {report}");
    }
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for flags in [
        "echo tcp://h:1 -c 0",
        "echo tcp://h:1 --rate 0",
        "echo tcp://h:1 --rate NaN",
        "echo tcp://h:1 --rate 5 --in-flight 2",
        "echo tcp://h:1 --body 38",
        "echo tcp://h:1 --duration 0s",
        "echo tcp://h:1 --timeout 0s",
        "fanout tcp://h:1 --pushes 0",
        "fanout tcp://h:1 --stalled 101",
        "mix tcp://h:1 --duration 5",
    ] {
        let words = flags.split(' ');
        assert!(
            Cli::try_parse_from(["bench"].into_iter().chain(words)).is_err(),
            "{flags}"
        );
    }
    for (flags, error) in [
        ("echo localhost:1", "is not an address"),
        ("echo http://h:1", "is not an address"),
        (
            "echo tcp://127.0.0.1:1 --body 17000000",
            "a body has at most",
        ),
        ("echo tcp://127.0.0.1:1 --request-body {", "--request-body"),
        ("echo tls://127.0.0.1:1 --ca /nowhere.pem", "/nowhere.pem"),
        ("mix tcp://127.0.0.1:1 --script sing", "is not a step"),
        ("idle tcp://127.0.0.1:1 -c 9999999", "files"),
        ("idle tcp://127.0.0.1:1 --pid 4194305", "process 4194305"),
    ] {
        let args = Cli::parse_from(["bench"].into_iter().chain(flags.split(' ')));
        let text = measure(&args.bench).unwrap_err().to_string();
        assert!(text.contains(error), "{flags}: {text}");
    }
}

#[test]
fn a_push_that_comes_twice_or_not_at_all_is_counted() {
    let report = bench(
        &Server::tcp(Manners::AnswersTwice),
        "fanout -c 4 --pushes 3",
    );
    assert!(report.repeated >= 12, "{report}");
    let report = bench(
        &Server::tcp(Manners::LosesEveryTenth),
        "fanout -c 4 --pushes 20 --rate 100 --timeout 5s",
    );
    assert!(report.lost > 0, "{report}");
}

#[test]
fn results_are_reported_even_if_the_server_process_ends() {
    let server = Server::tcp(Manners::Good);
    let mut process = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id();
    let flags = format!("echo -c 4 --warmup 0s --duration 3s --pid {pid}");
    let report = std::thread::scope(|scope| {
        // It was there at the begin, and ends with the load under way.
        scope.spawn(|| {
            while server.connections() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            process.kill().unwrap();
            process.wait().unwrap();
        });
        bench(&server, &flags)
    });
    assert!(report.server.is_none() && report.messages > 0, "{report}");
    assert!(report.to_string().contains("--pid ended"), "{report}");
}

#[test]
fn the_table_has_only_meaningful_rows() {
    let server = Server::tcp(Manners::Good);
    let pid = std::process::id();
    let table = bench(&server, &format!("idle -c 3 --settle 0s --pid {pid}")).to_string();
    assert!(
        table.starts_with("idle over tcp: connections 3, "),
        "{table}"
    );
    // No rate of doing nothing, and no memory of three sessions.
    for nonsense in ["per second", "for each", "null"] {
        assert!(!table.contains(nonsense), "{table}");
    }
    let table = bench(&server, &format!("churn -c 150 --pid {pid}")).to_string();
    for sense in ["per second", "for each  ", "for each session", "p99.9"] {
        assert!(table.contains(sense), "{sense}: {table}");
    }
}

#[test]
fn plain_words_to_a_tls_server_get_a_hint() {
    let server = Server::tls(Manners::Good);
    let url = server.url().replace("tls://", "tcp://");
    let args = Cli::parse_from([
        "bench", "idle", &url, "-c", "1", "--quiet", "--settle", "0s",
    ]);
    let report = measure(&args.bench).unwrap();
    assert_eq!(report.failed, 1, "{report}");
    assert!(report.notes[0].contains("tls://"), "{:?}", report.notes);
}

#[test]
fn sessions_come_and_go() {
    let report = bench(
        &Server::tcp(Manners::Good),
        "churn -c 200 --close --connecting 8",
    );
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.messages, 200);
    assert_eq!(report.latency.unwrap().count, 200);
}

#[test]
fn a_script_reconnects() {
    let script = "bind,request*2,wait 10ms,reconnect";
    let server = Server::tcp(Manners::Good);
    let url = server.url();
    let args = Cli::parse_from([
        "bench",
        "mix",
        &url,
        "-c",
        "4",
        "--script",
        script,
        "--warmup",
        "0s",
        "--repeat",
        "3",
        "--duration",
        "60s",
        "--quiet",
    ]);
    let report = measure(&args.bench).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(server.connections(), 4 * (1 + 3));
}

#[test]
fn a_script_is_done_as_often_as_wanted() {
    let server = Server::tcp(Manners::Good);
    let flags = "mix -c 6 --threads 2 --repeat 3 --duration 60s --script request*2,bind,reconnect";
    let report = bench(&server, flags);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.messages, 6 * 3 * 2);
    assert_eq!(server.connections(), 6 * (1 + 3));
    assert!(report.elapsed < Duration::from_secs(60), "{report}");
    // A stalled session does not delay the others.
    let flags = "mix -c 4 --repeat 20 --duration 60s --script request";
    let report = bench(&Server::tcp(Manners::ClosesAfterTen), flags);
    assert_eq!((report.closed, report.messages), (4, 40), "{report}");
    assert!(report.elapsed < Duration::from_secs(60), "{report}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_the_time_that_requests_waited() {
    let report = bench(
        &Server::tcp(Manners::SleepsNow(Duration::from_millis(100))),
        "echo -c 1 --rate 500 --warmup 100ms --duration 2s",
    );
    assert!(report.is_clean(), "{report}");
    // A closed loop would see one request wait; here every request that should have been sent meanwhile has waited too.
    assert!(
        report.latency.unwrap().p50 > Duration::from_millis(10),
        "{report}"
    );
    // And the other way round, one every hundred milliseconds is what a closed loop would send.
    assert!((100..=1200).contains(&report.messages), "{report}");
}

#[test]
fn the_server_of_this_process_has_a_cost() {
    let server = Server::tcp(Manners::Good);
    let pid = std::process::id();
    let report = bench(&server, &format!("echo -c 4 {SHORT} --pid {pid}"));
    let cost = report.server.unwrap();
    assert!(cost.cpu > Duration::ZERO && cost.resident_open > 1_000_000);
    assert!(report.cpu_per_message().unwrap() > 0.0);
    let json = report.to_json();
    assert_eq!(
        json["server"]["cpu_per_message"].as_f64(),
        report.cpu_per_message()
    );
}
