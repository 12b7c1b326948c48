//! `examples/lobby` as a cluster: its program runs as two connectors and two lobbies on NATS and etcd, by configuration alone. (The tests of
//! the program run it in one process.) A test of that package, because cargo tells only those where the program is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use servers::Backing;
use shaddock_client::{Client, Subscription};
use wait::{PATIENCE, eventually, found};

#[path = "../../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../../shaddock-cluster/tests/support/servers.rs"]
mod servers;
#[path = "../../../shaddock-cluster/tests/support/wait.rs"]
mod wait;

const LOBBY: &str = env!("CARGO_BIN_EXE_lobby");

/// The servers write their own logs.
const fn logs() {}

/// A folder for files of the servers, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One process of the cluster. Killed when dropped.
struct Server(Child);

impl Server {
    fn start(config: &Path, kind: &str, number: usize, more: &[String]) -> Self {
        let mut command = Command::new(LOBBY);
        command.arg("--config").arg(config);
        for setting in [
            format!("app.servers={kind}"),
            format!("app.number={number}"),
        ]
        .iter()
        .chain(more)
        {
            command.args(["--set", setting]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // Read to the end: a full pipe would drop lines.
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if std::env::var_os("SHADDOCK_TEST_LOG").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        Self(child)
    }

    /// Drains, and ends well.
    fn stop(&mut self) {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        let ended = found("the end of a server", || self.0.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn player(address: &str, name: &str, world: &str) -> (Client, Subscription) {
    let login = json!({"token": format!("{name}.secret"), "world": world});
    let mut client = None;
    eventually(&format!("{address} lets {name} in"), async || {
        let builder = Client::builder().user(login.clone());
        client = builder
            .request_timeout(Some(PATIENCE))
            .connect(address)
            .await
            .ok();
        client.is_some()
    })
    .await;
    let client = client.unwrap();
    let pushes = client.subscribe_all();
    (client, pushes)
}

/// The next push of this route that is as it should be.
async fn hears(pushes: &mut Subscription, route: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let next = async {
        loop {
            let push = pushes.recv().await.expect("the connection is still open");
            let body: Value = push.json().unwrap();
            if push.route() == route && wanted(&body) {
                return body;
            }
        }
    };
    let next = tokio::time::timeout(PATIENCE, next).await;
    next.unwrap_or_else(|_| panic!("no push {route}"))
}

/// The connectors know both lobbies: only then they agree where a world is.
async fn all_know_all(admins: &[String]) {
    for admin in admins {
        eventually("a server knows the four of them", async || {
            let listed = get(admin, "/api/servers");
            listed["servers"]
                .as_array()
                .is_some_and(|all| all.len() == 4)
        })
        .await;
    }
}

fn get(admin: &str, path: &str) -> Value {
    use std::io::{Read as _, Write as _};
    let mut answer = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(admin) {
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let asked = stream.write_all(request.as_bytes());
        let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_is_every_server_of_a_cluster() {
    let backing = Backing::start();
    let folder = Folder::new("lobby-cluster");
    let config = folder.path("cluster.toml");
    let (nats, etcd) = (backing.nats.address, backing.etcd.address);
    let text = format!(
        "[cluster]\nmode = \"nats\"\nnats_urls = [\"nats://{nats}\"]\netcd_endpoints = [\"{etcd}\"]\n[drain]\nspread = \"0s\"\n"
    );
    fs::write(&config, text).unwrap();
    let free = || format!("127.0.0.1:{}", ports::free_port());
    let listen: Vec<String> = (0..2).map(|_| free()).collect();
    let admins: Vec<String> = (0..4).map(|_| free()).collect();
    let mut servers = Vec::new();
    for (n, admin) in admins.iter().enumerate() {
        let number = n % 2 + 1;
        let scores = folder.path(&format!("scores-{number}.json"));
        let mut more = vec![format!("admin.address={admin}")];
        let kind = if n < 2 {
            more.push(format!("listen.address={}", listen[n]));
            "connector"
        } else {
            more.push(format!("app.scores={}", scores.display()));
            "lobby"
        };
        servers.push(Server::start(&config, kind, number, &more));
    }
    all_know_all(&admins).await;
    let address = |n: usize| format!("tcp://{}", listen[n]);

    // Worlds are spread over the lobbies, and the players of each meet, whichever connector they are at.
    for world in 0..8 {
        let name = |who: &str| format!("{who}-{world}");
        let (ann, mut to_ann) = player(&address(0), &name("ann"), &name("world")).await;
        let (bob, mut to_bob) = player(&address(1), &name("bob"), &name("world")).await;
        for client in [&ann, &bob] {
            let _: Value = client
                .request("lobby.match.join", &json!({}))
                .await
                .unwrap();
        }
        let met = hears(&mut to_ann, "onMatch", |_| true).await;
        assert_eq!(met["players"], json!([name("ann"), name("bob")]));
        let _: Value = ann
            .request("lobby.world.walk", &json!([1, 0]))
            .await
            .unwrap();
        let walked = |place: &Value| place[name("ann")] == json!([1, 0]);
        hears(&mut to_bob, "onWorld", walked).await;
        let whisper = json!({"to": name("ann"), "text": "hi"});
        let _: Value = bob.request("lobby.chat.whisper", &whisper).await.unwrap();
        let heard = hears(&mut to_ann, "onWhisper", |_| true).await;
        assert_eq!(heard, json!({"from": name("bob"), "text": "hi"}));
        // The same player on the other connector: one session only.
        let (_again, _) = player(&address(0), &name("bob"), &name("world")).await;
        let ended = tokio::time::timeout(PATIENCE, bob.closed()).await;
        assert!(ended.unwrap().to_string().contains("replaced"));
    }
    for server in &mut servers {
        server.stop();
    }
    let mut steps = 0;
    for number in [1, 2] {
        let saved = fs::read(folder.path(&format!("scores-{number}.json"))).unwrap();
        let saved: Value = serde_json::from_slice(&saved).unwrap();
        let players = saved.as_object().unwrap();
        assert!(!players.is_empty(), "both lobbies have worlds");
        steps += players.len();
    }
    assert_eq!(steps, 8, "each world is at one lobby");
}

/// `--check` also reads the section of the program.
#[test]
fn a_check_reads_the_settings_of_the_program() {
    let check = |settings: &[&str]| {
        let mut command = Command::new(LOBBY);
        command.arg("--check");
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    // Nothing is started: the address is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("listen.address={}", taken.local_addr().unwrap());
    let (is_valid, text) = check(&[&address, "app.number=2"]);
    assert!(is_valid && text.contains("is valid"), "{text}");
    for (setting, told) in [
        ("app.number=two", "app.number"),
        ("listen.addres=x", "listen.address"),
    ] {
        let (is_valid, text) = check(&[setting]);
        assert!(!is_valid && text.contains(told), "{setting}: {text}");
        assert!(!text.contains("is valid"), "{setting}: {text}");
    }
}
