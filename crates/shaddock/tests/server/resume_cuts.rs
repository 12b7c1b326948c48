//! The Rust client against a real server, through a proxy that cuts connections in the middle of anything: of the handshake of TLS, of a package, of a
//! frame. Nothing is lost, nothing comes twice, nothing changes its place, in both directions and in both dialects.
//!
//! The load is bounded by what is under way, not by time: 500 cuts in all. More by hand:
//!
//! ```sh
//! CUTS=10000 cargo test --release -p shaddock --all-features --test server resume_cuts:: -- --nocapture
//! ```

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesOrdered};
use serde::{Deserialize, Serialize};
use shaddock::{
    prelude::*,
    wire::{CodecConfig, ListenConfig, TlsFiles, TlsReloader},
};
use shaddock_client::{
    Client, ClientBuilder, Dialect, Events, Reconnect, SessionEvent, Subscription, TlsOptions,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::unconstrained,
    time::timeout,
};

use crate::support::{start, wait::breathe};

const PATIENCE: Duration = Duration::from_secs(120);
/// Numbers that are under way: each is a message and its push, and every third an answer. Fewer than either side keeps.
const UNDER_WAY: u64 = 48;

/// What ran, in order, whatever the message was.
type Ran = Arc<Mutex<Vec<u64>>>;

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Number {
    n: u64,
}

fn server(ran: &Ran, certificate: Option<&Certificate>) -> App {
    let mut app = App::new("connector", "connector-1");
    let mut listen = ListenConfig::new(([127, 0, 0, 1], 0).into());
    listen.tls = certificate.map(Certificate::reloader);
    app.listen_with(listen);
    app.set(CodecConfig::default());
    for route in ["h.ask", "h.say"] {
        let ran = Arc::clone(ran);
        app.route(
            route,
            move |mut session: SessionView, channels: Channels, Json(number): Json<Number>| {
                let ran = Arc::clone(&ran);
                async move {
                    if number.n == 1 {
                        session.bind(Uid::new("ann")?).await?;
                    }
                    ran.lock().unwrap().push(number.n);
                    if number.n % 7 == 0 {
                        // It runs on while its client is away.
                        breathe().await;
                    }
                    let ann = [(Uid::new("ann")?, FrontendId::new("connector-1").unwrap())];
                    let pushed = channels.push_message_by_uids("onN", &number, &ann).await;
                    // A notify has no response.
                    let queued = pushed.as_ref().map_or(0, |pushed| pushed.queued);
                    if queued != 1 {
                        println!("push {} has failed: {pushed:?}", number.n);
                        ran.lock().unwrap().push(0);
                    }
                    Ok::<_, HandlerError>(Json(number))
                }
            },
        );
    }
    app
}

struct Certificate {
    folder: std::path::PathBuf,
    pem: String,
}

impl Certificate {
    fn new() -> Self {
        // Tests of this process run side by side.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shaddock-cuts-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self {
            folder,
            pem: made.cert.pem(),
        }
    }

    fn reloader(&self) -> Arc<TlsReloader> {
        TlsReloader::new(TlsFiles {
            certificate: self.folder.join("cert.pem"),
            key: self.folder.join("key.pem"),
        })
        .unwrap()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Numbers by chance, the same in each run with the same start.
struct Chance(u64);

impl Chance {
    /// Below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How one connection ends.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Both ends see a reset.
    Reset,
    /// Both ends see an end of the stream.
    End,
    /// The server hears nothing any more, and the client of an end: the old connection looks alive when the client is back.
    Stall,
}

/// What one connection lets through, in both directions together, and how it ends then.
#[derive(Clone, Copy)]
struct Fate {
    bytes: u64,
    cut: Cut,
}

/// Cuts `left` connections, then lets all through.
struct Proxy {
    address: SocketAddr,
    left: Arc<AtomicU64>,
}

impl Proxy {
    async fn start(server: SocketAddr, cuts: u64, longest: u64, mut chance: Chance) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicU64::new(cuts));
        let counted = Arc::clone(&left);
        tokio::spawn(async move {
            let mut stalled = VecDeque::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let is_cut = counted.load(Ordering::Acquire) > 0;
                let fate = is_cut.then(|| Fate {
                    bytes: chance.below(longest),
                    cut: [Cut::Reset, Cut::End, Cut::Stall]
                        [usize::try_from(chance.below(3)).unwrap()],
                });
                // One at a time: a client has one connection.
                if let Some(held) = carry(client, server, fate).await {
                    stalled.push_back(held);
                    if stalled.len() > 8 {
                        stalled.pop_front();
                    }
                }
                if is_cut {
                    counted.fetch_sub(1, Ordering::AcqRel);
                }
            }
        });
        Self { address, left }
    }

    fn is_done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

/// Carries bytes both ways until the fate of the connection. Gives back the server's half of one that stalls.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    fate: Option<Fate>,
) -> Option<TcpStream> {
    for socket in [&client, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let mut left = fate.map_or(u64::MAX, |fate| fate.bytes);
    let (mut up, mut down) = ([0; 1500], [0; 1500]);
    while left > 0 {
        let (read, to_server) = tokio::select! {
            read = client.read(&mut up) => (read.unwrap_or(0), true),
            read = server.read(&mut down) => (read.unwrap_or(0), false),
        };
        if read == 0 {
            return None;
        }
        let passed = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = if to_server {
            server.write_all(&up[..passed]).await
        } else {
            client.write_all(&down[..passed]).await
        };
        if written.is_err() {
            return None;
        }
        left -= passed as u64;
    }
    match fate.map(|fate| fate.cut) {
        Some(Cut::Reset) => {
            for socket in [client, server] {
                let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            None
        }
        Some(Cut::Stall) => Some(server),
        Some(Cut::End) | None => None,
    }
}

/// What the client has seen.
#[derive(Default)]
struct Seen {
    pushed: u64,
    resumed: u64,
    ran: Ran,
}

async fn expect_pushes(
    pushes: &mut Subscription,
    events: &mut Events,
    seen: &mut Seen,
    up_to: u64,
) {
    while seen.pushed < up_to {
        let push = timeout(PATIENCE, pushes.recv()).await;
        let push = push.expect("a push in time").expect("a client that lives");
        seen.pushed += 1;
        let number: Number = push.json().unwrap();
        if number.n != seen.pushed {
            // What was missed is told, and makes the better message.
            look_at_events(events, seen);
            let ran = seen.ran.lock().unwrap();
            println!(
                "the last that ran: {:?}",
                &ran[ran.len().saturating_sub(60)..]
            );
        }
        assert_eq!(
            number.n, seen.pushed,
            "a push is lost, twice, or out of order"
        );
    }
}

fn look_at_events(events: &mut Events, seen: &mut Seen) {
    use futures_util::FutureExt as _;
    while let Some(Some(event)) = events.recv().now_or_never() {
        match event {
            SessionEvent::Suspended(_) => {}
            SessionEvent::Resumed { missed: 0 } => seen.resumed += 1,
            other => panic!("{other:?}"),
        }
    }
}

/// Sends numbers until the proxy has cut often enough, and some more. Gives back the last one.
async fn count(
    client: &Client,
    events: &mut Events,
    pushes: &mut Subscription,
    proxy: &Proxy,
    seen: &mut Seen,
) -> u64 {
    let mut answers = FuturesOrdered::new();
    let mut last = 0;
    let mut after = 100;
    while after > 0 {
        after -= u64::from(proxy.is_done());
        last += 1;
        let number = Number { n: last };
        if last % 3 == 0 {
            let mut request = Box::pin(unconstrained(async move {
                client
                    .request::<_, Number>("connector.h.ask", &number)
                    .await
            }));
            // The first poll puts it into the queue: there is room, and the budget of the task is not looked at.
            let first = poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx))).await;
            answers.push_back(async move {
                let answer = match first {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => request.await,
                };
                (number, answer)
            });
        } else {
            client.notify("connector.h.say", &number).await.unwrap();
        }
        expect_pushes(pushes, events, seen, last.saturating_sub(UNDER_WAY)).await;
        while answers.len() as u64 > UNDER_WAY / 3 {
            check(answers.next().await);
        }
        look_at_events(events, seen);
    }
    expect_pushes(pushes, events, seen, last).await;
    while !answers.is_empty() {
        check(answers.next().await);
    }
    last
}

fn check(answer: Option<(Number, Result<Number, shaddock_client::RequestError>)>) {
    let (asked, answer) = answer.expect("an answer");
    assert_eq!(answer.unwrap(), asked);
}

fn builder(dialect: Dialect, certificate: Option<&Certificate>) -> ClientBuilder {
    let mut builder = Client::builder()
        .dialect(dialect)
        .request_timeout(Some(PATIENCE))
        .connect_timeout(Duration::from_secs(30))
        .push_capacity(1000)
        // Room for all that is under way: a request takes its place with the first poll.
        .command_capacity(1000)
        .resume(
            Reconnect::new()
                .waits(Duration::from_millis(1), Duration::from_millis(20))
                .attempts(u32::MAX),
        );
    if let Some(certificate) = certificate {
        builder = builder.tls(TlsOptions::roots_pem(certificate.pem.as_bytes()).unwrap());
    }
    builder
}

async fn case(scheme: &str, dialect: Dialect, cuts: u64) {
    let certificate = matches!(scheme, "tls" | "wss").then(Certificate::new);
    let ran = Ran::default();
    let running = start([server(&ran, certificate.as_ref())]).await;
    let address = running.address("connector-1").unwrap();
    // A handshake of TLS is some thousand bytes; the shorter ones are cut in the middle of it.
    let longest = if certificate.is_some() { 9000 } else { 4000 };
    let chance = Chance(scheme.bytes().map(u64::from).sum::<u64>() * 7 + dialect as u64);
    let proxy = Proxy::start(address, cuts, longest, chance).await;
    let url = format!("{scheme}://localhost:{}", proxy.address.port());
    let builder = builder(dialect, certificate.as_ref());
    // What fails before there is a session is the caller's.
    let (client, (mut events, mut pushes)) = loop {
        let connect =
            builder.connect_with(&url, |client| (client.events(), client.subscribe("onN")));
        match connect.await {
            Ok(connected) => break connected,
            Err(_) => assert!(!proxy.is_done(), "the proxy lets it through now"),
        }
    };
    let mut seen = Seen {
        ran: Arc::clone(&ran),
        ..Seen::default()
    };
    let last = count(&client, &mut events, &mut pushes, &proxy, &mut seen).await;
    assert_eq!(*ran.lock().unwrap(), (1..=last).collect::<Vec<_>>());
    let stats = client.stats();
    assert_eq!((stats.late_answers, stats.unreadable), (0, 0));
    assert_eq!(client.pending_requests(), 0);
    look_at_events(&mut events, &mut seen);
    assert!(seen.resumed > 0, "no session came back");
    println!(
        "{scheme} {dialect:?}: {cuts} cuts, {} times back, {last} messages and pushes, {} answers: 0 lost, 0 twice, 0 out of order",
        seen.resumed,
        last / 3
    );
    timeout(PATIENCE, client.close()).await.unwrap();
    running.shutdown().await;
}

/// 504 cuts in all, unless `CUTS` says so.
async fn cases(scheme: &str) {
    let all = std::env::var("CUTS").map_or(504, |text| text.parse().unwrap());
    for dialect in [Dialect::Pomelo, Dialect::Pitaya] {
        case(scheme, dialect, all / 8).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp() {
    cases("tcp").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket() {
    cases("ws").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    cases("tls").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_over_tls() {
    cases("wss").await;
}
