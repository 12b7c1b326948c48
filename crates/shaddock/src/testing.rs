//! Tests of an application, without sockets and without waiting.
//!
//! [`TestServers`] starts [`Servers`] in memory: the same listeners, handlers, channels and cluster, on one thread, in an order that repeats.
//! With tokio's paused clock a test of a time-out of 30 seconds takes no time: whenever everything waits, the clock jumps to what is due
//! next. [`TestClient`] is the [Rust client](shaddock_client) on such a connection, with the faults of a network at hand.
//!
//! ```
//! use serde_json::{Value, json};
//! use shaddock::{prelude::*, testing::TestServers};
//!
//! async fn add(Json(numbers): Json<(i64, i64)>) -> Json<i64> {
//!     Json(numbers.0 + numbers.1)
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?.block_on(async {
//! // #[tokio::test(start_paused = true)]
//! let mut app = App::new("connector", "connector-1");
//! app.listen("127.0.0.1:3010").handle("math.add", add);
//! let servers = TestServers::start(Servers::new().add(app)).await?;
//!
//! let ann = servers.connect("connector-1").await?;
//! let sum: i64 = ann.request("connector.math.add", &json!([1, 2])).await?;
//! assert_eq!(sum, 3);
//!
//! ann.cut();
//! servers.settle().await;
//! assert_eq!(servers.app("connector-1").session_service().unwrap().session_count(), 0);
//! servers.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! Only connections are in memory: an admin server, and a cluster on NATS, are what they always are. One set of servers per test, and
//! a runtime of one thread (`#[tokio::test]` has that).

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use serde_json::Value;
use shaddock_client::{Client, ClientBuilder, CloseKind, ConnectError, Subscription};
use shaddock_net::memory::{Faults, MemorySocket};
use tokio::sync::Mutex;

use crate::app::{AppHandle, Network, Running, Servers, StartError};

/// The longest wait for something that a test expects, in the test's time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers of a test.
#[must_use = "servers end when this is dropped"]
pub struct TestServers {
    running: Running,
    network: Network,
    clients: AtomicU16,
}

impl TestServers {
    /// Starts the servers. Where they would listen, they take the connections of [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`StartError`], as [`Servers::start`].
    ///
    /// # Panics
    /// Outside of a tokio runtime of one thread.
    pub async fn start(servers: Servers) -> Result<Self, StartError> {
        let (running, network) = servers.start_in_memory().await?;
        Ok(Self {
            running,
            network,
            clients: AtomicU16::new(0),
        })
    }

    /// The server with this id.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn app(&self, id: &str) -> &AppHandle {
        let app = self.running.app(id);
        app.unwrap_or_else(|| panic!("there is no server `{id}` in this test"))
    }

    /// Connects a client to a frontend, and shakes hands. Each client has an address of its own, 10.0.0.1 and up.
    ///
    /// # Errors
    /// [`ConnectError`]: the server has refused the client.
    ///
    /// # Panics
    /// There is no such frontend.
    pub async fn connect(&self, server_id: &str) -> Result<TestClient, ConnectError> {
        self.connect_with(server_id, &Client::builder()).await
    }

    /// As [`connect`](Self::connect), with a client of the test's making: user data, version, dialect, time-outs.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        &self,
        server_id: &str,
        builder: &ClientBuilder,
    ) -> Result<TestClient, ConnectError> {
        let (socket, faults, address) = self.open(server_id);
        let (client, pushes) = builder.connect_io(socket, Client::subscribe_all).await?;
        // The session begins with the acknowledgement, which is under way.
        self.settle().await;
        Ok(TestClient {
            client,
            pushes: Mutex::new(pushes),
            faults,
            address,
        })
    }

    /// A connection on which nothing was said yet, for a client that the test writes itself, and the faults of its network.
    ///
    /// # Panics
    /// As [`connect`](Self::connect).
    pub fn connect_raw(&self, server_id: &str) -> (MemorySocket, Faults) {
        let (socket, faults, _) = self.open(server_id);
        (socket, faults)
    }

    fn open(&self, server_id: &str) -> (MemorySocket, Faults, SocketAddr) {
        let n = self.clients.fetch_add(1, Ordering::Relaxed) + 1;
        let [high, low] = n.to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 4000));
        let Some(connector) = self.network.get(server_id) else {
            panic!("no server `{server_id}` in this test listens")
        };
        let (socket, faults) = connector.connect(usize::from(n), address);
        (socket, faults, address)
    }

    /// Lets the servers and clients do everything that they can do now. A millisecond of the test's time passes.
    pub async fn settle(&self) {
        self.pass(Duration::from_millis(1)).await;
    }

    /// Lets so much of the test's time pass, and the servers and clients do what they do in that time.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Stops the servers, as at the end of a process.
    pub async fn shutdown(self) {
        self.running.shutdown().await;
    }
}

impl std::fmt::Debug for TestServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestServers").finish_non_exhaustive()
    }
}

/// A client of a test: everything that [`Client`] can do, and what a network can do to it.
#[derive(Debug)]
pub struct TestClient {
    client: Client,
    pushes: Mutex<Subscription>,
    faults: Faults,
    address: SocketAddr,
}

impl TestClient {
    /// The next push of this route; others that come before it are dropped.
    ///
    /// # Panics
    /// None comes for a minute of the test's time, or before the connection ends, or its body is not JSON.
    #[track_caller]
    pub fn expect_push(&self, route: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let next = async {
                let mut pushes = self.pushes.lock().await;
                while let Some(push) = pushes.recv().await {
                    if push.route() == route {
                        return Some(push);
                    }
                }
                None
            };
            let push = match tokio::time::timeout(PATIENCE, next).await {
                Ok(Some(push)) => push,
                Ok(None) => panic!(
                    "{caller}: the connection ended ({}) before a push `{route}` arrived",
                    self.client.closed().await
                ),
                Err(late) => panic!("{caller}: no push `{route}` for {PATIENCE:?}: {late}"),
            };
            let body = push.json();
            body.unwrap_or_else(|error| panic!("{caller}: push `{route}`: {error}"))
        }
    }

    /// The pushes that have come and were not looked at: route and body.
    pub async fn pushes(&self) -> Vec<(String, Value)> {
        let mut pushes = self.pushes.lock().await;
        let mut all = Vec::new();
        while let Some(push) = pushes.try_recv() {
            let body = push.json().unwrap_or_default();
            all.push((push.route().to_owned(), body));
        }
        all
    }

    /// Waits for the end of the connection, and says why it ended: a kick with its reason, among others.
    ///
    /// # Panics
    /// It does not end for a minute of the test's time.
    #[track_caller]
    pub fn expect_end(&self) -> impl Future<Output = CloseKind> {
        let caller = std::panic::Location::caller();
        async move {
            let ended = tokio::time::timeout(PATIENCE, self.client.closed()).await;
            ended.unwrap_or_else(|_| {
                panic!("{caller}: the connection is still open after {PATIENCE:?}")
            })
        }
    }

    /// The address that the server sees.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection is lost: a reset at both ends, and what was on its way is gone.
    pub fn cut(&self) {
        self.faults.reset();
    }

    /// The client's network takes nothing any more: the server's socket fills up.
    pub fn stall(&self) {
        self.faults.set_window(0);
    }

    /// Ends a [`stall`](Self::stall).
    pub fn resume(&self) {
        self.faults.set_window(64 * 1024);
    }

    /// Everything else that can be done to the connection.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Deref for TestClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
