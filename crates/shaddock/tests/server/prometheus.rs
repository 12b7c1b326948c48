//! A real Prometheus scrapes a server under load: the queries of the monitoring guide return data, and quantiles of all histograms are numbers.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use serde_json::{Value, json};
use shaddock::{admin::Admin, launch::Launcher, prelude::*};
use shaddock_client::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::http::{Say, Service};
use crate::wait::{PATIENCE, breathe};

/// Prometheus on a free port, with its files in a folder of its own. Both are removed when it is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    /// `None` if it is not installed, which in CI is a failure.
    fn start(admin: SocketAddr) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("shaddock-prom-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\n\
             scrape_configs: [{{ job_name: shaddock, static_configs: [{{ targets: ['{admin}'] }}] }}]\n"
        );
        std::fs::write(&config, text).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut child = match spawned {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!in_ci, "prometheus is not installed");
                eprintln!(
                    "SKIPPED, because prometheus is not installed (`scripts/test packages` installs it)"
                );
                return None;
            }
            spawned => spawned.unwrap(),
        };
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut started = Self {
            child,
            address: admin,
            folder,
        };
        let mut said = String::new();
        started.address = loop {
            let begin = said.len();
            assert_ne!(
                log.read_line(&mut said).unwrap(),
                0,
                "prometheus ended:\n{said}"
            );
            let line: Value = serde_json::from_str(&said[begin..]).unwrap_or_default();
            if line["msg"] == "Listening on" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        // Read on, so that it never waits for this test.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(started)
    }

    /// The value of each series that the query returns. Empty while Prometheus is not ready.
    async fn query(&self, query: &str) -> Vec<f64> {
        let (status, answer) = get(
            self.address,
            &format!("/api/v1/query?query={}", escaped(query)),
        )
        .await;
        if status == 503 {
            return Vec::new();
        }
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap();
        series
            .iter()
            .map(|one| one["value"][1].as_str().unwrap().parse().unwrap())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn escaped(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    bytes.concat()
}

/// The status and the body of a response.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // HTTP/1.0 has no chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

/// The queries in the table of the monitoring guide.
fn queries_of_the_guide(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(page);
    let guide = std::fs::read_to_string(path).unwrap();
    let mut tables = guide.split("\n\n").filter(|part| part.starts_with('|'));
    let table = tables.next().unwrap();
    let queries = table
        .lines()
        .flat_map(|row| row.split('`').skip(1).step_by(2));
    queries.map(str::to_owned).collect()
}

/// The quantile of each histogram that the server exports, so that a new one cannot be forgotten here.
async fn quantiles(admin: SocketAddr) -> Vec<String> {
    let (_, metrics) = get(admin, "/metrics").await;
    let histograms = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"));
    histograms
        .map(|name| format!("histogram_quantile(0.5, sum by (le) (rate({name}_bucket[1m])))"))
        .collect()
}

/// A frontend, a backend and a service over HTTP. One request of the first route is a call between servers too.
fn servers(launcher: &Launcher, service: &Service) -> Servers {
    let mut connector = App::new("connector", "connector-1");
    launcher.configure(&mut connector);
    connector.listen("127.0.0.1:0");
    connector.route(
        "h.sum",
        async |Ctx(app): Ctx, Json(list): Json<Vec<u64>>| {
            let sum: u64 = app.rpc("room.calc.sum").call(&list).await?;
            Ok::<_, HandlerError>(Json(sum))
        },
    );
    connector.http_backend("shop", service.backend());
    let mut room = App::new("room", "room-1");
    launcher.configure(&mut room);
    room.remote("calc.sum", async |Json(list): Json<Vec<u64>>| {
        Json(list.iter().sum::<u64>())
    });
    room.route("h.enter", async || {});
    room.route("h.fails", async || {
        Err::<(), _>(HandlerError::new("ROOM-1", "full"))
    });
    Servers::new().workers(1).add(connector).add(room)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quantiles_are_numbers_and_the_queries_of_the_guide_return_data() {
    let service = Service::start(|_| Say::Json(json!({ "body": 7 }))).await;
    let launcher = Launcher::new(shaddock::config::Sources::default()).unwrap();
    let operations = launcher.operations();
    let admin = Admin::bind(
        ([127, 0, 0, 1], 0).into(),
        &launcher.config().admin,
        operations.clone(),
    );
    let admin = admin.await.unwrap();
    let address = admin.local_addr();
    let Some(prometheus) = Prometheus::start(address) else {
        return;
    };
    let serving = tokio::spawn(admin.serve(std::future::pending()));
    let running = servers(&launcher, &service).start().await.unwrap();
    operations.running(running.apps());

    let port = running.address("connector-1").unwrap();
    let load = tokio::spawn(async move {
        loop {
            // A session that ends, for the rate of closed sessions.
            let client = Client::connect(&format!("tcp://{port}")).await.unwrap();
            for route in [
                "connector.h.sum",
                "room.h.enter",
                "room.h.fails",
                "shop.h.buy",
            ] {
                let answer = client.request::<_, Value>(route, &json!([1, 2])).await;
                assert_eq!(
                    answer.is_err(),
                    route == "room.h.fails",
                    "{route}: {answer:?}"
                );
                breathe().await;
            }
        }
    });
    let mut queries = quantiles(address).await;
    assert!(queries.len() >= 4, "{queries:?}");
    for page in ["docs/monitoring.md", "docs/zh-CN/monitoring.md"] {
        let guide = queries_of_the_guide(page);
        assert!(guide.len() >= 8, "{page}: {guide:?}");
        queries.extend(guide);
    }
    for query in &queries {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            let values = prometheus.query(query).await;
            if values.iter().any(|value| value.is_finite()) {
                break;
            }
            assert!(!load.is_finished(), "the load has ended");
            assert!(Instant::now() < end, "no number: {query}: {values:?}");
            breathe().await;
        }
    }
    load.abort();
    running.shutdown().await;
    serving.abort();
}
