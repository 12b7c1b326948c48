//! A service that says whatever a test wants, also what no HTTP library would: raw bytes over real sockets.

pub(crate) mod secure;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use shaddock::backend::HttpBackend;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What the service was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Value,
    /// The body as it was sent.
    pub(crate) bytes: Vec<u8>,
    pub(crate) connection: usize,
}

/// What it does.
#[derive(Clone)]
pub(crate) enum Say {
    /// An answer; the connection stays.
    Json(Value),
    /// An answer once this is true; the connection stays.
    Held(watch::Receiver<bool>, Value),
    /// These bytes; the connection stays.
    Bytes(Vec<u8>),
    /// These bytes, and then the connection ends.
    Last(Vec<u8>),
    /// Zeros until the reader is gone, after these bytes.
    Endless(Vec<u8>),
    /// Nothing, ever.
    Nothing,
}

type Answers = Arc<dyn Fn(&Asked) -> Say + Send + Sync>;

/// A service on a free port, until it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    zeros: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    status("200 OK", body)
}

pub(crate) fn status(line: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Service {
    pub(crate) async fn start(answers: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let zeros = Arc::new(AtomicUsize::new(0));
        let given_up = Arc::new(AtomicUsize::new(0));
        let counts = [&zeros, &given_up].map(Arc::clone);
        let (list, answers): (_, Answers) = (Arc::clone(&asked), Arc::new(answers));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (list, answers) = (Arc::clone(&list), Arc::clone(&answers));
                connections.spawn(serve(stream, connection, list, answers, counts.clone()));
            }
        });
        Self {
            address,
            asked,
            zeros,
            given_up,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/shaddock/", self.address)
    }

    /// A backend that waits as long as a busy machine may take.
    pub(crate) fn backend(&self) -> HttpBackend {
        let mut backend = HttpBackend::new([self.url()]).unwrap();
        backend.timeout = std::time::Duration::from_secs(60);
        backend.connect_timeout = backend.timeout;
        backend
    }

    /// How many bytes of [`Say::Endless`] have left.
    pub(crate) fn zeros(&self) -> usize {
        self.zeros.load(Ordering::Relaxed)
    }

    /// How many connections of [`Say::Nothing`] were closed by the other side.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    list: Arc<Mutex<Vec<Asked>>>,
    answers: Answers,
    [zeros, given_up]: [Arc<AtomicUsize>; 2],
) {
    let mut bytes = Vec::new();
    loop {
        let Some(asked) = read(&mut stream, &mut bytes, connection).await else {
            return;
        };
        list.lock().unwrap().push(asked.clone());
        match answers(&asked) {
            Say::Json(value) => stream.write_all(&ok(&value.to_string())).await.unwrap(),
            Say::Held(mut free, value) => {
                free.wait_for(|free| *free).await.unwrap();
                stream.write_all(&ok(&value.to_string())).await.unwrap();
            }
            Say::Bytes(answer) => stream.write_all(&answer).await.unwrap(),
            Say::Last(answer) => return stream.write_all(&answer).await.unwrap(),
            Say::Endless(head) => {
                stream.write_all(&head).await.unwrap();
                while stream.write_all(&[b'0'; 4096]).await.is_ok() {
                    zeros.fetch_add(4096, Ordering::Relaxed);
                }
                return;
            }
            // Until the other side gives up.
            Say::Nothing => {
                let _ = stream.read(&mut [0; 1]).await;
                given_up.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// The next request; `None` when the connection ends.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>, connection: usize) -> Option<Asked> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut lines = head.split("\r\n");
            let first = lines.next().unwrap();
            let (method, path) = first.split_once(' ').unwrap();
            let path = path.strip_suffix(" HTTP/1.1").unwrap();
            let headers: HashMap<String, String> = lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length");
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            let all = end + 4 + length;
            if bytes.len() >= all {
                let body = match length {
                    0 => Value::Null,
                    _ => serde_json::from_slice(&bytes[end + 4..all]).unwrap(),
                };
                let (method, path) = (method.to_owned(), path.to_owned());
                let whole = bytes[end + 4..all].to_vec();
                bytes.drain(..all);
                return Some(Asked {
                    method,
                    path,
                    headers,
                    body,
                    bytes: whole,
                    connection,
                });
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&more[..n]),
            _ => return None,
        }
    }
}
