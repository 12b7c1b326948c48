//! The backend that `bench/cluster --before` measures: a server of type `bench` on NATS and etcd with one room.
//!
//! `cluster_room CONFIG.toml MEMBERS PUSHES`: the file names NATS and etcd in its section `[cluster]`. A client that binds joins the room. When
//! all members are in, it waits, prints `go`, pushes ten times a second, and prints `pushed` when that is done. With 0 pushes (`scripts/memory bound`)
//! clients are bound and in no room, and each prints `bound`.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shaddock::{
    config::{Config, Sources},
    prelude::*,
};

/// As `shaddock` and `bench_server` have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time between two pushes.
const PAUSE: Duration = Duration::from_millis(100);
/// Time for what is left of the logins.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Login {
    uid: String,
}

#[derive(Serialize)]
struct Done {
    code: u16,
}

async fn push(channels: Channels, pushes: usize) {
    tokio::time::sleep(QUIET).await;
    println!("go");
    let body = serde_json::json!({"i": "1", "p": "x".repeat(64)});
    let mut ticks = tokio::time::interval(PAUSE);
    for _ in 0..pushes {
        ticks.tick().await;
        let Some(room) = channels.get("room") else {
            return;
        };
        match room.push_message("onPush", &body).await {
            Ok(delivered) if delivered.failed.is_empty() => {}
            other => println!("failed: {other:?}"),
        }
    }
    println!("pushed");
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = || {
        words
            .next()
            .ok_or("cluster_room CONFIG.toml MEMBERS PUSHES")
    };
    let config = Config::load(&Sources::default().file(word()?))?;
    let (members, pushes): (usize, usize) = (word()?.parse()?, word()?.parse()?);
    let joined = Arc::new(AtomicUsize::new(0));
    let mut app = App::new("bench", "bench-1");
    app.handle(
        "echo.bind",
        move |channels: Channels, mut session: SessionView, Json(login): Json<Login>| {
            let joined = Arc::clone(&joined);
            async move {
                session.bind(Uid::new(login.uid)?).await?;
                if pushes > 0 {
                    let _ = channels.create("room")?.join(&session).await?;
                } else {
                    println!("bound");
                }
                if joined.fetch_add(1, Ordering::Relaxed) + 1 == members {
                    tokio::spawn(push(channels, pushes));
                }
                Ok::<_, HandlerError>(Json(Done { code: 200 }))
            }
        },
    );
    println!("pid {}", std::process::id());
    Servers::new()
        .add(app)
        .cluster_shared(config.cluster()?)
        .run_blocking()?;
    Ok(())
}
