//! Real NATS and etcd servers on free ports, each with a directory of its own; stopped by their process id.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shaddock_cluster::{NatsCluster, NatsConfig};

use super::ports::{free_port, local};
use super::wait::{found, stopped};

/// A process that dies with this value.
struct Process {
    child: Option<Child>,
    command: Vec<String>,
    address: SocketAddr,
    ready: fn(SocketAddr) -> bool,
}

impl Process {
    fn start(command: Vec<String>, address: SocketAddr, ready: fn(SocketAddr) -> bool) -> Self {
        let mut process = Self {
            child: None,
            command,
            address,
            ready,
        };
        process.run();
        process
    }

    fn run(&mut self) {
        // With the test's own death the servers die too, even if it is killed.
        let with_setpriv = which("setpriv").is_some();
        let prefix: &[&str] = if with_setpriv {
            &["setpriv", "--pdeathsig", "KILL"]
        } else {
            &[]
        };
        let words: Vec<String> = prefix
            .iter()
            .map(ToString::to_string)
            .chain(self.command.iter().cloned())
            .collect();
        let quiet = || {
            if std::env::var_os("SHADDOCK_TEST_LOG").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            }
        };
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdout(quiet())
            .stderr(quiet())
            .spawn();
        self.child = Some(child.unwrap_or_else(|e| panic!("cannot start {}: {e}", words[0])));
        found(&format!("{} answers", self.command[0]), || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()?);
            assert!(ended.is_none(), "{} ended: {ended:?}", self.command[0]);
            (self.ready)(self.address).then_some(())
        });
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets the process stand still, or go on.
    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("running").id();
        assert!(
            Command::new("kill")
                .args([signal, &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
        if signal == "-STOP" {
            stopped(pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body of an answer, or nothing.
fn http_get(address: SocketAddr, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

fn http(address: SocketAddr, request: &str) -> String {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut answer = String::new();
    let asked = stream.write_all(request.as_bytes());
    if asked.is_err() || stream.read_to_string(&mut answer).is_err() {
        return String::new();
    }
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    body.unwrap_or_default().to_owned()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut coded = String::new();
    for three in text.as_bytes().chunks(3) {
        let mut bytes = [0; 4];
        bytes[1..=three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes(bytes);
        for n in 0..4 {
            let digit = usize::try_from(number >> (18 - 6 * n) & 63).unwrap();
            coded.push(if n > three.len() {
                '='
            } else {
                DIGITS[digit].into()
            });
        }
    }
    coded
}

/// etcd listens before it has a leader; only then it answers.
fn is_healthy(address: SocketAddr) -> bool {
    http_get(address, "/health").contains("\"true\"")
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/usr/local/bin"]);
    dirs.map(|dir| PathBuf::from(dir).join(program))
        .find(|file| file.is_file())
}

fn program(name: &str, package: &str) -> String {
    match which(name) {
        Some(path) => path.to_string_lossy().into_owned(),
        None => panic!("{name} is missing; install it with: apt-get install -y {package}"),
    }
}

pub struct NatsServer {
    process: Process,
    pub address: SocketAddr,
    /// Where it answers questions about itself, in HTTP.
    monitor: SocketAddr,
}

impl NatsServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// One of a cluster: others reach it at the first address, and it reaches another one at the second.
    pub fn start_in_cluster(routes: SocketAddr, other: Option<SocketAddr>) -> Self {
        let url = |address| format!("nats://{address}");
        let mut words = vec!["--cluster_name".to_owned(), "test".to_owned()];
        words.extend(["--cluster".to_owned(), url(routes)]);
        if let Some(other) = other {
            words.extend(["--routes".to_owned(), url(other)]);
        }
        Self::start_with(&words)
    }

    /// With a file of settings, which it has read when this returns.
    pub fn start_with_config(settings: &str) -> Self {
        let name = format!("shaddock-nats-{}-{}.conf", std::process::id(), free_port());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, settings).unwrap();
        let server = Self::start_with(&["-c".to_owned(), file.display().to_string()]);
        std::fs::remove_file(file).unwrap();
        server
    }

    /// With more arguments for the program.
    pub fn start_with(more: &[String]) -> Self {
        let (address, monitor) = (local(free_port()), local(free_port()));
        let words = [
            &program("nats-server", "nats-server"),
            "-a",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-m",
            &monitor.port().to_string(),
        ];
        let words = words.iter().map(ToString::to_string);
        let words = words.chain(more.iter().cloned()).collect();
        let process = Process::start(words, address, |address| {
            TcpStream::connect(address).is_ok()
        });
        Self {
            process,
            address,
            monitor,
        }
    }

    /// The subscriptions of the clients of this server, by their names and sorted: the server's own truth. Inboxes, in which a client
    /// gets answers, are left out.
    pub fn subscriptions(&self) -> BTreeMap<String, Vec<String>> {
        let body = http_get(self.monitor, "/connz?subs=1&limit=10000");
        let connections: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let mut all = BTreeMap::new();
        for connection in connections["connections"].as_array().into_iter().flatten() {
            let name = connection["name"].as_str().unwrap_or_default();
            let subjects = connection["subscriptions_list"].as_array();
            let subjects = subjects.into_iter().flatten().filter_map(|s| s.as_str());
            let list: &mut Vec<String> = all.entry(name.to_owned()).or_default();
            list.extend(
                subjects
                    .filter(|s| !s.starts_with("_INBOX"))
                    .map(str::to_owned),
            );
            list.sort();
        }
        all
    }

    /// To how many others of its cluster it is connected.
    pub fn routes(&self) -> u64 {
        let varz = http_get(self.monitor, "/varz");
        let varz: serde_json::Value = serde_json::from_str(&varz).unwrap_or_default();
        varz["routes"].as_u64().unwrap_or_default()
    }

    /// How many messages it was sent since its start.
    pub fn messages(&self) -> u64 {
        self.count("in_msgs")
    }

    /// How many messages it has passed on since its start.
    pub fn copies(&self) -> u64 {
        self.count("out_msgs")
    }

    fn count(&self, of: &str) -> u64 {
        let body = http_get(self.monitor, "/varz");
        let varz: serde_json::Value = serde_json::from_str(&body).unwrap();
        varz[of].as_u64().unwrap()
    }

    /// Bytes of messages that it was sent since its start, and that it has passed on.
    pub fn bytes(&self) -> (u64, u64) {
        let body = http_get(self.monitor, "/varz");
        let varz: serde_json::Value = serde_json::from_str(&body).unwrap();
        (
            varz["in_bytes"].as_u64().unwrap(),
            varz["out_bytes"].as_u64().unwrap(),
        )
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets it stand still.
    pub fn pause(&self) {
        self.process.signal("-STOP");
    }

    pub fn resume(&self) {
        self.process.signal("-CONT");
    }

    /// Tells it to send its clients elsewhere, and then to end.
    pub fn lame_duck(&self) {
        self.process.signal("-USR2");
    }

    /// Starts again on the same port.
    pub fn again(&mut self) {
        self.process.run();
    }
}

pub struct EtcdServer {
    process: Process,
    pub address: SocketAddr,
    directory: PathBuf,
}

impl EtcdServer {
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// For clients with this scheme, and with more arguments for the program.
    pub fn start_with(scheme: &str, more: &[String]) -> Self {
        let (client, peer) = (local(free_port()), local(free_port()));
        let health = local(free_port());
        // In memory where there is such a directory: etcd waits for the disk at every write.
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let name = format!("shaddock-etcd-{}-{}", std::process::id(), client.port());
        let directory = parent.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let (client_url, peer_url) = (format!("{scheme}://{client}"), format!("http://{peer}"));
        let mut words = vec![
            program("etcd", "etcd-server"),
            "--name=test".to_owned(),
            format!("--data-dir={}", directory.display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=test={peer_url}"),
            format!("--listen-metrics-urls=http://{health}"),
            "--log-level=error".to_owned(),
        ];
        words.extend_from_slice(more);
        let process = Process::start(words, health, is_healthy);
        Self {
            process,
            address: client,
            directory,
        }
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn again(&mut self) {
        self.process.run();
    }

    /// Ends it, and starts one at the same address that knows nothing.
    pub fn forget_everything(&mut self) {
        self.process.kill();
        std::fs::remove_dir_all(&self.directory).unwrap();
        std::fs::create_dir_all(&self.directory).unwrap();
        self.process.run();
    }

    pub fn pause(&self) {
        self.process.signal("-STOP");
    }

    pub fn resume(&self) {
        self.process.signal("-CONT");
    }

    /// All keys with a prefix, as `etcdctl` prints them.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let output = self.etcdctl(&["get", "--prefix", "--keys-only", prefix]);
        output
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Writes a key without the start of a program: for tests in which moments count.
    pub fn put_at_once(&self, key: &str, value: &str) {
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key), base64(value));
        let length = body.len();
        let head = format!("POST /v3/kv/put HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        let answer = http(self.address, &(head + &body));
        assert!(answer.contains("revision"), "{answer}");
    }

    /// How often it has been written to.
    pub fn revision(&self) -> i64 {
        let answer = self.etcdctl(&["get", "nothing", "-w", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["header"]["revision"].as_i64().unwrap()
    }

    /// Bytes of its database that are in use.
    pub fn in_use(&self) -> u64 {
        let answer = self.etcdctl(&["endpoint", "status", "-w", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer[0]["Status"]["dbSizeInUse"].as_u64().unwrap()
    }

    /// How many leases there are.
    pub fn leases(&self) -> usize {
        let output = self.etcdctl(&["lease", "list"]);
        // The first line says how many.
        output
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty())
            .count()
    }

    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(program("etcdctl", "etcd-client"))
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=http://{}", self.address))
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Both, for one test.
pub struct Backing {
    pub nats: NatsServer,
    pub etcd: EtcdServer,
}

impl Backing {
    pub fn start() -> Self {
        super::logs();
        Self {
            nats: NatsServer::start(),
            etcd: EtcdServer::start(),
        }
    }

    /// For servers that do not fail in a test: a machine may be slow, and must not look as if one had died or was cut off.
    pub fn patient_config(&self) -> NatsConfig {
        let mut config = self.config();
        config.lease_ttl = Duration::from_secs(60);
        config.request_timeout = Duration::from_secs(30);
        config.etcd_timeout = Duration::from_secs(30);
        config.nats_ping_interval = Duration::from_secs(30);
        config
    }

    /// Settings with short times for what is expected to go wrong, and a long one for requests.
    pub fn config(&self) -> NatsConfig {
        config(self.nats.address, self.etcd.address)
    }

    /// With [`patient_config`](Self::patient_config).
    pub fn cluster(&self) -> NatsCluster {
        NatsCluster::new(self.patient_config()).unwrap()
    }
}

/// The same for servers at these addresses.
pub fn config(nats: SocketAddr, etcd: SocketAddr) -> NatsConfig {
    let mut config = NatsConfig::default();
    config.nats_urls = vec![format!("nats://{nats}").into()];
    config.etcd_endpoints = vec![etcd.to_string().into()];
    config.nats_ping_interval = Duration::from_secs(1);
    config.nats_reconnect_delay = Duration::from_millis(50);
    config.etcd_timeout = Duration::from_secs(10);
    config.etcd_retry_delay = Duration::from_millis(100);
    config.lease_ttl = Duration::from_secs(4);
    config.rejoin_grace = Duration::from_secs(6);
    config.shutdown_delay = Duration::from_millis(100);
    config.request_timeout = Duration::from_secs(20);
    config
}
