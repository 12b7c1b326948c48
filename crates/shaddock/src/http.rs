//! The HTTP servers of ours (the admin server, the demo's page), with bounds: a stranger who connects and says nothing, or reads nothing,
//! takes one of a few places for a few seconds, and no more.

mod places;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, Sleep},
};

use places::{Place, Places};

/// Bytes of a request's head. Above it the answer is 431.
const MAX_HEAD: usize = 16 * 1024;

/// After an error of `accept` that concerns the process, such as no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HttpLimits {
    /// Open connections. For another one the oldest without a request is closed; while all have requests, new ones wait in the kernel.
    pub max_connections: usize,
    /// Time for the head of a request, also of the next one on the same connection. Then the connection is closed.
    pub head_timeout: Duration,
    /// Time for everything else: for a request from its head to its answer, and for a connection without a byte in either direction. Then
    /// the connection is closed.
    pub idle_timeout: Duration,
}

shaddock_protocol::setters!(HttpLimits {
    max_connections: usize,
    head_timeout: Duration,
    idle_timeout: Duration,
});

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 64,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Answers requests on `listener` until `stop` is done and those that are under way are answered. Handlers find the client's address as
/// [`ConnectInfo<SocketAddr>`](ConnectInfo). Dropped, all connections are closed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) {
    let mut places = Places::default();
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut next = None;
    let mut stop = std::pin::pin!(stop);
    loop {
        if connections.len() < limits.max_connections
            && let Some((stream, peer)) = next.take()
        {
            let (place, router) = (places.take(), router.clone());
            connections.spawn(connection(
                stream,
                peer,
                router,
                limits,
                place,
                stopped.clone(),
            ));
        }
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if next.is_none() => {
                next = Some(accepted);
                if connections.len() >= limits.max_connections {
                    places.make_room();
                }
            }
            () = places.any_idle(), if next.is_some() => places.make_room(),
        }
    }
    drop((listener, stopping));
    while connections.join_next().await.is_some() {}
}

/// The next connection. Cancel-safe.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "an HTTP connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: HttpLimits,
    place: Arc<Place>,
    mut stopped: watch::Receiver<()>,
) {
    let service = TowerToHyperService::new(router);
    let requests = Arc::clone(&place);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let serving = requests.request();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = hyper::service::Service::call(&service, request);
        async move {
            match tokio::time::timeout(limits.idle_timeout, answer).await {
                Ok(answered) => answered.map(|response| serving.until_sent(response)),
                Err(_) => Ok::<Response, _>(StatusCode::REQUEST_TIMEOUT.into_response()),
            }
        }
    });
    let stream = Stalling::new(stream, limits.idle_timeout, Arc::clone(&place));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = place.ended() => return,
        _ = stopped.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection ended");
    }
}

/// A stream that fails when no byte has passed for a time, in either direction, although it was read or written.
struct Stalling<S> {
    stream: S,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
    place: Arc<Place>,
}

impl<S> Stalling<S> {
    fn new(stream: S, limit: Duration, place: Arc<Place>) -> Self {
        Self {
            stream,
            limit,
            timer: Box::pin(tokio::time::sleep(limit)),
            is_waiting: false,
            place,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_waiting = false;
            return polled;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.watch(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.place.wrote(polled.is_pending());
        this.watch(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.place.wrote(polled.is_pending());
        this.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Bytes,
        routing::{get, post},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(90);
    /// Hyper's default time for a head.
    const HYPERS: Duration = Duration::from_secs(30);
    /// How long a test waits for what must happen.
    const PATIENCE: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(200);
    const ASK: &[u8] = b"GET /address HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    async fn server(limits: HttpLimits) -> Server {
        let router = Router::new()
            .route(
                "/address",
                get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
            )
            .route("/long", get(async || vec![b'x'; 64 << 20]))
            .route("/never", get(std::future::pending::<()>))
            .route("/body", post(async |body: Bytes| body.len().to_string()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, limits, async {
            let _ = stopped.await;
        }));
        Server {
            address,
            stop,
            task,
        }
    }

    async fn ask(server: &Server, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Everything until the server closes, which it must do in time.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let read = stream.read_to_end(&mut text);
        let read = tokio::time::timeout(PATIENCE, read).await;
        // A reset is an end too.
        let _ = read.expect("the server closes");
        String::from_utf8(text).unwrap()
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        let n = read.await.expect("an answer").unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    /// Silent ones are closed after the time for a head, and then others have their places.
    #[tokio::test]
    async fn silent_connections_make_room() {
        let limits = HttpLimits {
            max_connections: 3,
            head_timeout: SHORT,
            idle_timeout: LONG,
        };
        let server = server(limits).await;
        // Before hyper's own limit for a head, which would close them too.
        let began = Instant::now();
        let mut silent = Vec::new();
        for bytes in [&b""[..], b"G", b"GET / HTTP/1.1\r\nX: "] {
            silent.push(ask(&server, bytes).await);
        }
        // One that has had an answer, and says no more.
        let mut asked = ask(&server, ASK).await;
        let local = asked.local_addr().unwrap().to_string();
        let text = answer(&mut asked).await;
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with(&local),
            "{text}"
        );
        for stream in &mut silent {
            rest(stream).await;
        }
        rest(&mut asked).await;
        assert!(began.elapsed() < HYPERS, "closed by another limit");
    }

    #[tokio::test]
    async fn a_head_byte_by_byte_has_no_more_time() {
        let limits = HttpLimits {
            head_timeout: SHORT,
            idle_timeout: LONG,
            ..HttpLimits::default()
        };
        let server = server(limits).await;
        let mut stream = ask(&server, b"GET / HTTP/1.1\r\n").await;
        let (mut read, mut write) = stream.split();
        let mut end = [0];
        let ended = async { while !matches!(read.read(&mut end).await, Ok(0) | Err(_)) {} };
        let dribble = async {
            while write.write_all(b"X").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let both = async {
            tokio::select! {
                () = ended => {}
                () = dribble => {}
            }
        };
        tokio::time::timeout(PATIENCE, both)
            .await
            .expect("the server closes");
    }

    /// While all connections have requests, others wait; nothing of them is read.
    #[tokio::test]
    async fn connections_have_a_bound() {
        let limits = HttpLimits {
            max_connections: 2,
            head_timeout: LONG,
            idle_timeout: LONG,
        };
        let server = server(limits).await;
        let body = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab";
        let first = ask(&server, body).await;
        let _second = ask(&server, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut third = ask(&server, ASK).await;
        let mut byte = [0];
        let early = tokio::time::timeout(SHORT, third.read(&mut byte)).await;
        assert!(early.is_err(), "there was no place");
        drop(first);
        assert!(answer(&mut third).await.starts_with("HTTP/1.1 200"));
    }

    /// A request is answered, however many connections are silent or have had their response.
    #[tokio::test]
    async fn connections_without_a_request_make_room_at_once() {
        let limits = HttpLimits {
            max_connections: 3,
            head_timeout: LONG,
            idle_timeout: LONG,
        };
        let server = server(limits).await;
        let mut held = Vec::new();
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\nX: ", ASK] {
            for _ in 0..50 {
                held.push(ask(&server, bytes).await);
            }
            let mut asking = ask(&server, ASK).await;
            assert!(answer(&mut asking).await.starts_with("HTTP/1.1 200"));
            held.push(asking);
        }
        let mut late = ask(
            &server,
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na",
        )
        .await;
        for _ in 0..50 {
            let mut asking = ask(&server, ASK).await;
            answer(&mut asking).await;
            held.push(asking);
        }
        late.write_all(b"b").await.unwrap();
        assert!(answer(&mut late).await.ends_with('2'), "it had a request");
    }

    /// A body that does not come, an answer that does not come, and one that is not read: each gives its place back.
    #[tokio::test]
    async fn what_stalls_gives_its_place_back() {
        let limits = HttpLimits {
            max_connections: 1,
            head_timeout: LONG,
            idle_timeout: SHORT,
        };
        let server = server(limits).await;
        for bytes in [
            &b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"[..],
            b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n",
            b"",
        ] {
            let held = ask(&server, bytes).await;
            let mut next = ask(&server, ASK).await;
            assert!(answer(&mut next).await.starts_with("HTTP/1.1 200"));
            drop((held, next));
        }
    }

    #[tokio::test]
    async fn a_long_head_is_refused() {
        let server = server(HttpLimits::default()).await;
        let head = format!("GET / HTTP/1.1\r\nX: {}\r\n", "y".repeat(2 * MAX_HEAD));
        let mut stream = ask(&server, head.as_bytes()).await;
        let text = rest(&mut stream).await;
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 431"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_stop_closes_what_is_idle() {
        let server = server(HttpLimits {
            head_timeout: LONG,
            idle_timeout: LONG,
            ..HttpLimits::default()
        })
        .await;
        let mut idle = ask(&server, ASK).await;
        answer(&mut idle).await;
        server.stop.send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, server.task).await;
        ended.expect("it stops").unwrap();
    }
}
