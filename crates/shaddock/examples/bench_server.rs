//! The server that the bench measures: one frontend of type `bench` with three routes.
//!
//! `bench_server [--port 3010] [--workers N] [--heartbeat SECONDS] [--tls-cert FILE --tls-key FILE]`
//!
//! | route | what it does |
//! | --- | --- |
//! | `bench.echo.echo` | answers with the same body, read into a struct and written again |
//! | `bench.echo.bind` | binds the session to `uid` |
//! | `bench.echo.push` | pushes the body on `onPush` to every bound session, then answers |

use std::{error::Error, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use shaddock::{
    config::Sources,
    launch::Launcher,
    prelude::*,
    wire::{CodecConfig, ListenConfig, TlsFiles, TlsReloader},
};

/// An idle session costs a tenth less with it than with glibc's allocator, and memory comes back when sessions go
/// (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Serialize, Deserialize)]
struct Payload {
    i: String,
    p: String,
}

#[derive(Deserialize)]
struct Login {
    uid: String,
}

#[derive(Serialize)]
struct Done {
    code: u16,
}

const DONE: Json<Done> = Json(Done { code: 200 });

async fn echo(Json(body): Json<Payload>) -> Json<Payload> {
    Json(body)
}

async fn bind(
    mut session: SessionView,
    Json(login): Json<Login>,
) -> Result<Json<Done>, HandlerError> {
    session.bind(Uid::new(login.uid)?).await?;
    Ok(DONE)
}

async fn push(channels: Channels, Json(body): Json<Payload>) -> Result<Json<Done>, HandlerError> {
    channels
        .broadcast("bench", "onPush", &body, BroadcastOptions::bound())
        .await?;
    Ok(DONE)
}

struct Flags {
    port: u16,
    workers: Option<usize>,
    heartbeat: Option<Duration>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

fn flags() -> Result<Flags, Box<dyn Error>> {
    let mut flags = Flags {
        port: 3010,
        workers: None,
        heartbeat: None,
        certificate: None,
        key: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--port" => flags.port = value.parse()?,
            "--workers" => flags.workers = Some(value.parse()?),
            "--heartbeat" => flags.heartbeat = Some(Duration::from_secs(value.parse()?)),
            "--tls-cert" => flags.certificate = Some(value.into()),
            "--tls-key" => flags.key = Some(value.into()),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(flags)
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = flags()?;
    let mut listen = ListenConfig::new(SocketAddr::from(([127, 0, 0, 1], flags.port)));
    if let (Some(certificate), Some(key)) = (flags.certificate, flags.key) {
        listen.tls = Some(TlsReloader::new(TlsFiles { certificate, key })?);
    }
    let mut app = App::new("bench", "bench-1");
    // As every program that has a configuration: bounds, policies, and the filter that measures handlers.
    Launcher::new(Sources::default())?.configure(&mut app);
    app.listen_with(listen);
    app.set(CodecConfig::default().heartbeat(flags.heartbeat));
    app.handle("echo.echo", echo);
    app.handle("echo.bind", bind);
    app.handle("echo.push", push);
    println!("pid {}", std::process::id());
    let servers = Servers::new().add(app);
    match flags.workers {
        Some(count) => servers.workers(count),
        None => servers,
    }
    .run_blocking()?;
    Ok(())
}
