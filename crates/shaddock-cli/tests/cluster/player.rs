//! A client of a room, written in Rust or in Go: what happens to it is the same.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ChildStdin, Command, Stdio},
};

use serde_json::{Value, json};
use shaddock_client::{Client, CloseKind, Dialect, RequestError, Subscription};
use tokio::sync::mpsc;

use crate::{
    Program, connect,
    wait::{PATIENCE, eventually},
};

/// An error answer, as the client sees it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

pub(crate) enum Player {
    /// The client of this repository, in one of its dialects.
    Ours(Box<Client>, Subscription),
    /// Pitaya's own.
    Go(Box<GoClient>),
}

impl Player {
    pub(crate) async fn ours(address: &str, dialect: Dialect) -> Self {
        let client = connect(address, dialect).await;
        let pushes = client.subscribe("onText");
        Self::Ours(Box::new(client), pushes)
    }

    pub(crate) async fn go(program: &Path, address: &str) -> Self {
        Self::Go(Box::new(GoClient::connect(program, address).await))
    }

    pub(crate) async fn request(&mut self, route: &str, body: Value) -> Result<Value, Refusal> {
        match self {
            Self::Ours(client, _) => match client.request::<_, Value>(route, &body).await {
                // Pomelo's clients do not know the flag of a Go frontend's error: they see an answer.
                Ok(value) if value["code"].is_string() => Err(refusal(&value)),
                Ok(value) => Ok(value),
                Err(RequestError::Server(error)) => Err(Refusal {
                    code: error.code().to_owned(),
                    text: error.message().to_owned(),
                    metadata: metadata(&error.json().unwrap_or_default()),
                }),
                Err(error) => panic!("{route}: {error}"),
            },
            Self::Go(client) => client.request(route, &body).await,
        }
    }

    /// A request that must succeed.
    pub(crate) async fn ask(&mut self, route: &str, body: Value) -> Value {
        match self.request(route, body.clone()).await {
            Ok(value) => value,
            Err(refusal) => panic!("{route} {body}: {refusal:?}"),
        }
    }

    /// A request that must be answered with an error.
    pub(crate) async fn refused(&mut self, route: &str, body: Value) -> Refusal {
        match self.request(route, body.clone()).await {
            Err(refusal) => refusal,
            Ok(value) => panic!("{route} {body}: {value}"),
        }
    }

    /// Retries until a server replies: a server that has just joined is not known to all others immediately.
    pub(crate) async fn ask_soon(&mut self, route: &str) {
        eventually(&format!("an answer of {route}"), async || {
            self.request(route, json!({ "text": "hi" })).await.is_ok()
        })
        .await;
    }

    pub(crate) async fn notify(&mut self, route: &str, body: Value) {
        match self {
            Self::Ours(client, _) => client.notify(route, &body).await.unwrap(),
            Self::Go(client) => client.tell("notify", route, &body),
        }
    }

    /// The body of the next push of the route `onText`.
    pub(crate) async fn push(&mut self) -> Value {
        match self {
            Self::Ours(_, pushes) => crate::next_push(pushes).await,
            Self::Go(client) => {
                let push = client.pushes.recv();
                let push = tokio::time::timeout(PATIENCE, push).await.expect("a push");
                push.expect("still connected")
            }
        }
    }

    /// Waits until the server kicks it. The text, if this client can see it.
    pub(crate) async fn kicked(&mut self) -> Option<String> {
        match self {
            Self::Ours(client, _) => {
                let closed = tokio::time::timeout(PATIENCE, client.closed()).await;
                match closed.expect("closed in time") {
                    CloseKind::Kicked { reason } => Some(reason.unwrap_or_default()),
                    other => panic!("not kicked: {other:?}"),
                }
            }
            Self::Go(client) => {
                let end = tokio::time::timeout(PATIENCE, client.ends.recv()).await;
                assert_eq!(end.expect("an end in time").as_deref(), Some("kick"));
                None
            }
        }
    }
}

/// An error in Pitaya's form.
fn refusal(error: &Value) -> Refusal {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    Refusal {
        code: text("code"),
        text: text("msg"),
        metadata: metadata(error),
    }
}

fn metadata(error: &Value) -> BTreeMap<String, String> {
    let entries = error["metadata"].as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// The client of the published Go module, in a process that does what it is told.
pub(crate) struct GoClient {
    stdin: ChildStdin,
    answers: mpsc::UnboundedReceiver<Value>,
    pushes: mpsc::UnboundedReceiver<Value>,
    ends: mpsc::UnboundedReceiver<String>,
    _program: Program,
}

impl GoClient {
    async fn connect(program: &Path, address: &str) -> Self {
        let mut child = Command::new(program)
            .args(["-client", address.trim_start_matches("tcp://")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(crate::output())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (answer, mut answers) = mpsc::unbounded_channel();
        let (push, pushes) = mpsc::unbounded_channel();
        let (end, ends) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap();
                let _ = match event["event"].as_str().unwrap() {
                    "push" if event["route"] == "onText" => {
                        push.send(event["body"].clone()).is_ok()
                    }
                    "push" => true,
                    "kick" | "closed" => end.send(event["event"].as_str().unwrap().into()).is_ok(),
                    _ => answer.send(event).is_ok(),
                };
            }
        });
        let connected = tokio::time::timeout(PATIENCE, answers.recv()).await;
        assert_eq!(
            connected.unwrap().expect("the client connects")["event"],
            "connected"
        );
        Self {
            stdin,
            answers,
            pushes,
            ends,
            _program: Program::of(child),
        }
    }

    fn tell(&mut self, what: &str, route: &str, body: &Value) {
        let command = json!({ "do": what, "route": route, "body": body });
        writeln!(self.stdin, "{command}").unwrap();
    }

    async fn request(&mut self, route: &str, body: &Value) -> Result<Value, Refusal> {
        self.tell("request", route, body);
        // One at a time, so the next two events are of it: that it was sent, and its answer, in any order.
        let (mut sent, mut answer) = (None, None);
        while sent.is_none() || answer.is_none() {
            let event = tokio::time::timeout(PATIENCE, self.answers.recv()).await;
            let event = event.expect("an answer in time").expect("the client lives");
            if event["event"] == "sent" {
                sent = Some(event);
            } else {
                answer = Some(event);
            }
        }
        let (sent, answer) = (sent.unwrap(), answer.unwrap());
        assert_eq!(sent["id"], answer["id"]);
        if answer["event"] == "answer" {
            return Ok(answer["body"].clone());
        }
        Err(refusal(&answer["body"]))
    }
}
