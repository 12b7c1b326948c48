//! Servers on a real NATS and a real etcd: `shaddock serve` in front of backends in Rust and in Go, and behind a Go frontend.

#![allow(clippy::unwrap_used, reason = "these are tests")]
mod by_hand;
mod hostile;
mod operators;
mod pitaya;
mod player;
mod processes;
mod room;
mod serve;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../../shaddock-cluster/tests/support/servers.rs"]
mod servers;

#[path = "../../../shaddock-cluster/tests/support/balancer.rs"]
mod balancer;
#[path = "../../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../../shaddock-cluster/tests/support/proxy.rs"]
mod proxy;
#[path = "../../../shaddock-cluster/tests/support/wait.rs"]
mod wait;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use servers::Backing;
use shaddock_client::{Client, Dialect, RequestError, ServerError};
use wait::{PATIENCE, eventually, found};

const SHADDOCK: &str = env!("CARGO_BIN_EXE_shaddock");

/// Logs of the backend in this process, if `SHADDOCK_TEST_LOG` is set.
fn logs() {
    if std::env::var_os("SHADDOCK_TEST_LOG").is_some() {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    }
}

/// Where the errors of programs go.
fn output() -> Stdio {
    if std::env::var_os("SHADDOCK_TEST_LOG").is_some() {
        Stdio::inherit()
    } else {
        Stdio::null()
    }
}

/// A program that says when it is ready. Killed when dropped.
struct Program(Child);

impl Program {
    /// Starts it, and waits for the line on its standard output that has `ready` in it.
    fn start(command: &mut Command, ready: &str) -> (Self, String) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(output())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let program = Self(child);
        let (found, line) = mpsc::channel();
        // Read to the end: a full pipe would stop the program.
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = found.send(line);
            }
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match line.recv_timeout(left) {
                Ok(line) if line.contains(ready) => return (program, line),
                Ok(_) => {}
                Err(error) => panic!("{command:?} did not get ready: {error}"),
            }
        }
    }

    const fn of(child: Child) -> Self {
        Self(child)
    }

    /// True while it runs.
    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id();
        assert!(
            Command::new("kill")
                .args([name, &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
        if name == "-STOP" {
            wait::stopped(pid);
        }
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }

    /// How it ended: it does, and soon.
    fn ended(&mut self) -> std::process::ExitStatus {
        found("the end of a program", || self.0.try_wait().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `shaddock serve` of type `connector`.
struct Frontend {
    program: Program,
    address: String,
    admin: String,
}

impl Frontend {
    /// With a lease that lasts for as long as a test: a machine may be slow, and must not look as if a server had died.
    fn start(backing: &Backing, id: &str, more: &[&str]) -> Self {
        let more = [&["--set", "cluster.lease_ttl=300s"], more].concat();
        Self::mortal(backing, id, &more)
    }

    /// With a short lease, for tests in which a server dies or is cut off.
    fn mortal(backing: &Backing, id: &str, more: &[&str]) -> Self {
        Self::start_at(backing.nats.address, backing.etcd.address, id, more)
    }

    fn start_at(nats: SocketAddr, etcd: SocketAddr, id: &str, more: &[&str]) -> Self {
        let admin = free_address();
        let file = std::env::temp_dir().join(format!(
            "shaddock-serve-{}-{admin}.toml",
            std::process::id()
        ));
        let text = format!(
            "[server]\nserver_type = \"connector\"\nid = \"{id}\"\n[listen]\naddress = \"127.0.0.1:0\"\n\
             [admin]\naddress = \"{admin}\"\n[drain]\nspread = \"0s\"\n\
             [cluster]\nnats_urls = [\"nats://{nats}\"]\netcd_endpoints = [\"{etcd}\"]\nlease_ttl = \"5s\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(SHADDOCK);
        command.arg("serve").arg("--config").arg(&file).args(more);
        let (program, line) = Program::start(&mut command, "is running on");
        let _ = std::fs::remove_file(file);
        let address = line.rsplit(' ').next().unwrap().to_owned();
        Self {
            program,
            address: format!("tcp://{address}"),
            admin,
        }
    }

    /// Runs a command of operators that asks this server.
    fn operate(&self, args: &[&str]) -> Said {
        shaddock(&[args, &["--admin", &self.admin]].concat())
    }
}

/// The output of a command.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

/// Runs a command to its end.
fn shaddock(args: &[&str]) -> Said {
    let start = Instant::now();
    let output = Command::new(SHADDOCK).args(args).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

fn free_address() -> String {
    format!("127.0.0.1:{}", ports::free_port())
}

async fn connect(address: &str, dialect: Dialect) -> Client {
    Client::builder()
        .dialect(dialect)
        .request_timeout(Some(PATIENCE))
        .connect(address)
        .await
        .unwrap()
}

/// A request that must succeed.
async fn ask(client: &Client, route: &str, body: Value) -> Value {
    match client.request(route, &body).await {
        Ok(value) => value,
        Err(error) => panic!("{route} {body}: {error}"),
    }
}

/// A request that must be answered with an error.
async fn refused(client: &Client, route: &str, body: Value) -> ServerError {
    match client.request::<_, Value>(route, &body).await {
        Err(RequestError::Server(error)) => error,
        other => panic!("{route} {body}: {other:?}"),
    }
}

/// Retries until a server replies: a server that has just joined is not known to all others immediately.
async fn ask_soon(client: &Client, route: &str) {
    eventually(&format!("an answer of {route}"), async || {
        let text = json!({ "text": "hi" });
        client.request::<_, Value>(route, &text).await.is_ok()
    })
    .await;
}

async fn next_push(pushes: &mut shaddock_client::Subscription) -> Value {
    let push = tokio::time::timeout(PATIENCE, pushes.recv()).await;
    push.expect("a push in time").unwrap().json().unwrap()
}
