//! What filters keep for a request is theirs, and is given back once, however the request ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use shaddock::{
    app::{App, AppConfig, AppHandle},
    filter::{BeforeFlow, Filter, RateLimitFilter, TimeoutFilter, TooBusyFilter},
    prelude::*,
    request::RequestContext,
    wire::{Dialect, MaybeReady},
};

use crate::support::{Client, drive, frontend, pass, start};

/// Counts the requests that hold one of its values, and how often one was given back.
#[derive(Clone, Default)]
struct Holds {
    held: Arc<AtomicUsize>,
    given_back: Arc<AtomicUsize>,
}

struct Held(Holds);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.given_back.fetch_add(1, Ordering::SeqCst);
    }
}

impl Filter for Holds {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        self.held.fetch_add(1, Ordering::SeqCst);
        request.hold(Held(self.clone()));
        BeforeFlow::CONTINUE
    }
}

/// A filter behind the others that ends the request in its own way.
struct Last;

impl Filter for Last {
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        match request.route().method().unwrap_or_default() {
            "refused" => BeforeFlow::refuse(HandlerError::bad_request("no")),
            "filterPanics" => panic!("expected in this test"),
            "refusedLater" => BeforeFlow::later(async {
                tokio::task::yield_now().await;
                Err(HandlerError::bad_request("no"))
            }),
            "filterPanicsLater" => BeforeFlow::later(async {
                tokio::task::yield_now().await;
                panic!("expected in this test")
            }),
            "filterHangs" => BeforeFlow::later(std::future::pending()),
            _ => BeforeFlow::CONTINUE,
        }
    }
}

/// Every way a request ends.
const ENDS: [&str; 12] = [
    "answered",
    "fails",
    "panics",
    "hangs",
    "dropped",
    "refused",
    "filterPanics",
    "refusedLater",
    "filterPanicsLater",
    "filterHangs",
    "nowhere",
    "panicsInDrop",
];

/// Its place is left by a handler that is too late, with a panic.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("expected in this test")
    }
}

fn routes(app: &mut App) {
    app.set(AppConfig::default().handler_timeout(Duration::from_millis(500)));
    for route in [
        "answered",
        "refused",
        "filterPanics",
        "refusedLater",
        "filterPanicsLater",
        "filterHangs",
    ] {
        app.route(&format!("h.{route}"), async || "ok");
    }
    app.route("h.fails", async || {
        Err::<(), _>(HandlerError::bad_request("no"))
    });
    app.route("h.panics", async || -> () {
        panic!("expected in this test")
    });
    app.route("h.hangs", async || std::future::pending::<()>().await);
    app.route("h.dropped", async || std::future::pending::<()>().await);
    app.route("h.panicsInDrop", async || {
        let _value = PanicsInDrop;
        std::future::pending::<()>().await;
    });
}

/// Filters of one type, several times.
struct Several {
    busy: Vec<TooBusyFilter>,
    holds: Vec<Holds>,
}

impl Several {
    fn new() -> Self {
        Self {
            busy: [3, 5, 4].map(TooBusyFilter::new).into(),
            holds: (0..3).map(|_| Holds::default()).collect(),
        }
    }

    fn add(&self, app: &mut App, global: bool) {
        for (busy, holds) in self.busy.iter().cloned().zip(self.holds.iter().cloned()) {
            if global {
                app.global_filter(busy).global_filter(holds);
            } else {
                app.filter(busy).filter(holds);
            }
        }
    }

    fn at_work(&self) -> Vec<usize> {
        let holds = self.holds.iter();
        let busy = self.busy.iter().map(TooBusyFilter::at_work);
        busy.chain(holds.map(|h| h.held.load(Ordering::SeqCst)))
            .collect()
    }

    fn given_back(&self) -> Vec<usize> {
        let holds = self.holds.iter();
        holds.map(|h| h.given_back.load(Ordering::SeqCst)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_filter_has_its_own_count_and_gives_it_back_once() {
    for global in [true, false] {
        for elsewhere in [true, false] {
            let several = Several::new();
            let mut front = frontend("connector-1");
            let mut back = App::new("chat", "chat-1");
            let app = if elsewhere && !global {
                &mut back
            } else {
                &mut front
            };
            several.add(app, global);
            if global {
                app.global_filter(Last);
            } else {
                app.filter(Last);
            }
            routes(&mut front);
            routes(&mut back);
            let running = start([front, back]).await;
            let server = if elsewhere { "chat" } else { "connector" };
            every_end(&running.apps()[0], server, &several).await;
        }
    }
}

async fn every_end(app: &AppHandle, server: &str, several: &Several) {
    let mut client = Client::with_dialect(app, Dialect::Pitaya);
    let mut before = several.given_back();
    for end in ENDS {
        let case = format!("{server}.h.{end}");
        // Two at a time: one more than the filters would take if they counted each other's.
        let [first, second] = [1, 2].map(|id| client.start(Some(id), &case, "{}"));
        let (MaybeReady::Later(mut first), MaybeReady::Later(second)) = (first, second) else {
            panic!("{case} is driven by the session")
        };
        let begun = futures_poll(&mut first).await;
        if !begun {
            // It waits, and so does the one behind it, which has not begun elsewhere perhaps.
            let at_work = several.at_work();
            assert!(
                at_work
                    .iter()
                    .all(|n| *n == at_work[0] && (1..=2).contains(n)),
                "{case}: {at_work:?}"
            );
        }
        if end == "dropped" {
            drop((first, second));
        } else {
            if !begun {
                first.await;
            }
            second.await;
        }
        // What another server works on ends with its time.
        pass(Duration::from_secs(60)).await;
        assert_eq!(several.at_work(), [0; 6], "{case}");
        let after = several.given_back();
        let taken: Vec<_> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        assert!(
            taken.iter().all(|n| *n == taken[0] && *n <= 2),
            "{case}: {taken:?}"
        );
        before = after;
    }
}

/// Polls once; whether it is done.
async fn futures_poll(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    std::future::poll_fn(|task| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(task).is_ready())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn the_shortest_of_several_timeouts_counts() {
    for (timeouts, expected) in [
        (&[3, 9][..], 3),
        (&[9, 3], 3),
        (&[0, 9], 9),
        (&[9, 0, 4], 4),
        (&[60], 60),
    ] {
        for global in [true, false] {
            let mut app = frontend("connector-1");
            for seconds in timeouts {
                let filter = TimeoutFilter::new(Duration::from_secs(*seconds));
                if global {
                    app.global_filter(filter);
                } else {
                    app.filter(filter);
                }
            }
            app.route("h.hangs", async || std::future::pending::<()>().await);
            let running = start([app]).await;
            let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
            let begin = tokio::time::Instant::now();
            drive(client.start(Some(1), "connector.h.hangs", "{}")).await;
            assert_eq!(begin.elapsed().as_secs(), expected, "{timeouts:?}");
        }
    }
}

#[tokio::test]
async fn several_rate_limits_count_for_themselves() {
    let mut app = frontend("connector-1");
    // The second sees only what the first lets through.
    app.filter(RateLimitFilter::new(0, 5))
        .filter(RateLimitFilter::new(0, 3));
    app.route("h.echo", async || "ok");
    let running = start([app]).await;
    let mut client = Client::with_dialect(&running.apps()[0], Dialect::Pitaya);
    let mut through = 0;
    for _ in 0..8 {
        let (_, refused) = client.answer("h.echo", json!({})).await;
        through += usize::from(!refused);
    }
    assert_eq!(through, 3);
}
