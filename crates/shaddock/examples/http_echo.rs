//! Both ends of `bench/http/run`: an echo service over HTTP, and a client that asks it again and again.
//!
//! `http_echo serve PORT` answers what a frontend asks a backend: `{"body": ..}` with the body of the request.
//! `http_echo load ADDRESS IN_FLIGHT SECONDS` sends such requests over keep-alive connections, one at a time on each, and prints a line of JSON.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::http::{Method, Request, Response, header};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// As long as what a frontend sends for an echo of 64 bytes.
const BODY: &str = r#"{"kind":"request","route":"chat.echo.echo","body":{"seq":1,"sent":123456789,"pad":"xxxxxxxxxxxxxxxxxxxxxxxxxx"},"session":{"sid":"7303014871040","frontend":"connector-0123456789abcdef","uid":null,"settings":{},"address":"127.0.0.1:51234","transport":"tcp"},"timeout_ms":2000}"#;

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match args[..] {
        ["serve", port] => runtime.block_on(serve(port.parse()?)),
        ["load", address, in_flight, seconds] => {
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            runtime.block_on(load(address, in_flight.parse()?, seconds))
        }
        _ => Err("http_echo serve PORT | http_echo load ADDRESS IN_FLIGHT SECONDS".into()),
    }
}

async fn serve(port: u16) -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let served = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(echo));
            // A connection that the client closes is finished.
            let _ = served.await;
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let (status, text) = match serde_json::from_slice::<Asked<'_>>(&body) {
        Ok(asked) => (200, format!(r#"{{"body":{}}}"#, asked.body)),
        Err(error) => (400, error.to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = hyper::http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

/// Times of answers, in nanoseconds, and requests that were not answered with 200.
async fn load(address: &str, in_flight: usize, time: Duration) -> Result<(), Error> {
    let warm = Instant::now() + Duration::from_millis(500);
    let end = warm + time;
    let clients = (0..in_flight.max(1)).map(|_| {
        let address = address.to_owned();
        tokio::spawn(async move { ask(&address, warm, end).await })
    });
    let (mut times, mut failed) = (Vec::new(), 0_u64);
    for client in clients.collect::<Vec<_>>() {
        match client.await? {
            Ok(some) => times.extend(some),
            Err(error) => {
                eprintln!("{error}");
                failed += 1;
            }
        }
    }
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let rate = times.len() as f64 / time.as_secs_f64();
    println!(
        "{}",
        serde_json::json!({"answers": times.len(), "failed": failed, "rate": rate, "p50_ns": at(50), "p99_ns": at(99)})
    );
    Ok(())
}

async fn ask(address: &str, warm: Instant, end: Instant) -> Result<Vec<u64>, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(times);
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri("/shaddock/echo.echo")
            .header(header::HOST, address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from_static(BODY.as_bytes())))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if status != 200 {
            return Err(format!("the answer is {status}").into());
        }
        if start >= warm {
            times.push(u64::try_from(start.elapsed().as_nanos())?);
        }
    }
}
