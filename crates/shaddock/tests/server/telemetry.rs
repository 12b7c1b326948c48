//! Traces: the spans, their parents across servers and services, and a collector that fails without any effect on requests.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use shaddock::{
    backend::BackendEvent,
    cluster::LocalCluster,
    metrics,
    operations::Operations,
    prelude::*,
    remote::received_value,
    telemetry::{Telemetry, TelemetryConfig, TracedUsers},
};
use shaddock_cluster::{
    Cluster as _, Context, ForwardedRequest, ForwardedSession, JoinOptions, Node, RemoteCall,
    RemoteError, ServerInfo,
};

use crate::http::{Say as Answer, Service};
use crate::otlp::{Collector, Say, Span};
use crate::support::{Client, eventually, frontend, login};

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const PRODUCER: u64 = 4;
const IS_REMOTE: u64 = 0x200;

/// Records every trace; patient, as a busy machine needs it.
fn config(collector: &Collector) -> TelemetryConfig {
    let mut config = TelemetryConfig::new(collector.url());
    config.ratio = 1.0;
    config.timeout = Duration::from_secs(30);
    config.interval = Duration::from_millis(20);
    config
}

/// A frontend with a handler of its own and an HTTP backend, and a room server, with spans of all.
fn apps(telemetry: &Telemetry, service: Option<&Service>) -> [App; 2] {
    let mut connector = frontend("connector-1");
    connector.set(telemetry.clone());
    connector.route(
        "h.sum",
        async |Ctx(app): Ctx, Json(list): Json<Vec<u64>>| {
            let sum: u64 = app.rpc("room.calc.sum").call(&list).await?;
            let topic = app
                .topic("sums")
                .push("onSum", &json!({ "sum": sum }))
                .await;
            topic.map_err(|error| HandlerError::internal(error.to_string()))?;
            Ok::<_, HandlerError>(Json(sum))
        },
    );
    connector
        .route("h.later", async |Ctx(app): Ctx| {
            let _: u64 = app.rpc("room.calc.sum").call(&[1_u64]).await?;
            Ok::<_, HandlerError>(())
        })
        .concurrent();
    connector.route("h.fails", async || {
        Err::<(), _>(HandlerError::new("SHOP-1", "no gold"))
    });
    if let Some(service) = service {
        let backend = service.backend().events([BackendEvent::Bound]);
        connector.http_backend("shop", backend);
    }
    let mut room = App::new("room", "room-1");
    room.set(telemetry.clone());
    room.remote("calc.sum", async |Json(list): Json<Vec<u64>>| {
        Json(list.iter().sum::<u64>())
    });
    room.route("h.say", async |Ctx(app): Ctx, session: SessionView| {
        let uid = session.uid().cloned().into_iter().collect::<Vec<_>>();
        let pushed =
            app.channels()
                .push_message_to_users("connector", "onSay", &json!({"n": 1}), &uid);
        pushed
            .await
            .map_err(|error| HandlerError::internal(error.to_string()))?;
        Ok::<_, HandlerError>(Json(received_value("otel-span")))
    });
    [connector, room]
}

/// The one span of this name.
#[track_caller]
fn one(spans: &[Span], name: &str) -> Span {
    let mut found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found.remove(0).clone()
}

#[track_caller]
fn is_child(child: &Span, of: &Span) {
    assert_eq!(
        (&child.trace, &child.parent),
        (&of.trace, &of.id),
        "{child:#?} {of:#?}"
    );
    assert!(child.start >= of.start && child.end >= child.start);
}

/// Everything that a request causes is in its trace: calls, pushes, forwards, and requests to services, which receive the trace id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_trace() {
    let collector = Collector::start();
    let service = Service::start(|_| Answer::Json(json!({"body": 1}))).await;
    let telemetry = Telemetry::new(config(&collector)).unwrap();
    let running = crate::support::start(apps(&telemetry, Some(&service))).await;
    let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
    everything_hangs_together(&mut ann, &collector, &telemetry).await;

    assert_eq!(ann.request("shop.cart.add", json!({})).await, json!(1));
    assert!(telemetry.flush().await);
    let spans = collector.spans();
    let posted = spans
        .iter()
        .filter(|span| span.name == "POST shop")
        .collect::<Vec<_>>();
    let of_cart = posted
        .iter()
        .find(|span| span.get("shaddock.route") == "shop.cart.add")
        .unwrap();
    let request = one(&spans, "shop");
    is_child(of_cart, &request);
    assert_eq!((request.kind, of_cart.kind), (SERVER, CLIENT));
    let asked = service.asked();
    let asked = asked
        .iter()
        .find(|one| one.path.ends_with("cart.add"))
        .unwrap();
    let parent = format!("00-{}-{}-01", of_cart.trace, of_cart.id);
    assert_eq!(asked.headers["traceparent"], parent);
    // Events are traces of their own.
    let of_event = posted
        .iter()
        .find(|span| span.get("shaddock.route") == "bound")
        .unwrap();
    assert_eq!(of_event.parent, "");
    running.shutdown().await;
}

/// The same over NATS, where the context is text in the metadata of each request, as Pitaya servers have it.
#[cfg(feature = "nats")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_over_nats() {
    let backing = crate::servers::Backing::start();
    let cluster = backing.cluster();
    let collector = Collector::start();
    let telemetry = Telemetry::new(config(&collector)).unwrap();
    let servers = apps(&telemetry, None)
        .into_iter()
        .fold(Servers::new(), |all, mut app| {
            app.set(AppConfig::default().rpc_timeout(Duration::from_secs(30)));
            all.add(app)
        });
    let running = servers.cluster(cluster).start().await.unwrap();
    let connector = running.app("connector-1").unwrap();
    eventually("the room server is listed", || {
        let members = connector.membership().unwrap().members();
        members.server("room-1").is_some()
    })
    .await;
    let mut ann = login(connector, "ann").await;
    everything_hangs_together(&mut ann, &collector, &telemetry).await;
    running.shutdown().await;
}

async fn everything_hangs_together(ann: &mut Client, collector: &Collector, telemetry: &Telemetry) {
    assert_eq!(
        ann.request("connector.h.sum", json!([1, 2])).await,
        json!(3)
    );
    let there = ann.request("room.h.say", json!({})).await;
    assert_eq!(ann.wait_push("onSay").await, json!({"n": 1}));
    ann.answer("connector.h.fails", json!({})).await;
    ann.answer("connector.h.nothing", json!({})).await;
    ann.answer("nowhere.h.say", json!({})).await;
    assert!(telemetry.flush().await);

    let spans = collector.spans();
    assert!(
        spans
            .iter()
            .all(|span| span.service == "shaddock" && span.scope == "shaddock")
    );
    let ids: BTreeSet<&String> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len());
    // A handler here, which calls a remote and pushes.
    let sum = one(&spans, "connector.h.sum");
    assert_eq!(
        (sum.kind, sum.parent.as_str(), sum.flags & IS_REMOTE),
        (SERVER, "", 0)
    );
    let hash = "49915e0d7d4b402e";
    for (key, value) in [
        ("shaddock.route", "connector.h.sum"),
        ("shaddock.server", "connector-1"),
        ("shaddock.frontend", "connector-1"),
        ("shaddock.sid", &ann.sid().to_string()),
        ("enduser.pseudo.id", hash),
        ("enduser.id", ""),
    ] {
        assert_eq!(sum.get(key), value, "{key}");
    }
    let call = one(&spans, "call room.calc.sum");
    is_child(&call, &sum);
    assert_eq!((call.kind, call.get("shaddock.peer")), (CLIENT, "room-1"));
    let remote = one(&spans, "room.calc.sum");
    is_child(&remote, &call);
    assert_eq!((remote.kind, remote.flags & IS_REMOTE), (SERVER, IS_REMOTE));
    let topic = one(&spans, "push topic");
    is_child(&topic, &sum);
    assert_eq!((topic.kind, topic.get("shaddock.to")), (PRODUCER, "sums"));
    // A handler on another server, which pushes.
    let request = one(&spans, "room");
    let forward = one(&spans, "forward room");
    is_child(&forward, &request);
    assert_eq!(
        (forward.kind, forward.get("shaddock.peer")),
        (CLIENT, "room-1")
    );
    let say = one(&spans, "room.h.say");
    is_child(&say, &forward);
    assert_eq!((say.kind, say.flags & IS_REMOTE), (SERVER, IS_REMOTE));
    assert_eq!(say.get("shaddock.server"), "room-1");
    assert_eq!(say.get("shaddock.frontend"), "connector-1");
    assert_eq!(say.get("enduser.pseudo.id"), hash);
    let push = one(&spans, "push users");
    is_child(&push, &say);
    assert_eq!(
        (push.get("shaddock.queued"), push.get("shaddock.route")),
        ("1", "onSay")
    );
    let parent = format!("00-{}-{}-01", say.trace, say.id);
    assert_eq!(
        there,
        json!({"traceparent": parent}),
        "what a handler sees of it"
    );
    // Errors. What clients make up is no name.
    let fails = one(&spans, "connector.h.fails");
    assert_eq!(fails.status, Some((2, "no gold".to_owned())));
    assert_eq!(fails.get("error.type"), "SHOP-1");
    assert_eq!(sum.status, None);
    let unknown: Vec<&Span> = spans.iter().filter(|span| span.name == "request").collect();
    let routes: BTreeSet<&str> = unknown
        .iter()
        .map(|span| span.get("shaddock.route"))
        .collect();
    assert_eq!(
        routes,
        BTreeSet::from(["connector.h.nothing", "nowhere.h.say"])
    );
    assert!(unknown.iter().all(|span| span.status.is_some()));
}

/// A concurrent route runs in a task of its own, and what it asks for is in its trace all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concurrent_request_keeps_its_trace() {
    let collector = Collector::start();
    let telemetry = Telemetry::new(config(&collector)).unwrap();
    let running = crate::support::start(apps(&telemetry, None)).await;
    let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
    ann.request("connector.h.later", json!({})).await;
    assert!(telemetry.flush().await);
    let spans = collector.spans();
    is_child(
        &one(&spans, "call room.calc.sum"),
        &one(&spans, "connector.h.later"),
    );
    running.shutdown().await;
}

struct Nobody;

impl Node for Nobody {
    fn serve_request(
        self: Arc<Self>,
        _: ForwardedRequest,
    ) -> shaddock_cluster::BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Err(RemoteError::new("X", "nobody")) })
    }

    fn serve_call(
        self: Arc<Self>,
        _: RemoteCall,
    ) -> shaddock_cluster::BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Err(RemoteError::new("X", "nobody")) })
    }
}

/// Who began a trace has decided whether it is recorded: for requests and for calls, whatever the share here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parents_decision_counts() {
    for ratio in [0.0, 1.0] {
        let collector = Collector::start();
        let mut config = config(&collector);
        config.ratio = ratio;
        config.users = TracedUsers::Plain;
        config.service = "game".to_owned();
        let telemetry = Telemetry::new(config).unwrap();
        let cluster = LocalCluster::new();
        let [_, room] = apps(&telemetry, None);
        let servers = Servers::new().add(room).cluster(cluster.clone());
        let running = servers.start().await.unwrap();
        let info = ServerInfo::new("gate-1", "gate", true).unwrap();
        let gate = cluster
            .join(info, JoinOptions::default(), Arc::new(Nobody))
            .await
            .unwrap();
        let server = gate.members().server("room-1").unwrap();
        for (flags, n) in [("01", 1), ("00", 2), ("none", 3), ("odd", 4)] {
            let mut context = Context::with_timeout(Duration::from_secs(30));
            let parent =
                format!("00-0000000000000000000000000000000{n}-00000000000000a{n}-{flags}");
            match flags {
                "none" => {}
                "odd" => context.set("otel-span", json!({"traceparent": 7})),
                _ => context.set(
                    "otel-span",
                    json!({"traceparent": parent, "tracestate": "x=y"}),
                ),
            }
            let request = ForwardedRequest {
                route: Arc::from("room.h.say"),
                body: Bytes::from_static(b"{}"),
                id: std::num::NonZeroU64::new(n),
                session: ForwardedSession {
                    uid: Some(Arc::from("ann")),
                    ..ForwardedSession::default()
                },
                context: context.clone(),
            };
            let answered = gate.forward(&server, request).await.unwrap();
            let there: Value = serde_json::from_slice(&answered).unwrap();
            let is_parents = there["traceparent"]
                .as_str()
                .unwrap()
                .starts_with(&parent[..36]);
            assert_eq!(is_parents, ["01", "00"].contains(&flags), "{there}");
            assert_eq!(there.get("tracestate").is_some(), is_parents);
            let call = RemoteCall {
                route: Arc::from("room.calc.sum"),
                body: Bytes::from_static(b"[1]"),
                from: None,
                context,
            };
            gate.call(&server, call).await.unwrap();
        }
        assert!(telemetry.flush().await);
        for name in ["room.h.say", "room.calc.sum"] {
            let mut traces: Vec<String> = collector
                .named(name)
                .into_iter()
                .map(|span| span.trace)
                .collect();
            traces.sort();
            let of_others = format!("{:032x}", 1);
            if ratio > 0.0 {
                assert_eq!(
                    traces.len(),
                    3,
                    "{name}: all but the one that is not to be recorded"
                );
                assert!(!traces.contains(&format!("{:032x}", 2)));
                assert!(traces.contains(&of_others));
            } else {
                assert_eq!(traces, [of_others], "{name}");
            }
        }
        for span in collector.named("room.h.say") {
            assert_eq!(span.service, "game");
            assert_eq!(
                (span.get("enduser.id"), span.get("enduser.pseudo.id")),
                ("ann", "")
            );
            if span.trace.ends_with("01") {
                assert_eq!(
                    (span.parent.as_str(), span.state.as_str()),
                    ("00000000000000a1", "x=y")
                );
            }
        }
        running.shutdown().await;
    }
}

/// A metric of the framework.
fn metric(operations: &Operations, name: &str) -> u64 {
    let text = metrics::render(operations);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}"))
        .parse()
        .unwrap()
}

fn dropped(operations: &Operations, reason: &str) -> u64 {
    metric(
        operations,
        &format!("shaddock_telemetry_spans_dropped_total{{reason=\"{reason}\"}}"),
    )
}

const EXPORTED: &str = "shaddock_telemetry_spans_exported_total{}";

/// A collector that does not respond, or is not running: requests are served as before, spans above the limit are counted, and the shutdown
/// is short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_collector_delays_no_request() {
    let silent = Collector::saying(|_| Say::Nothing);
    let gone = format!("http://{}", crate::ports::local(crate::ports::free_port()));
    // The queue of the silent one must fill up, whatever fails beside it.
    for (url, timeout, reason) in [
        (silent.url(), Duration::from_secs(5), "queue_full"),
        (gone, Duration::from_millis(300), "failed"),
    ] {
        let mut config = config(&silent);
        config.otlp = url;
        config.queue = 8;
        config.timeout = timeout;
        let telemetry = Telemetry::new(config).unwrap();
        let operations = Operations::new();
        let running = crate::support::start(apps(&telemetry, None)).await;
        operations.running(running.apps());
        let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
        let mut sent = 0;
        // The task that sends takes 512 and waits: the queue is full soon after. Those of one that is gone are thrown away after three attempts.
        while dropped(&operations, reason) == 0 {
            for _ in 0..100 {
                ann.answer("connector.h.fails", json!({})).await;
            }
            sent += 100;
            assert!(sent < 100_000, "the queue has no bound");
        }
        // It returns, although nothing can be sent.
        telemetry.flush().await;
        assert_eq!(metric(&operations, EXPORTED), 0);
        running.shutdown().await;
    }
}

/// A collector that is busy gets the same spans again; what it says it did not take is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_response_of_the_collector_counts() {
    let collector = Collector::saying(|number| match number {
        0 => Say::Status("503 Service Unavailable"),
        1 => Say::Status("429 Too Many Requests"),
        2 => Say::Taken { rejected: 1 },
        3..=5 => Say::Status("502 Bad Gateway"),
        6 => Say::Status("400 Bad Request"),
        _ => Say::Taken { rejected: 0 },
    });
    let mut config = config(&collector);
    let secret = shaddock::config::Secret::from("authorization=Bearer s3cret");
    config.headers = vec![secret, "x-tenant = blue".into()];
    assert!(!format!("{config:?}").contains("s3cret"));
    let telemetry = Telemetry::new(config).unwrap();
    let operations = Operations::new();
    let running = crate::support::start(apps(&telemetry, None)).await;
    operations.running(running.apps());
    let mut ann = login(running.app("connector-1").unwrap(), "ann").await;
    let counts = || {
        [
            metric(&operations, EXPORTED),
            dropped(&operations, "rejected"),
            dropped(&operations, "failed"),
            dropped(&operations, "queue_full"),
        ]
    };
    // In turn: tried three times and accepted except one; tried three times without success; rejected for good; accepted.
    for (requests, expected) in [
        (1, [0, 1, 0, 0]),
        (1, [0, 1, 1, 0]),
        (1, [0, 1, 2, 0]),
        (1, [1, 1, 2, 0]),
    ] {
        for _ in 0..requests {
            ann.answer("connector.h.fails", json!({})).await;
        }
        eventually("the counts", || counts() == expected).await;
    }
    let heads = collector.heads();
    assert_eq!(heads.len(), 8, "{heads:#?}");
    for head in heads {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\nauthorization: bearer s3cret\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nx-tenant: blue\r\n"), "{head}");
        assert!(
            head.contains("\r\ncontent-type: application/x-protobuf\r\n"),
            "{head}"
        );
    }
    assert_eq!(collector.named("connector.h.fails").len(), 1);
    running.shutdown().await;
}
