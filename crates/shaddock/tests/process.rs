//! Processes as a whole, from outside: signals, logs that nothing reads, descriptors that run out.
//!
//! The server is this very program: the test [`child`] is one, when the variable [`SETTINGS`] says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "otlp")]
mod otlp;
#[path = "../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[path = "../../shaddock-cluster/tests/support/wait.rs"]
mod wait;

use std::{
    io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shaddock::{
    app::{BoxError, Component},
    config::{Config, Sources},
    launch::Launcher,
    prelude::*,
};
use shaddock_client::{Client, RequestError};
use wait::{PATIENCE, found};

/// The settings of a child, one a line.
const SETTINGS: &str = "SHADDOCK_TEST_CHILD";
/// Set in the environment of [`plain_child`].
const PLAIN: &str = "SHADDOCK_TEST_PLAIN_CHILD";

async fn echo(Json(body): Json<Value>) -> Json<Value> {
    Json(body)
}

async fn panics() {
    panic!("this handler panics");
}

async fn breaks() -> Result<(), HandlerError> {
    let broken = std::io::Error::other("no database");
    Err(broken.into())
}

async fn hangs() {
    std::future::pending::<()>().await;
}

async fn faults() -> Result<(), HandlerError> {
    Err(HandlerError::internal("the disk is full"))
}

/// Longer than 100 ms, in which nothing else runs on its thread.
async fn holds() {
    std::thread::sleep(Duration::from_millis(120));
}

async fn fails() -> Result<(), HandlerError> {
    Err(HandlerError::new("APP-1", "this handler fails"))
}

/// What a child may be told in its section `[app]`.
#[derive(serde::Deserialize)]
struct ChildSettings {
    /// Whether a component of it never starts.
    #[serde(default)]
    hangs: bool,
    /// What it says when the configuration was read again.
    #[serde(default)]
    motd: String,
    /// Whether it has no hook for that.
    #[serde(default)]
    deaf: bool,
}

/// A component that never starts, after one that does.
struct Hangs;

impl Component for Hangs {
    fn name(&self) -> &'static str {
        "hangs"
    }

    async fn start(&self, _app: &AppHandle) -> Result<(), BoxError> {
        say("starting");
        std::future::pending().await
    }
}

struct Starts;

impl Component for Starts {
    fn name(&self) -> &'static str {
        "starts"
    }

    async fn stop(&self, _app: &AppHandle) {
        say("component stopped");
    }
}

/// Tells the parent something; on a line of its own, whatever the test harness has written.
fn say(text: &str) {
    println!("\nchild: {text}");
}

#[test]
fn child() {
    let Ok(settings) = std::env::var(SETTINGS) else {
        return;
    };
    let sources = settings.lines().fold(Sources::default(), |sources, line| {
        match line.strip_prefix("file:") {
            Some(path) => sources.file(path),
            None => sources.flag(line),
        }
    });
    let mut launcher = Launcher::new(sources).unwrap();
    launcher.init_logs().unwrap();
    let mut app = App::new("connector", "connector-1");
    launcher.configure_frontend(&mut app).unwrap();
    app.route("h.echo", echo);
    app.route("h.panics", panics);
    app.route("h.fails", fails);
    app.route("h.breaks", breaks);
    app.route("h.faults", faults);
    app.route("h.holds", holds);
    app.route("h.hangs", hangs)
        .timeout(Duration::from_millis(1));
    app.on_handshake(async |info: HandshakeInfo| match info.user() {
        Value::String(_) => Err(HandshakeReject::new("unwanted")),
        _ => Ok(None),
    });
    app.component(Starts);
    let operations = launcher.operations();
    app.admin_route("leave", move |_, _| {
        let operations = operations.clone();
        async move {
            operations.request_drain();
            // Longer than the drain takes.
            tokio::time::sleep(Duration::from_secs(1)).await;
            "gone"
        }
    });
    let settings: ChildSettings = launcher.config().app().unwrap();
    if !settings.deaf {
        app.on_reload(async |_, _| panic!("expected in this test"));
        app.on_reload(async |_, config: Arc<Config>| {
            let settings: ChildSettings = config.app().unwrap();
            say(&format!("motd {}", settings.motd));
        });
    }
    if settings.hangs {
        app.component(Hangs);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let greet = |running: &Running| {
        let address = running.address("connector-1").unwrap();
        say(&format!("ready {address}"));
    };
    runtime
        .block_on(launcher.serve(Servers::new().add(app), greet))
        .unwrap();
    runtime.shutdown_background();
}

/// A program as the first guide has it: no launcher, no logger.
#[test]
fn plain_child() {
    if std::env::var_os(PLAIN).is_none() {
        return;
    }
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0").route("h.echo", echo);
    Servers::new().add(app).run_blocking().unwrap();
}

#[test]
fn a_program_without_a_logger_prints_its_addresses() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["plain_child", "--exact", "--nocapture"])
        .env(PLAIN, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, said) = mpsc::channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .for_each(|line| drop(sender.send(line)));
    });
    let line = said.recv_timeout(PATIENCE).unwrap();
    let address = line.strip_prefix("connector-1 listens on ").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect(address).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What Rust prints when `main` returns an error is its `Debug`.
#[test]
fn errors_that_main_returns_are_for_people() {
    let sources = || Sources::default().flag("session.single_sesion=true");
    let told =
        "--set: `session.single_sesion`: unknown key; did you mean `session.single_session`?";
    let config = Config::load(&sources()).unwrap_err();
    assert_eq!(format!("{config:?}"), told);
    let launch = shaddock::launch::LaunchError::from(config);
    assert_eq!(format!("{launch:?}"), told);
    assert_eq!(format!("{:?}", StartError::NoApp), "no app was added");
}

/// A server in a process of its own. Killed when dropped.
struct Server {
    child: Child,
    said: mpsc::Receiver<String>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Starts one with these settings, under a command such as `prlimit ..`, and waits until it is ready.
    fn start(wrapper: &[&str], settings: &[&str], stderr: impl Into<Stdio>) -> Self {
        let mut server = Self::launch(wrapper, settings, stderr);
        server.is_ready();
        server
    }

    /// Waits until it is ready.
    fn is_ready(&mut self) {
        let ready = self.hears("ready ");
        self.address = ready.strip_prefix("ready ").unwrap().parse().unwrap();
    }

    fn launch(wrapper: &[&str], settings: &[&str], stderr: impl Into<Stdio>) -> Self {
        let admin = free_address();
        let mut all = vec![format!("admin.address={admin}")];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        Self::launch_with(wrapper, all, admin, stderr)
    }

    /// As [`launch`](Self::launch), with an admin server that the settings put at this address.
    fn launch_with(
        wrapper: &[&str],
        settings: Vec<String>,
        admin: SocketAddr,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let mut all = settings;
        all.push("listen.address=127.0.0.1:0".to_owned());
        all.push("drain.spread=0s".to_owned());
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let words: Vec<&str> = wrapper.iter().copied().chain([own]).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["child", "--exact", "--nocapture"])
            .env(SETTINGS, all.join("\n"))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            // To the end, so that the child never finds the pipe full.
            for line in lines.map_while(Result::ok) {
                if let Some(text) = line.strip_prefix("child: ") {
                    let _ = sender.send(text.to_owned());
                }
            }
        });
        Self {
            child,
            said,
            address: ([0, 0, 0, 0], 0).into(),
            admin,
        }
    }

    /// The next thing that the child says, which must begin so.
    fn hears(&self, beginning: &str) -> String {
        let said = self.said.recv_timeout(PATIENCE);
        let said = said.unwrap_or_else(|_| panic!("the child does not say `{beginning}`"));
        assert!(said.starts_with(beginning), "{said}");
        said
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The status of the process, which must end.
    fn ended(&mut self) -> ExitStatus {
        found("the end of the server", || self.child.try_wait().unwrap())
    }

    async fn client(&self) -> Client {
        let address = format!("tcp://{}", self.address);
        let connect = Client::connect(&address);
        tokio::time::timeout(PATIENCE, connect)
            .await
            .expect("the server answers a handshake")
            .unwrap()
    }

    /// The body of an answer of the admin server.
    fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// As [`get`](Self::get), with more lines in the head of the request.
    fn get_with(&self, path: &str, head: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine at which nothing listens.
fn free_address() -> SocketAddr {
    ports::local(ports::free_port())
}

/// A pipe that is full and that nothing reads.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The default size of a pipe on Linux.
    writer.write_all(&vec![b'.'; 64 * 1024]).unwrap();
    (reader, writer.into())
}

async fn served(client: &Client) {
    let body = json!({ "n": 1 });
    let answer = client.request::<Value, Value>("connector.h.echo", &body);
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    assert_eq!(answer.expect("an answer in time").unwrap(), body);
}

/// Connections from an address that is denied.
fn knock(server: &Server, times: usize) {
    for _ in 0..times {
        let from = socket2::SockAddr::from("127.0.0.2:0".parse::<SocketAddr>().unwrap());
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&from).unwrap();
        socket.connect(&server.address.into()).unwrap();
        // The end of the stream: the refusal has been counted and logged.
        let _ = TcpStream::from(socket).read(&mut [0; 8]);
    }
}

#[test]
fn strangers_write_no_lines() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut server = Server::start(&[], &["access.deny=127.0.0.2"], writer);
    knock(&server, 300);
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("draining"), "{log}");
    assert!(log.lines().count() < 10, "{log}");
}

/// All lines of the log of a server that a client makes log 500 times.
async fn log_of(flood: impl AsyncFn(&Server, &Client)) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut server = Server::start(&[], &[], writer);
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    let client = server.client().await;
    for _ in 0..500 {
        flood(&server, &client).await;
    }
    drop(client);
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    log.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_failures_of_one_client_write_few_lines() {
    let cases = [
        ("connector.h.breaks", "a handler failed"),
        ("connector.h.panics", "a handler panicked"),
        ("connector.h.hangs", "a handler did not finish in time"),
    ];
    for (route, line) in cases {
        let log = log_of(async |_, client| {
            let request = client.request::<Value, Value>(route, &Value::Null);
            let answer = tokio::time::timeout(PATIENCE, request).await;
            assert!(answer.expect("an answer in time").is_err());
        });
        few_lines(&log.await, line);
    }
    let log = log_of(async |server, _| {
        let address = format!("tcp://{}", server.address);
        let client = Client::builder().user(json!("unwanted"));
        let refused = client.connect(&address);
        let refused = tokio::time::timeout(PATIENCE, refused).await;
        assert!(refused.expect("an answer in time").is_err());
    });
    few_lines(&log.await, "handshake refused");
}

fn few_lines(log: &str, line: &str) {
    let all = log.lines().count();
    assert!(all < 30, "{line}: {all} lines");
    let written = log.lines().filter(|one| one.contains(line)).count();
    assert_eq!(written, 10, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nothing_reads_stops_nothing() {
    let (mut reader, stderr) = full_pipe();
    let settings = [
        "log.filter=debug",
        "log.queue_bytes=16 KiB",
        "access.deny=127.0.0.2",
        "server.workers=2",
    ];
    let mut server = Server::start(&[], &settings, stderr);
    let clients = [server.client().await, server.client().await];
    // Each writes a line, and so does a panic, which the standard library would write by itself.
    knock(&server, 200);
    for client in &clients {
        for _ in 0..50 {
            let body = json!({});
            let request = client.request::<Value, Value>("connector.h.panics", &body);
            let answer = tokio::time::timeout(PATIENCE, request).await;
            assert!(answer.expect("an answer in time").is_err());
        }
        served(client).await;
    }
    let metrics = server.get("/metrics");
    let dropped = metrics
        .lines()
        .find(|line| line.starts_with("shaddock_log_lines_dropped_total"));
    assert!(!dropped.expect(&metrics).ends_with(" 0"), "{dropped:?}");

    // It flows again, and says how many are missing.
    let (told, is_told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            text.extend_from_slice(&piece[..n]);
            if String::from_utf8_lossy(&text).contains("lines of the log were dropped") {
                break;
            }
        }
        let _ = told.send(());
        // Held, and read no more.
        std::thread::park();
        drop(reader);
    });
    served(&clients[0]).await;
    is_told.recv_timeout(PATIENCE).unwrap();
    drop(clients);
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_process_whose_log_nothing_reads() {
    let (_reader, stderr) = full_pipe();
    let mut server = Server::start(&[], &["log.filter=trace"], stderr);
    let client = server.client().await;
    served(&client).await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

/// A request that asks the process to end is answered, also if the response is ready only when everything else has ended.
#[test]
fn the_process_ends_after_the_last_response_of_its_admin_server() {
    let mut server = Server::start(&[], &[], Stdio::null());
    let answer = server.get("/api/app/connector-1/leave");
    assert!(answer.ends_with("\"gone\""), "{answer:?}");
    assert!(server.ended().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_mean_nothing_to_a_server_do_not_kill_it() {
    let mut server = Server::start(&[], &[], Stdio::null());
    let client = server.client().await;
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE, Signal::HUP] {
        server.signal(signal);
        served(&client).await;
    }
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

/// SIGHUP reads the application's own settings again too; a mistake in the file changes nothing.
#[test]
fn an_application_is_notified_of_new_settings() {
    let file = Replaced::new("motd", "[app]\nmotd = \"one\"\n");
    let mut server = Server::start(&[], &[&file.setting()], Stdio::null());
    for motd in ["two", "three"] {
        file.write(&format!("[app]\nmotd = \"{motd}\"\n"));
        server.signal(Signal::HUP);
        assert_eq!(server.hears("motd"), format!("motd {motd}"));
    }
    file.write("[app\n");
    server.signal(Signal::HUP);
    file.write("[app]\nmotd = \"four\"\n");
    server.signal(Signal::HUP);
    assert_eq!(server.hears("motd"), "motd four");
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

/// A configuration file that is replaced in one step: the server may read it at any moment.
struct Replaced(std::path::PathBuf);

impl Replaced {
    fn new(name: &str, text: &str) -> Self {
        let file = format!("shaddock-{name}-{}.toml", std::process::id());
        let replaced = Self(std::env::temp_dir().join(file));
        replaced.write(text);
        replaced
    }

    fn write(&self, text: &str) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.0).unwrap();
    }

    fn setting(&self) -> String {
        format!("file:{}", self.0.display())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The log of a server, line by line.
struct Log {
    lines: mpsc::Receiver<Value>,
    read: Vec<Value>,
}

impl Log {
    fn new() -> (Self, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                // The harness of the tests writes there too.
                if let Ok(line) = serde_json::from_str(&line) {
                    let _ = sender.send(line);
                }
            }
        });
        let read = Vec::new();
        (Self { lines, read }, writer)
    }

    /// Reads until a line contains this text, and returns that line.
    fn until(&mut self, text: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with `{text}`: {:#?}", self.read));
            self.read.push(line.clone());
            if line.to_string().contains(text) {
                return line;
            }
        }
    }

    /// The lines with this text, up to the end of the log.
    fn with(&mut self, text: &str) -> Vec<Value> {
        self.read.extend(self.lines.iter());
        let lines = self.read.iter();
        lines
            .filter(|line| line.to_string().contains(text))
            .cloned()
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_logged_with_their_text_and_blocked_threads_once_per_route() {
    let (mut log, writer) = Log::new();
    let mut server = Server::start(&[], &[], writer);
    let client = server.client().await;
    for route in ["faults", "holds", "faults", "holds", "holds"] {
        let route = format!("connector.h.{route}");
        let request = client.request::<Value, Value>(&route, &Value::Null);
        let answer = tokio::time::timeout(PATIENCE, request).await;
        let answer = answer.expect("an answer in time");
        if route.ends_with("holds") {
            answer.unwrap();
        } else {
            let Err(RequestError::Server(error)) = answer else {
                panic!("{route}: {answer:?}");
            };
            let body = String::from_utf8_lossy(error.body());
            assert!(!body.contains("disk"), "the client was told: {body}");
        }
    }
    let metrics = server.get("/metrics");
    let blocked = metrics.lines().find(|line| {
        line.starts_with("shaddock_route_blocked_total{") && line.contains("\"h.holds\"")
    });
    assert!(blocked.expect(&metrics).ends_with(" 3"), "{blocked:?}");
    drop(client);
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    for (text, route, times) in [
        ("the disk is full", "h.faults", 2),
        ("held its thread", "h.holds", 1),
    ] {
        let mut lines = log.with(text);
        // A machine with too much to do may hold any thread for so long.
        lines.retain(|line| line.to_string().contains(route));
        assert_eq!(lines.len(), times, "{text}: {:#?}", log.read);
        assert!(
            lines.iter().all(|line| line["level"] == "WARN"),
            "{lines:#?}"
        );
    }
}

#[test]
fn sighup_names_changed_settings_of_the_application() {
    for (deaf, level) in [(false, "INFO"), (true, "WARN")] {
        let text =
            |secret: &str| format!("[app]\ndeaf = {deaf}\nkey = \"{secret}\"\nmotd = \"one\"\n");
        let file = Replaced::new(&format!("named-{deaf}"), &text("old"));
        let (mut log, writer) = Log::new();
        let mut server = Server::start(&[], &[&file.setting()], writer);
        file.write(&text("new"));
        server.signal(Signal::HUP);
        let line = log.until("app.key");
        assert_eq!(line["level"], level, "{line}");
        let told = line.to_string().contains("on_reload");
        assert_eq!(told, deaf, "{line}");
        log.until("configuration reloaded");
        server.signal(Signal::TERM);
        assert_eq!(server.ended().code(), Some(0));
        assert_eq!(log.with("app.motd"), [Value::Null; 0], "it has not changed");
        // The framework does not know what is secret there.
        assert_eq!(log.with("\"new\""), [Value::Null; 0]);
    }
}

/// An admin server that others can reach asks for a token, whatever SIGHUP finds in the file: the address of the new file is not the one that
/// is listened on.
#[test]
fn a_reload_opens_no_admin_server_that_others_can_reach() {
    let path = std::env::temp_dir().join(format!("shaddock-open-{}.toml", std::process::id()));
    let write = |text: &str| {
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    let (first, second) = ("first-first-first-first", "second-second-second");
    let admin = SocketAddr::from(([127, 0, 0, 1], free_address().port()));
    let public = format!("0.0.0.0:{}", admin.port());
    write(&format!(
        "[admin]\naddress = \"{public}\"\ntoken = \"{first}\"\n"
    ));
    let settings = vec![format!("file:{}", path.display())];
    let mut server = Server::launch_with(&[], settings, admin, Stdio::null());
    server.is_ready();
    let status = |token: &str| {
        let head = format!("Authorization: Bearer {token}\r\n");
        let head = if token.is_empty() { "" } else { &head };
        let answer = server.get_with("/api/sessions", head);
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let all = |none: &str, of_first: &str, of_second: &str| {
        assert_eq!(
            [status(""), status(first), status(second)],
            [none, of_first, of_second]
        );
    };
    all("401", "200", "401");
    let reload = |motd: &str, admin: &str| {
        write(&format!("{admin}\n[app]\nmotd = \"{motd}\"\n"));
        server.signal(Signal::HUP);
        // The application is told last.
        assert_eq!(server.hears("motd"), format!("motd {motd}"));
    };
    // Each of these files is right for a server that starts with it.
    reload("no section", "");
    all("401", "200", "401");
    reload("loopback", "[admin]\naddress = \"127.0.0.1:3005\"");
    all("401", "200", "401");
    reload("none", "[admin]\naddress = \"\"");
    all("401", "200", "401");
    let token =
        |address: &str| format!("[admin]\naddress = \"{address}\"\noperate_tokens = \"{second}\"");
    reload("another token", &token(&public));
    all("401", "401", "200");
    reload("loopback again", "[admin]\naddress = \"127.0.0.1:3005\"");
    all("401", "401", "200");
    // And one that is not: nothing of it counts.
    write(&format!("[admin]\naddress = \"{public}\"\n"));
    server.signal(Signal::HUP);
    reload("after a mistake", &token("127.0.0.1:3005"));
    all("401", "401", "200");
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    std::fs::remove_file(&path).unwrap();
}

/// The spans of the last requests reach the collector before the process ends, and a collector that does not respond delays the end by no more than
/// `telemetry.timeout`.
#[cfg(feature = "otlp")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_sent_at_the_end() {
    let settings = |collector: &otlp::Collector, timeout: &str| {
        [
            format!("telemetry.otlp={}", collector.url()),
            "telemetry.ratio=1.0".to_owned(),
            // Longer than this test: only the end of the process sends.
            "telemetry.interval=5m".to_owned(),
            format!("telemetry.timeout={timeout}"),
        ]
    };
    let start = |settings: [String; 4]| {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Server::start(&[], &settings, Stdio::null())
    };
    let collector = otlp::Collector::start();
    let mut server = start(settings(&collector, "30s"));
    let client = server.client().await;
    served(&client).await;
    let metrics = server.get("/metrics");
    assert!(metrics.contains("shaddock_telemetry_spans_exported_total{} 0"));
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    let spans = collector.named("connector.h.echo");
    assert!(!spans.is_empty(), "{:#?}", collector.spans());
    assert_eq!(spans[0].get("shaddock.server"), "connector-1");

    let silent = otlp::Collector::saying(|_| otlp::Say::Nothing);
    let mut server = start(settings(&silent, "100ms"));
    let client = server.client().await;
    served(&client).await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    assert_eq!(silent.heads().len(), 1, "one attempt was made");
}

/// A limit of open files that clients can reach.
const FEW_FILES: [&str; 2] = ["prlimit", "--nofile=64:128"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_take_all_descriptors() {
    let settings = [
        "server.workers=1",
        "protocol.handshake_timeout=10m",
        "access.max_connections=500",
    ];
    let (mut reader, stderr) = std::io::pipe().unwrap();
    let mut server = Server::start(&FEW_FILES, &settings, stderr);
    let held: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    // One worker accepts in order. The last is refused, so those before it have taken what they can.
    let mut last = held.last().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let refused = last.read(&mut [0; 8]);
    for _ in 0..3 {
        let ready = server.get("/readyz");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    }
    assert!(refused.is_ok_and(|read| read == 0), "the last is closed");
    let metrics = server.get("/metrics");
    let counted = metrics.lines().find_map(|line| {
        line.contains("reason=\"out_of_descriptors\"")
            .then(|| line.rsplit(' ').next())
    });
    let counted: usize = counted.flatten().expect(&metrics).parse().unwrap();
    // The limit is the hard one, 128, and the reserve an eighth of it; the rest is the server's own.
    let served_before = held.len() - counted;
    assert!((64..112).contains(&served_before), "{served_before}");

    drop(held);
    let began = Instant::now();
    let is_empty = |line: &str| line.starts_with("shaddock_connections{") && line.ends_with(" 0");
    while !server.get("/metrics").lines().any(is_empty) {
        assert!(began.elapsed() < PATIENCE, "the connections do not end");
    }
    served(&server.client().await).await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    let about = |text| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(about("open files of this process"), 1, "{log}");
    assert_eq!(about("`access.max_connections`"), 1, "{log}");
}

#[test]
fn sigterm_ends_a_server_that_still_starts() {
    let mut server = Server::launch(&[], &["app.hangs=true"], Stdio::null());
    server.hears("starting");
    server.signal(Signal::TERM);
    server.hears("component stopped");
    assert_eq!(server.ended().code(), Some(0));
}
