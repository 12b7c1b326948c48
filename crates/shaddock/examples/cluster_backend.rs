//! The backend that `bench/cluster` measures: a server of type `bench` on NATS and etcd that answers with what it got.
//!
//! `cluster_backend CONFIG.toml`: the file names NATS and etcd in its section `[cluster]`. It prints its process id.

use std::error::Error;

use serde::{Deserialize, Serialize};
use shaddock::{
    config::{Config, Sources},
    prelude::*,
};

/// As `shaddock` and `bench_server` have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Serialize, Deserialize)]
struct Payload {
    i: String,
    p: String,
}

async fn echo(Json(body): Json<Payload>) -> Json<Payload> {
    Json(body)
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args()
        .nth(1)
        .ok_or("cluster_backend CONFIG.toml")?;
    let config = Config::load(&Sources::default().file(file))?;
    let mut app = App::new("bench", "bench-1");
    app.handle("echo.echo", echo);
    println!("pid {}", std::process::id());
    Servers::new()
        .add(app)
        .cluster_shared(config.cluster()?)
        .run_blocking()?;
    Ok(())
}
