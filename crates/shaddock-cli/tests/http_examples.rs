//! The chats in `examples/http`, each behind `shaddock serve` with the configuration beside them: the contract of Pomelo's chat sample in every
//! language, and what their signature checks let through. `tests/js/http-examples.test.js` has the demo's page in front of them.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;
use serde_json::{Value, json};
use shaddock_client::{Client, RequestError, Subscription};

const NEW: &str = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5l";
const OLD: &str = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9s";
const STRANGE: &str = "whsec_c3RyYW5nZS1zdHJhbmdlLXN0cmFuZ2Utc3RyYW5n";
/// A machine with too much to do is slow, and still right.
const LONG: Duration = Duration::from_secs(60);

/// A process that ends with the test, and what it said when it was ready.
struct Running(Child, String);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program; `None` if it is not installed.
fn start(command: &mut Command) -> Option<Running> {
    let spawned = command.stdout(Stdio::piped()).spawn();
    if matches!(&spawned, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        eprintln!("{command:?} is not installed: its example is not tested");
        return None;
    }
    let mut child = spawned.unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    // Read on, so that it never waits for us.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Some(Running(child, line))
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/http")
        .join(name)
}

/// A file name of this test's own.
fn scratch(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    let name = format!("shaddock-{name}-{}-{number}", std::process::id());
    std::env::temp_dir().join(name)
}

/// Two secrets with a common mistake: parts without a key are not keys, so an empty key never signs.
fn secrets() -> String {
    format!(" {NEW}  whsec_ {OLD} ")
}

/// PHP's server cannot choose a free port: the test looks for one, and for another if that was taken meanwhile. The server is ready when it
/// responds with this status to an unsigned request.
fn chat_in_php(file: &str, secrets: &str, refuses: u16) -> Option<(Running, u16)> {
    let deadline = Instant::now() + LONG;
    let state = scratch("chat.json");
    while Instant::now() < deadline {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let _ = std::fs::remove_file(&state);
        let mut command = Command::new("php");
        command
            .args(["-S", &format!("127.0.0.1:{port}")])
            .arg(example(file))
            .env("CHAT_SECRET", secrets)
            .env("CHAT_STATE", &state)
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        let spawned = command.spawn();
        if matches!(&spawned, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            eprintln!(
                "php is not installed (`scripts/test packages` installs php-cli): its example is not tested"
            );
            return None;
        }
        let mut running = Running(spawned.unwrap(), String::new());
        while running.0.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok()
                && post(port, "ready", 0, &[]).0 == refuses
            {
                return Some((running, port));
            }
            assert!(Instant::now() < deadline, "php does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!("php finds no port");
}

/// The chat on a free port, which knows two secrets.
fn chat(program: &str, file: &str) -> Option<(Running, u16)> {
    if program == "php" {
        return chat_in_php(file, &secrets(), 401);
    }
    let mut command = chat_command(program, file)?;
    command.arg("0").env("CHAT_SECRET", secrets());
    let running = start(&mut command)?;
    let port = running
        .1
        .trim()
        .strip_prefix("listening on ")
        .map(str::parse);
    let port = port.expect("it says where it listens").unwrap();
    Some((running, port))
}

/// `None` if the program is not installed.
fn chat_command(program: &str, file: &str) -> Option<Command> {
    let mut command = Command::new(program);
    if program == "go" {
        // `go run` would leave its child behind.
        let binary = scratch("chat");
        let mut go = Command::new("go");
        let built = go.args(["build", "-o"]).arg(&binary).arg(example(file));
        match built.status() {
            Ok(status) => assert!(status.success(), "go build {file}"),
            Err(error) => {
                eprintln!("go is not installed ({error}): its example is not tested");
                return None;
            }
        }
        command = Command::new(binary);
    } else {
        command.arg(example(file));
    }
    Some(command)
}

fn serve(chat: u16) -> (Running, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shaddock"));
    command
        .arg("serve")
        .arg("--config")
        .arg(example("shaddock.toml"))
        .args([
            "--set",
            "listen.address=127.0.0.1:0",
            "--set",
            "admin.address=",
        ])
        .args(["connector", "chat"].iter().flat_map(|one| {
            let url = format!("backends.{one}.url=http://127.0.0.1:{chat}/shaddock");
            let timeout = format!("backends.{one}.timeout=60s");
            ["--set".to_owned(), url, "--set".to_owned(), timeout]
        }))
        .env("CHAT_SECRET", NEW);
    let running = start(&mut command).unwrap();
    let (_, address) = running
        .1
        .trim()
        .rsplit_once(' ')
        .expect("it says where it listens");
    let address = format!("tcp://{address}");
    (running, address)
}

async fn heard(pushes: &mut Subscription) -> (String, Value) {
    let push = tokio::time::timeout(LONG, pushes.recv()).await;
    let push = push.expect("a push").unwrap();
    (push.route().to_owned(), push.json().unwrap())
}

async fn contract(program: &str, file: &str) {
    let Some((_chat, port)) = chat(program, file) else {
        return;
    };
    let (_serve, address) = serve(port);
    let connect = async || {
        let builder = Client::builder()
            .connect_timeout(LONG)
            .request_timeout(Some(LONG));
        builder.connect(&address).await.unwrap()
    };
    let (ann, bob) = (connect().await, connect().await);
    let mut to_ann = ann.subscribe_all();
    // Refused with `{"code": 500, "error": true}`, which the client takes for an error.
    let enter = async |client: &Client, name: &str, room: &str| {
        let body = json!({"username": name, "rid": room});
        let entered = client.request("connector.entryHandler.enter", &body).await;
        match entered {
            Ok(value) => value,
            Err(RequestError::Server(error)) => json!(error.code()),
            Err(other) => panic!("{other}"),
        }
    };
    let send = async |client: &Client, text: &str, target: &str| {
        let body = json!({"rid": "lobby", "content": text, "from": "forged", "target": target});
        let sent = client.request("chat.chatHandler.send", &body).await;
        match sent.map(|sent: Value| sent["code"].to_string()) {
            Ok(code) => code,
            Err(RequestError::Server(error)) => error.code().to_owned(),
            Err(other) => panic!("{other}"),
        }
    };
    let refused = json!("500");
    assert_eq!(enter(&ann, "ann", "lobby").await, json!({"users": ["ann"]}));
    assert_eq!(send(&bob, "hi", "*").await, "500", "in no room");
    for name in ["ann", "", "a*b"] {
        assert_eq!(enter(&bob, name, "lobby").await, refused, "{name}");
    }
    assert_eq!(
        enter(&bob, "bob", "lobby").await,
        json!({"users": ["ann", "bob"]})
    );
    assert_eq!(enter(&bob, "bob", "attic").await, refused, "in a room");
    assert_eq!(
        heard(&mut to_ann).await,
        ("onAdd".to_owned(), json!({"user": "bob"}))
    );
    // The same name in another room is another user, who hears nothing of this one.
    let stranger = connect().await;
    let mut to_stranger = stranger.subscribe_all();
    assert_eq!(
        enter(&stranger, "ann", "attic").await,
        json!({"users": ["ann"]})
    );
    let mut to_bob = bob.subscribe_all();
    assert_eq!(send(&bob, "hé 房", "*").await, "200");
    let said = json!({"msg": "hé 房", "from": "bob", "target": "*"});
    assert_eq!(
        heard(&mut to_ann).await,
        ("onChat".to_owned(), said.clone())
    );
    assert_eq!(heard(&mut to_bob).await, ("onChat".to_owned(), said));
    assert_eq!(send(&bob, "psst", "ann").await, "200");
    let said = json!({"msg": "psst", "from": "bob", "target": "ann"});
    assert_eq!(heard(&mut to_ann).await, ("onChat".to_owned(), said));
    assert_eq!(send(&bob, "psst", "nobody").await, "404");
    assert_eq!(send(&stranger, "alone", "*").await, "200");
    let said = json!({"msg": "alone", "from": "ann", "target": "*"});
    assert_eq!(
        heard(&mut to_stranger).await,
        ("onChat".to_owned(), said),
        "the first that they hear"
    );
    drop((bob, to_bob));
    assert_eq!(
        heard(&mut to_ann).await,
        ("onLeave".to_owned(), json!({"user": "bob"}))
    );
    let again = connect().await;
    assert_eq!(
        enter(&again, "bob", "lobby").await,
        json!({"users": ["ann", "bob"]})
    );
}

/// The whole server in Python that the READMEs show, with the command that they name.
async fn server_of(readme: &str) {
    let text = std::fs::read_to_string(example("../../").join(readme)).unwrap();
    let (_, code) = text.split_once("```python\n").expect("a server in Python");
    let (code, _) = code.split_once("```").unwrap();
    let file = scratch("server.py");
    std::fs::write(&file, code.replace("8000", "0")).unwrap();
    let mut command = Command::new("python3");
    let Some(server) = start(command.arg("-c").arg(PYTHON).arg(&file)) else {
        return;
    };
    let port = server.1.trim();
    let url = format!("backends.chat.url=http://127.0.0.1:{port}");
    let flags = [
        "listen.address=127.0.0.1:0",
        "admin.address=",
        "backends.chat.timeout=60s",
        &url,
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_shaddock"));
    command
        .arg("serve")
        .args(flags.iter().flat_map(|one| ["--set", one]));
    let serve = start(&mut command).unwrap();
    let (_, address) = serve.1.trim().rsplit_once(' ').unwrap();
    let builder = Client::builder()
        .connect_timeout(LONG)
        .request_timeout(Some(LONG));
    let client = builder.connect(&format!("tcp://{address}")).await.unwrap();
    let mut pushes = client.subscribe_all();
    let sid: String = client
        .request("chat.entryHandler.enter", &json!("ann"))
        .await
        .unwrap();
    assert!(sid.parse::<u64>().is_ok(), "{sid}");
    assert_eq!(
        heard(&mut pushes).await,
        ("onHello".to_owned(), json!("you are in"))
    );
    let unknown = client
        .request::<_, Value>("chat.entryHandler.leave", &json!({}))
        .await;
    assert!(matches!(unknown, Err(RequestError::Server(_))));
    let _ = std::fs::remove_file(file);
}

/// Runs a file, and says where it listens: the server of the READMEs says nothing.
const PYTHON: &str = "
import runpy, socketserver, sys
activate = socketserver.TCPServer.server_activate
def told(server):
    activate(server)
    print(server.server_address[1], flush=True)
socketserver.TCPServer.server_activate = told
runpy.run_path(sys.argv[1], run_name='__main__')
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_the_readme() {
    server_of("README.md").await;
    server_of("README.zh-CN.md").await;
}

/// Sends what a frontend could have sent, signed by `keys`; status and body.
fn post(port: u16, id: &str, age: u64, keys: &[&str]) -> (u16, String) {
    let body = br#"{"kind":"request","route":"connector.entryHandler.enter","session":{"sid":"7"},"body":{"username":"eve","rid":"attic"}}"#;
    let sent = (UNIX_EPOCH.elapsed().unwrap().as_secs() - age).to_string();
    let sign = |key: &&str| {
        let key = BASE64_STANDARD
            .decode(key.strip_prefix("whsec_").unwrap())
            .unwrap();
        let signed = [format!("{id}.{sent}.").as_bytes(), body].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
        format!("v1,{}", BASE64_STANDARD.encode(tag))
    };
    let signature = keys.iter().map(sign).collect::<Vec<_>>().join(" ");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let head = format!(
        "POST /shaddock/entryHandler.enter HTTP/1.0\r\nhost: x\r\ncontent-length: {}\r\nwebhook-id: {id}\r\n\
         webhook-timestamp: {sent}\r\nwebhook-signature: {signature}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn signatures(program: &str, file: &str) {
    let Some((_chat, port)) = chat(program, file) else {
        return;
    };
    for (what, id, age, keys) in [
        ("none", "a", 0, &[][..]),
        ("of another secret", "b", 0, &[STRANGE]),
        ("of an empty secret", "g", 0, &["whsec_"]),
        ("old", "c", 400, &[NEW]),
        ("old, both", "d", 400, &[NEW, OLD]),
    ] {
        assert_eq!(post(port, id, age, keys).0, 401, "{what}");
    }
    let (status, body) = post(port, "e", 0, &[STRANGE, OLD]);
    assert_eq!(status, 200);
    assert!(
        body.contains("eve") && body.contains("actions"),
        "one of two is right, and nothing before was carried out: {body}"
    );
    let again = post(port, "e", 0, &[NEW]);
    assert_eq!(again, (200, body), "repeated, and not carried out again");
    let (_, body) = post(port, "f", 0, &[NEW]);
    assert!(body.contains("500"), "another one: {body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_in_python() {
    contract("python3", "chat.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_in_node() {
    contract("node", "chat.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_in_php() {
    contract("php", "chat.php").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_in_go() {
    contract("go", "chat.go").await;
}

#[test]
fn without_a_key_nothing_is_served() {
    for (program, file) in [
        ("python3", "chat.py"),
        ("node", "chat.mjs"),
        ("go", "chat.go"),
    ] {
        let Some(mut command) = chat_command(program, file) else {
            continue;
        };
        command.arg("0").env("CHAT_SECRET", " whsec_ ");
        let Some(mut chat) = start(command.stderr(Stdio::null())) else {
            continue;
        };
        assert_eq!(chat.1, "", "{file} listens");
        assert!(!chat.0.wait().unwrap().success(), "{file}");
    }
    if let Some((_chat, port)) = chat_in_php("chat.php", " whsec_ ", 500) {
        assert_eq!(post(port, "a", 0, &["whsec_"]).0, 500);
    }
}

/// SIGHUP rotates the secret: the service knows only the new one, and what is no secret changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_rotates_the_secret() {
    let Some(mut chat) = chat_command("python3", "chat.py") else {
        return;
    };
    let Some(chat) = start(chat.arg("0").env("CHAT_SECRET", NEW)) else {
        return;
    };
    let port = chat.1.trim().strip_prefix("listening on ").unwrap();
    let file = scratch("rotated.toml");
    let write = |secrets: &str| {
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n[protocol]\npomelo_errors = \"text\"\n\
             [backends.chat]\nurl = \"http://127.0.0.1:{port}\"\ntimeout = \"60s\"\nsecret = [{secrets}]\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write(&format!("\"{OLD}\""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_shaddock"));
    let serve = start(command.arg("serve").arg("--config").arg(&file)).unwrap();
    let (_, address) = serve.1.trim().rsplit_once(' ').unwrap();
    let builder = Client::builder()
        .connect_timeout(LONG)
        .request_timeout(Some(LONG));
    let client = builder.connect(&format!("tcp://{address}")).await.unwrap();
    // In no room: the service's own error, if it accepts the signature.
    let error = async || {
        let body = json!({"content": "hi", "target": "*"});
        let sent = client.request::<_, Value>("chat.chatHandler.send", &body);
        match sent.await {
            Err(RequestError::Server(error)) => error.json::<Value>().unwrap()["error"]
                .as_str()
                .unwrap()
                .to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let reload = || {
        let pid = serve.0.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(sent.unwrap().success());
    };
    let [accepted, rejected] = ["CHAT-401", "PIT-500"];
    let wait_until = async |expected: &str| {
        let deadline = Instant::now() + LONG;
        while error().await != expected {
            assert!(Instant::now() < deadline, "no {expected} in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    wait_until(rejected).await;
    write(&format!("\"{NEW}\", \"{OLD}\""));
    reload();
    wait_until(accepted).await;
    write("\"whsec_abc\"");
    reload();
    write(&format!("\"{NEW}\""));
    reload();
    wait_until(accepted).await;
    write(&format!("\"{STRANGE}\""));
    reload();
    wait_until(rejected).await;
    let _ = std::fs::remove_file(file);
}

#[test]
fn signatures_in_php() {
    signatures("php", "chat.php");
}

#[test]
fn signatures_in_go() {
    signatures("go", "chat.go");
}

#[test]
fn signatures_in_python() {
    signatures("python3", "chat.py");
}

#[test]
fn signatures_in_node() {
    signatures("node", "chat.mjs");
}
