//! A demo in processes of its own.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use shaddock_client::Client;

#[path = "../../../shaddock-cluster/tests/support/ports.rs"]
pub(crate) mod ports;
#[path = "../../../shaddock-cluster/tests/support/wait.rs"]
pub(crate) mod wait;

pub(crate) use wait::eventually;

pub(crate) const SHADDOCK: &str = env!("CARGO_BIN_EXE_shaddock");

/// A demo on free ports. Killed when dropped.
pub(crate) struct Demo {
    child: Child,
    pub(crate) gate: u16,
    pub(crate) connectors: [u16; 2],
    /// The line that it printed when it was ready.
    pub(crate) greeting: String,
    log: Arc<Mutex<Vec<String>>>,
    admin: String,
}

impl Demo {
    pub(crate) fn start(more: &[&str]) -> Self {
        let [gate, first, second, page, admin] = [(); 5].map(|()| ports::free_port());
        let admin = format!("127.0.0.1:{admin}");
        let mut child = Command::new(SHADDOCK)
            .args(["demo", "--gate-port", &gate.to_string()])
            .args(["--connector-ports", &format!("{first},{second}")])
            .args(["--page-port", &page.to_string()])
            .args(["--set", &format!("admin.address={admin}")])
            .args(more)
            // As a shell does: a Ctrl-C goes to the whole group.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = String::new();
        while !greeting.contains("Ctrl-C stops") {
            let Some(Ok(line)) = lines.next() else {
                let mut log = String::new();
                let _ = child.stderr.take().unwrap().read_to_string(&mut log);
                panic!("the demo did not start: {log}");
            };
            greeting += &line;
            greeting.push('\n');
        }
        // A full pipe would stop the demo.
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            gate,
            connectors: [first, second],
            greeting,
            log,
            admin,
        }
    }

    /// Waits until a line of the log has this in it.
    pub(crate) async fn logs(&self, text: &str) {
        eventually(&format!("a line of the log with `{text}`"), async || {
            self.log().iter().any(|line| line.contains(text))
        })
        .await;
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait::found("the end of the demo", || self.child.try_wait().unwrap())
    }

    /// Runs `shaddock <command>` against this demo.
    pub(crate) fn shaddock(&self, command: &str, args: &[&str]) -> Output {
        let mut shaddock = Command::new(SHADDOCK);
        shaddock
            .args([command, "--admin", &self.admin])
            .args(args)
            .output()
            .unwrap()
    }

    pub(crate) async fn connect(port: u16) -> Client {
        let address = format!("tcp://127.0.0.1:{port}");
        Client::connect(&address).await.unwrap()
    }

    /// A new client and the answer to its login.
    pub(crate) async fn enter(port: u16, name: &str, room: &str) -> (Client, Value) {
        let client = Self::connect(port).await;
        let body = json!({ "username": name, "rid": room }).to_string();
        let answer = client
            .request_raw("connector.entryHandler.enter", body)
            .await
            .unwrap();
        (client, serde_json::from_slice(&answer).unwrap())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that is gone with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("shaddock-cli-{}-{name}.toml", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
