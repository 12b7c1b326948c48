//! Pomelo's chat sample in a terminal: ask the gate for a connector, enter a room, talk.
//!
//! ```text
//! cargo run -p shaddock-client --example chat -- ws://127.0.0.1:3014 ann lobby
//! ```
//!
//! A line is said to the whole room, `/to bob hello` to bob alone, `/quit` or end of input leaves.

use std::error::Error;

use serde::Deserialize;
use serde_json::{Value, json};
use shaddock_client::{Client, Push, Subscription};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// `gate.gateHandler.queryEntry`
#[derive(Deserialize)]
struct Entry {
    host: String,
    port: u16,
}

/// `connector.entryHandler.enter`
#[derive(Deserialize)]
struct Entered {
    users: Vec<String>,
}

#[derive(Deserialize)]
struct Chat {
    from: String,
    target: String,
    msg: String,
}

#[derive(Deserialize)]
struct User {
    user: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(gate), Some(name), Some(room)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: chat <gate address> <name> <room>".into());
    };
    let connector = connector(&gate, &name).await?;
    let (client, pushes) = Client::builder()
        .connect_with(&connector, Client::subscribe_all)
        .await?;
    let enter = json!({"username": name, "rid": room});
    let entered: Entered = client
        .request("connector.entryHandler.enter", &enter)
        .await?;
    println!("* in {room} at {connector}: {}", entered.users.join(", "));

    let printer = tokio::spawn(print(pushes));
    tokio::select! {
        said = talk(&client, &name, &room) => {
            said?;
            client.close().await;
        }
        kind = client.closed() => println!("* {kind}"),
    }
    printer.await?;
    Ok(())
}

/// Asks the gate which connector to use, and says goodbye to it. The address has the gate's scheme.
async fn connector(gate: &str, name: &str) -> Result<String, Box<dyn Error>> {
    let client = Client::connect(gate).await?;
    let entry: Entry = client
        .request("gate.gateHandler.queryEntry", &json!({"uid": name}))
        .await?;
    client.close().await;
    let scheme = gate.split(':').next().unwrap_or("ws");
    Ok(format!("{scheme}://{}:{}", entry.host, entry.port))
}

/// Sends what is typed, until there is no more.
async fn talk(client: &Client, name: &str, room: &str) -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let line = line.trim();
        if line == "/quit" {
            break;
        }
        let private = line
            .strip_prefix("/to ")
            .and_then(|rest| rest.split_once(' '));
        let (target, content) = private.unwrap_or(("*", line));
        if content.is_empty() {
            continue;
        }
        let message = json!({"rid": room, "content": content, "from": name, "target": target});
        let answer = client
            .request::<_, Value>("chat.chatHandler.send", &message)
            .await;
        match answer {
            Ok(_) if target != "*" => println!("{name} to {target}: {content}"),
            Ok(_) => {}
            Err(error) => println!("* not sent: {error}"),
        }
    }
    Ok(())
}

/// Prints what the room says, until the connection ends.
async fn print(mut pushes: Subscription) {
    while let Some(push) = pushes.recv().await {
        let line = line(&push).unwrap_or_else(|| {
            let body = String::from_utf8_lossy(push.body());
            format!("* {}: {body}", push.route())
        });
        println!("{line}");
    }
}

/// A push for people; `None` if it is none of the three that the sample knows.
fn line(push: &Push) -> Option<String> {
    Some(match push.route() {
        "onChat" => {
            let chat: Chat = push.json().ok()?;
            match chat.target.as_str() {
                "*" => format!("{}: {}", chat.from, chat.msg),
                target => format!("{} to {target}: {}", chat.from, chat.msg),
            }
        }
        "onAdd" => format!("* {} is here", push.json::<User>().ok()?.user),
        "onLeave" => format!("* {} has left", push.json::<User>().ok()?.user),
        _ => return None,
    })
}
