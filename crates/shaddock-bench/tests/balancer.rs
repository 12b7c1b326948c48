//! `shaddock bench resume` through a plain TCP balancer: every connection goes to the other one of two frontends, which share nothing but a real NATS. So
//! half of the clients that return have their session at the other frontend.
//!
//! ```sh
//! cargo test --release -p shaddock-bench --test balancer -- --ignored --nocapture
//! ```
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../shaddock-cluster/tests/support/balancer.rs"]
mod balancer;
#[path = "../../shaddock-cluster/tests/support/ports.rs"]
mod ports;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "shared with the tests of shaddock-cluster"
)]
#[path = "../../shaddock-cluster/tests/support/servers.rs"]
mod servers;
#[path = "../../shaddock-cluster/tests/support/wait.rs"]
mod wait;

use std::time::Duration;

use balancer::Balancer;
use clap::Parser;
use servers::Backing;
use shaddock::{cluster::NatsCluster, prelude::*, session::ResumeConfig, wire::CodecConfig};
use shaddock_bench::{BenchArgs, measure};

/// For `servers`: nothing to set up here.
const fn logs() {}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn frontend(id: &str) -> App {
    let mut app = App::new("bench", id);
    app.listen("127.0.0.1:0");
    app.set(CodecConfig::default());
    app.set(AppConfig::default().rpc_timeout(Duration::from_secs(30)));
    app.set(ResumePolicy::default().max_returns(u32::MAX));
    app.set(
        SessionConfig::default().resume(
            ResumeConfig::default()
                // The session of slot 0 pushes to all after each of its cuts, and the machine may be slow.
                .max_messages(10_000)
                .max_bytes(4 << 20)
                .window(Duration::from_secs(600)),
        ),
    );
    app.route("echo.echo", async |Json(body): Json<serde_json::Value>| {
        Json(body)
    });
    app.route(
        "echo.bind",
        async |mut session: SessionView, Json(login): Json<serde_json::Value>| {
            session
                .bind(Uid::new(login["uid"].as_str().unwrap())?)
                .await?;
            Ok::<_, HandlerError>(Json(serde_json::json!({"code": 200})))
        },
    );
    app.route(
        "echo.push",
        async |channels: Channels, Json(body): Json<serde_json::Value>| {
            let bound = BroadcastOptions::bound();
            channels.broadcast("bench", "onPush", &body, bound).await?;
            Ok::<_, HandlerError>(Json(serde_json::json!({"code": 200})))
        },
    );
    app
}

fn run(clients: usize, cuts: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let backing = Backing::start();
    let cluster = NatsCluster::new(backing.patient_config()).unwrap();
    let start = |id| {
        Servers::new()
            .add(frontend(id))
            .cluster(cluster.clone())
            .start()
    };
    let running = ["bench-1", "bench-2"].map(|id| runtime.block_on(start(id)).unwrap());
    let addresses = [("bench-1", 0), ("bench-2", 1)].map(|(id, n)| running[n].address(id).unwrap());
    for one in &running {
        let app = &one.apps()[0];
        runtime.block_on(wait::until("both are listed", || {
            app.membership().unwrap().members().frontends().len() == 2
        }));
    }
    let balancer = runtime.block_on(Balancer::to(&addresses));
    let url = &balancer.address;
    let words = format!(
        "bench resume {url} --quiet --timeout 60s --limit 600s --no-plain -c {clients} --cuts {cuts} --connecting 50 --burst 4"
    );
    let report = measure(&Cli::parse_from(words.split_ascii_whitespace()).bench).unwrap();
    let statistics = running.each_ref().map(|one| {
        let app = &one.apps()[0];
        app.session_service().unwrap().resume_statistics()
    });
    println!("{report}");
    for one in &statistics {
        println!("  frontend  {one:?}");
    }
    println!(
        "  {} connections through the balancer",
        balancer.connections()
    );
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.messages, (clients * cuts * 4) as u64);
    let granted: u64 = statistics.iter().map(|one| one.granted).sum();
    assert_eq!(granted, clients as u64, "no session was restarted");
    let connections = balancer.connections();
    assert!(connections >= clients * (cuts + 1), "{connections}");
    for one in running {
        runtime.block_on(one.shutdown());
    }
}

#[test]
fn a_few_clients_behind_a_plain_balancer() {
    run(20, 3);
}

#[test]
#[ignore = "takes minutes, and a machine of its own"]
fn a_thousand_clients_behind_a_plain_balancer() {
    let of = |key: &str, default: usize| {
        let set = std::env::var(key).ok();
        set.map_or(default, |text| text.parse().unwrap())
    };
    run(of("CLIENTS", 1000), of("CUTS", 10));
}
