//! The server that Pitaya's own end-to-end tests run, written with shaddock: `interop/e2e` starts it in the place of Pitaya's frontends or backends.
//!
//! It takes the arguments of that server (`-type connector -port 3250 -frontend=true -sdprefix x/`), NATS and etcd from the environment
//! (`E2E_NATS`, `E2E_ETCD`), and writes Pitaya's line when it is ready.

use std::{
    error::Error,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use shaddock::{config::Sources, extract::Protobuf, launch::Launcher, prelude::*};

/// Pitaya's `TestRequest`.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
struct TestRequest {
    #[prost(string, tag = "1")]
    #[serde(default)]
    msg: String,
}

/// Pitaya's `TestResponse`.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
struct TestResponse {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    msg: String,
}

#[derive(Deserialize)]
struct ToUsers {
    uids: Vec<String>,
    msg: String,
}

#[derive(Deserialize)]
struct Call {
    route: String,
    #[serde(default)]
    data: String,
}

/// The members of the group of this server, which Pitaya's server keeps in memory too.
#[derive(Default)]
struct Group {
    members: Mutex<Vec<Uid>>,
    /// Users without a name of their own so far.
    unnamed: AtomicUsize,
}

fn ok(msg: impl Into<String>) -> TestResponse {
    TestResponse {
        code: 200,
        msg: msg.into(),
    }
}

fn uid_of(body: &[u8]) -> Result<Uid, HandlerError> {
    Ok(Uid::new(String::from_utf8_lossy(body).into_owned())?)
}

async fn join(group: &Group, mut session: SessionView, uid: Uid) -> Result<Reply, HandlerError> {
    let bound = session.bind(uid.clone()).await;
    bound.map_err(|error| HandlerError::new("PIT-444", error.to_string()))?;
    if let Ok(mut members) = group.members.lock() {
        members.push(uid);
    }
    Ok(Reply::raw("ack"))
}

async fn bind(
    State(group): State<Group>,
    Ctx(app): Ctx,
    session: SessionView,
) -> Result<Reply, HandlerError> {
    let number = group.unnamed.fetch_add(1, Ordering::Relaxed);
    let uid = Uid::new(format!("{}-{number}", app.id()))?;
    join(&group, session, uid).await
}

async fn bind_id(
    State(group): State<Group>,
    session: SessionView,
    Body(body): Body,
) -> Result<Reply, HandlerError> {
    join(&group, session, uid_of(&body)?).await
}

async fn broadcast(app: &AppHandle, group: &Group, route: &str, body: Body) {
    let members = group.members.lock().map(|members| members.clone());
    let pushed = app
        .channels()
        .push_message_to_users("connector", route, &body, &members.unwrap_or_default())
        .await;
    if let Err(error) = pushed {
        eprintln!("{error}");
    }
}

async fn send_to_users(Ctx(app): Ctx, Json(to): Json<ToUsers>) -> Result<(), HandlerError> {
    let uids: Result<Vec<_>, _> = to.uids.into_iter().map(Uid::new).collect();
    app.channels()
        .push_message_to_users(
            "connector",
            "route.sendtousers",
            &Body(to.msg.into()),
            &uids?,
        )
        .await?;
    Ok(())
}

async fn send_rpc(
    Ctx(app): Ctx,
    Json(call): Json<Call>,
) -> Result<Json<TestResponse>, HandlerError> {
    let argument = TestRequest { msg: call.data };
    let rpc = app.rpc(&call.route).to_other_type();
    Ok(Json(rpc.call_protobuf(&argument).await?))
}

async fn kick_user(Ctx(app): Ctx, Body(uid): Body) -> Result<Json<TestResponse>, HandlerError> {
    let uid = uid_of(&uid)?;
    app.backend_sessions()
        .kick_everywhere(uid.as_str(), "out")
        .await?;
    Ok(Json(ok("ok")))
}

async fn kick_me(session: SessionView) -> Result<Json<TestResponse>, HandlerError> {
    session.kick("out").await?;
    Ok(Json(ok("ok")))
}

fn add_handlers(app: &mut App) {
    app.set(Group::default());
    app.handle("testsvc.testrequestonlysessionreturnsptr", async || {
        Json(ok("hello"))
    });
    for route in ["ptrnil", "rawnil"] {
        let route = format!("testsvc.testrequestonlysessionreturns{route}");
        app.handle(&route, async || -> Result<(), HandlerError> {
            Err(HandlerError::no_value())
        });
    }
    app.handle(
        "testsvc.testrequestreturnsptr",
        async |Json(request): Json<TestRequest>| Json(ok(request.msg)),
    );
    app.handle(
        "testsvc.testrequestreturnsraw",
        async |Json(request): Json<TestRequest>| Reply::raw(request.msg),
    );
    app.handle(
        "testsvc.testrequestreceivereturnsraw",
        async |Body(body): Body| Reply::raw(body),
    );
    app.handle(
        "testsvc.testrequestreturnserror",
        async || -> Result<(), HandlerError> { Err(HandlerError::new("PIT-555", "somerror")) },
    );
    app.handle("testsvc.testbind", bind);
    app.handle("testsvc.testbindid", bind_id);
    app.handle("testsvc.testrequestkickuser", kick_user);
    app.handle("testsvc.testrequestkickme", kick_me);
    for (name, route) in [("", "route.test"), ("ptr", "route.testptr")] {
        app.handle(
            &format!("testsvc.testsendgroupmsg{name}"),
            async move |Ctx(app): Ctx, State(group): State<Group>, body: Body| {
                broadcast(&app, &group, route, body).await;
            },
        );
    }
    app.handle("testsvc.testsendtousers", send_to_users);
    app.handle("testsvc.testsendrpc", send_rpc);
    app.handle("testsvc.testsendrpcnoargs", send_rpc);
}

fn add_remotes(app: &mut App) {
    for name in ["rawptr", "ptr"] {
        app.remote(
            &format!("testremotesvc.rpctest{name}returnsptr"),
            async |Protobuf(TestRequest { msg }): Protobuf<TestRequest>| {
                Protobuf(ok(format!("got {msg}")))
            },
        );
    }
    app.remote("testremotesvc.rpctestnoargs", async || {
        Protobuf(ok("got nothing"))
    });
    app.remote(
        "testremotesvc.rpctestreturnserror",
        async || -> Result<(), HandlerError> {
            Err(HandlerError::new("PIT-433", "test error").with_metadata("some", "meta"))
        },
    );
}

/// The value of an argument: `-name value` or `-name=value`.
fn argument(name: &str) -> Option<String> {
    let mut words = std::env::args();
    while let Some(word) = words.next() {
        let Some(rest) = word.strip_prefix('-').and_then(|w| w.strip_prefix(name)) else {
            continue;
        };
        match rest.strip_prefix('=') {
            Some(value) => return Some(value.to_owned()),
            None if rest.is_empty() => return words.next(),
            None => {}
        }
    }
    None
}

fn main() -> Result<(), Box<dyn Error>> {
    let server_type = argument("type").ok_or("-type is missing")?;
    let port = argument("port").ok_or("-port is missing")?;
    let prefix = argument("sdprefix").ok_or("-sdprefix is missing")?;
    let is_frontend = argument("frontend").is_none_or(|frontend| frontend == "true");
    let settings = vec![
        "cluster.mode=nats".to_owned(),
        format!("cluster.nats_urls=nats://{}", std::env::var("E2E_NATS")?),
        format!("cluster.etcd_endpoints={}", std::env::var("E2E_ETCD")?),
        format!("cluster.etcd_prefix={prefix}"),
        "session.single_session=true".to_owned(),
        "session.on_conflict=replace_old".to_owned(),
        "admin.address=".to_owned(),
    ];
    let launcher = Launcher::new(Sources::of_process(None, settings))?;
    let id = format!("{server_type}-{}", std::process::id());
    let mut app = App::new(&server_type, &id);
    launcher.configure(&mut app);
    if is_frontend {
        app.listen(format!("127.0.0.1:{port}"));
    }
    add_handlers(&mut app);
    add_remotes(&mut app);
    let served = launcher.serve(Servers::new().add(app), |_| {
        eprintln!("all modules started!");
    });
    tokio::runtime::Runtime::new()?.block_on(served)?;
    Ok(())
}
