//! Adapter for `clients/conformance`: reads commands as lines of JSON, and writes events as lines of JSON.
//!
//! ```sh
//! cargo build -p shaddock-client --example conformance
//! node clients/conformance/server.mjs run -- target/debug/examples/conformance
//! ```
//!
//! The client does not come back to a server that has not granted it a session which outlives its socket. This program does, as an application would.

use std::{error::Error, sync::Arc, time::Duration};

use serde_json::{Value, json};
use shaddock_client::{
    Client, ClientBuilder, CloseKind, ConnectError, Reconnect, RequestError, SessionEvent,
};
use shaddock_protocol::Dialect;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// The client of one case.
struct Case {
    client: watch::Receiver<Option<Client>>,
    /// In the order of the commands; a notify waits while too much is kept.
    notifies: mpsc::UnboundedSender<(String, Value)>,
    /// Told to close before it has connected, or while it comes back.
    closes: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Case {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn tell(event: &Value) {
    println!("{event}");
}

fn name_of(kind: &CloseKind) -> &'static str {
    match kind {
        CloseKind::ClosedByClient => "closed",
        CloseKind::Kicked { .. } => "kicked",
        CloseKind::Refused { .. } => "refused",
        CloseKind::Protocol(_) => "protocol",
        _ => "lost",
    }
}

/// Lives through one session after the other.
async fn live(builder: ClientBuilder, url: String, client: watch::Sender<Option<Client>>) {
    let mut is_first = true;
    loop {
        let connected = builder
            .connect_with(&url, |client| (client.events(), client.subscribe_all()))
            .await;
        let (mine, (mut events, mut pushes)) = match connected {
            Ok(connected) => connected,
            Err(ConnectError::Refused { .. }) => {
                return tell(&json!({"event": "closed", "reason": "refused"}));
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let event = if is_first { "open" } else { "restarted" };
        is_first = false;
        client.send_replace(Some(mine.clone()));
        tell(&json!({"event": event, "lost": 0}));
        let closed = loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => tell_event(&mine, &event),
                push = pushes.recv() => match push {
                    Some(push) => tell(&json!({"event": "push", "route": push.route(), "body": push.json::<Value>().unwrap_or_default()})),
                    None => break mine.closed().await,
                },
            }
        };
        if !closed.may_reconnect() {
            if let CloseKind::Kicked { reason } = &closed {
                let reason = reason.as_deref().unwrap_or_default();
                tell(&json!({"event": "kicked", "reason": reason}));
            }
            return tell(&json!({"event": "closed", "reason": name_of(&closed)}));
        }
        tell(&json!({"event": "suspended", "resumable": false}));
    }
}

fn tell_event(client: &Client, event: &SessionEvent) {
    match event {
        SessionEvent::Suspended(_) => {
            tell(&json!({"event": "suspended", "resumable": client.is_resumable()}));
        }
        SessionEvent::Resumed { missed } => tell(&json!({"event": "resumed", "missed": missed})),
        SessionEvent::Restarted { lost, .. } => tell(&json!({"event": "restarted", "lost": lost})),
        _ => {}
    }
}

fn connect(command: &Value) -> Case {
    let text = |name: &str| command[name].as_str().unwrap_or_default().to_owned();
    let waits = (Duration::from_millis(20), Duration::from_millis(100));
    let mut builder = Client::builder().resume(Reconnect::new().waits(waits.0, waits.1));
    if text("dialect") == "pitaya" {
        builder = builder.dialect(Dialect::Pitaya);
    }
    if let Some(ms) = command["requestTimeout"].as_u64() {
        builder = builder.request_timeout(Some(Duration::from_millis(ms)));
    }
    let (sender, client) = watch::channel(None::<Client>);
    let (notifies, mut waiting) = mpsc::unbounded_channel::<(String, Value)>();
    let mut present = client.clone();
    let notify = tokio::spawn(async move {
        while let Some((route, body)) = waiting.recv().await {
            let Ok(client) = present.wait_for(Option::is_some).await.map(|it| it.clone()) else {
                return;
            };
            if let Some(client) = client
                && client.notify(&route, &body).await.is_err()
            {
                tell(&json!({"event": "failed", "code": "closed"}));
            }
        }
    });
    let closes = Arc::new(Notify::new());
    let (url, told) = (text("url"), Arc::clone(&closes));
    let lives = tokio::spawn(async move {
        tokio::select! {
            () = live(builder, url, sender) => {}
            () = told.notified() => tell(&json!({"event": "closed", "reason": "closed"})),
        }
    });
    Case {
        client,
        notifies,
        closes,
        tasks: vec![notify, lives],
    }
}

fn request(case: &mut Case, command: &Value) {
    let (id, body) = (command["id"].clone(), command["body"].clone());
    let route = command["route"].as_str().unwrap_or_default().to_owned();
    let client = case.client.borrow().clone();
    case.tasks.push(tokio::spawn(async move {
        let answer = match client {
            Some(client) => client.request::<_, Value>(&route, &body).await,
            None => Err(RequestError::Closed(CloseKind::ClosedByClient)),
        };
        tell(&match answer {
            Ok(body) => json!({"event": "answer", "id": id, "body": body}),
            Err(error) => failed(&id, &error),
        });
    }));
}

fn failed(id: &Value, error: &RequestError) -> Value {
    let code = match error {
        RequestError::Timeout => "timeout",
        RequestError::Lost => "lost",
        RequestError::Closed(kind) if kind.may_reconnect() => "lost",
        RequestError::Closed(_) => "closed",
        RequestError::Server(error) => {
            let body = error.json::<Value>().unwrap_or_default();
            return json!({"event": "failed", "id": id, "code": "answer", "body": body});
        }
        _ => "protocol",
    };
    json!({"event": "failed", "id": id, "code": code})
}

/// Whether more commands follow.
fn obey(case: &mut Option<Case>, command: &Value) -> bool {
    match (command["do"].as_str().unwrap_or_default(), case.as_mut()) {
        ("connect", _) => *case = Some(connect(command)),
        ("request", Some(case)) => request(case, command),
        ("notify", Some(case)) => {
            let route = command["route"].as_str().unwrap_or_default().to_owned();
            // Its reader lives as long as the case.
            let _ = case.notifies.send((route, command["body"].clone()));
        }
        ("cut", Some(case)) => {
            if let Some(client) = &*case.client.borrow() {
                client.interrupt();
            }
        }
        ("close", Some(case)) => {
            let client = case.client.borrow().clone();
            match client {
                Some(client) => {
                    case.tasks
                        .push(tokio::spawn(async move { client.close().await }));
                }
                None => case.closes.notify_one(),
            }
        }
        ("reset", _) => {
            *case = None;
            tell(&json!({"event": "reset"}));
        }
        ("end", _) => return false,
        _ => {}
    }
    true
}

/// One thread: what comes together is told in its order.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut case = None;
    while let Some(line) = lines.next_line().await? {
        if !obey(&mut case, &serde_json::from_str(&line)?) {
            break;
        }
    }
    Ok(())
}
