//! A frontend and the cluster's word on who owns a user: a claim that is given up is taken back, a user who was lost between claim and bind
//! loses the session, and nothing is done for users while the frontend is cut off.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use shaddock::prelude::*;
use shaddock_cluster::{
    BindError, Bound, BoxFuture, Cluster, ClusterError, Context, Delivered, Delivery,
    ForwardedRequest, JoinOptions, LocalCluster, Located, Members, Membership, Node, RawSid,
    RemoteCall, RemoteError, Reply as ClusterReply, ServerId, ServerInfo, SessionAnswer,
    SessionEvent, SessionOp, Status,
};

use crate::support::{Client, eventually, frontend};

/// What the cluster does to binds.
#[derive(Default)]
struct Word {
    /// A bind never ends.
    stuck: AtomicBool,
    /// Another frontend took the user at once.
    lost: AtomicBool,
    fenced: AtomicBool,
    claimed: Mutex<Vec<String>>,
    given_up: Mutex<Vec<String>>,
}

/// A bind that is given up.
struct Undone(Arc<Word>, String);

impl Drop for Undone {
    fn drop(&mut self) {
        self.0.given_up.lock().unwrap().push(self.1.clone());
    }
}

struct Scripted(LocalCluster, Arc<Word>);

struct Place(Arc<dyn Membership>, Arc<Word>);

impl Cluster for Scripted {
    fn join(
        &self,
        info: ServerInfo,
        options: JoinOptions,
        node: Arc<dyn Node>,
    ) -> BoxFuture<'_, Result<Arc<dyn Membership>, ClusterError>> {
        Box::pin(async move {
            let place = self.0.join(info, options, node).await?;
            Ok(Arc::new(Place(place, Arc::clone(&self.1))) as Arc<dyn Membership>)
        })
    }
}

impl Membership for Place {
    fn info(&self) -> &Arc<ServerInfo> {
        self.0.info()
    }
    fn start_number(&self) -> u16 {
        self.0.start_number()
    }
    fn members(&self) -> &Members {
        self.0.members()
    }
    fn departing(&self) -> Vec<Arc<ServerInfo>> {
        self.0.departing()
    }
    fn forward(&self, to: &ServerInfo, request: ForwardedRequest) -> ClusterReply {
        self.0.forward(to, request)
    }
    fn call(&self, to: &ServerInfo, call: RemoteCall) -> ClusterReply {
        self.0.call(to, call)
    }
    fn session_op(
        &self,
        frontend: &ServerId,
        op: SessionOp,
        context: Context,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        self.0.session_op(frontend, op, context)
    }
    fn deliver(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        self.0.deliver(frontend, delivery)
    }
    fn deliver_unconfirmed(
        &self,
        frontend: &ServerId,
        delivery: Delivery,
    ) -> Result<(), RemoteError> {
        self.0.deliver_unconfirmed(frontend, delivery)
    }
    fn deliver_to_type(
        &self,
        frontend_type: &str,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<Delivered, RemoteError>> {
        self.0.deliver_to_type(frontend_type, delivery)
    }
    fn kick_user(
        &self,
        uid: Arc<str>,
        reason: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<u32, RemoteError>> {
        self.0.kick_user(uid, reason)
    }
    fn where_is(&self, uid: Arc<str>) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>> {
        self.0.where_is(uid)
    }
    fn bind_user(
        &self,
        uid: Arc<str>,
        sid: RawSid,
    ) -> BoxFuture<'static, Result<Bound, BindError>> {
        let word = Arc::clone(&self.1);
        word.claimed.lock().unwrap().push(uid.to_string());
        let bound = self.0.bind_user(Arc::clone(&uid), sid);
        Box::pin(async move {
            let bound = bound.await?;
            let undone = Undone(Arc::clone(&word), uid.to_string());
            if word.stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(Bound::new(move |is_bound| {
                let Some(is_bound) = is_bound else {
                    return false;
                };
                std::mem::forget(undone);
                let kept = bound.keep(is_bound);
                kept && !word.lost.load(Ordering::Relaxed)
            }))
        })
    }
    fn is_bound(&self, uid: &str, sid: RawSid) -> bool {
        !self.1.lost.load(Ordering::Relaxed) && self.0.is_bound(uid, sid)
    }
    fn unbind_user(&self, uid: &Arc<str>, sid: RawSid) {
        self.1.given_up.lock().unwrap().push(uid.to_string());
        self.0.unbind_user(uid, sid);
    }
    fn publish_event(&self, event: SessionEvent) {
        self.0.publish_event(event);
    }
    fn is_fenced(&self) -> bool {
        self.1.fenced.load(Ordering::Relaxed)
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.0.withdraw()
    }
    fn finish(&self) -> BoxFuture<'_, ()> {
        self.0.finish()
    }
    fn leave(&self) -> BoxFuture<'_, ()> {
        self.0.leave()
    }
}

async fn start() -> (Running, Arc<Word>) {
    let word = Arc::new(Word::default());
    let mut app = frontend("connector-1");
    app.set(AppConfig::default().handler_timeout(Duration::from_millis(200)));
    app.route(
        "entry.enter",
        async |mut session: SessionView, Json(uid): Json<String>| {
            session.bind(Uid::new(uid)?).await?;
            Ok::<_, HandlerError>(Json(json!("in")))
        },
    );
    let cut = Arc::clone(&word);
    // The frontend is cut off while the handler runs.
    app.route("entry.push", move |session: SessionView| {
        cut.fenced.store(true, Ordering::Relaxed);
        async move {
            let pushed = session.push_message("onText", "hi").await;
            Json(pushed.err().map_or("pushed", |_| "refused"))
        }
    });
    app.route("entry.echo", async |Json(body): Json<Value>| Json(body));
    let cluster = Scripted(LocalCluster::new(), Arc::clone(&word));
    let running = Servers::new().add(app).cluster(cluster).start().await;
    (running.unwrap(), word)
}

#[tokio::test]
async fn a_bind_that_is_given_up_is_taken_back() {
    let (running, word) = start().await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    word.stuck.store(true, Ordering::Relaxed);
    // The handler's time ends while the cluster still thinks.
    client.request("connector.entry.enter", json!("ann")).await;
    assert_eq!(*word.claimed.lock().unwrap(), ["ann"]);
    assert_eq!(*word.given_up.lock().unwrap(), ["ann"]);
    assert_eq!(client.session.uid(), None);

    // A bind that succeeds is not.
    word.stuck.store(false, Ordering::Relaxed);
    let answer = client.request("connector.entry.enter", json!("bob")).await;
    assert_eq!(answer, json!("in"));
    assert_eq!(*word.given_up.lock().unwrap(), ["ann"]);
    running.shutdown().await;
    assert_eq!(*word.given_up.lock().unwrap(), ["ann", "bob"]);
}

#[tokio::test]
async fn a_session_is_closed_if_its_user_is_claimed_elsewhere_during_the_bind() {
    let (running, word) = start().await;
    let app = &running.apps()[0];
    let mut client = Client::connect(app);
    word.lost.store(true, Ordering::Relaxed);
    crate::support::drive(client.start(Some(2), "connector.entry.enter", "\"ann\"")).await;
    let session = Arc::clone(&client.session);
    eventually("the session is closed", || session.is_closed()).await;
    assert!(
        word.given_up.lock().unwrap().contains(&"ann".to_owned()),
        "the claim does not stay behind"
    );
    assert!(app.session_service().unwrap().get_by_uid("ann").is_empty());
    running.shutdown().await;
}

#[tokio::test]
async fn while_cut_off_nothing_is_done_for_users() {
    let (running, word) = start().await;
    let app = &running.apps()[0];
    let (mut ann, mut guest) = (Client::connect(app), Client::connect(app));
    ann.request("connector.entry.enter", json!("ann")).await;
    let push = || {
        let users = [Uid::new("ann").unwrap()];
        app.channels()
            .push_message_to_users("connector", "onText", &"hi", &users)
    };
    assert_eq!(push().await.unwrap().queued, 1);
    let room = app.channels().create("room").unwrap();
    let (uid, front) = (Uid::new("ann").unwrap(), FrontendId::new("connector-1"));
    assert!(room.add(&uid, &front.unwrap()).await.unwrap().is_new());

    let pushed = ann.request("connector.entry.push", json!(null)).await;
    assert_eq!(pushed, json!("refused"));
    let refused = ann.request("connector.entry.echo", json!("x")).await;
    assert_eq!(refused, json!({ "code": 500 }));
    let answer = guest.request("connector.entry.echo", json!("x")).await;
    assert_eq!(answer, json!("x"), "who is nobody is nobody else's");
    let delivered = push().await.unwrap();
    assert_eq!((delivered.queued, delivered.missing.len()), (0, 1));
    // Nor by what never leaves this server: its channels, its views, broadcasts.
    let delivered = room.push_message("onText", "hi").await.unwrap();
    assert_eq!((delivered.queued, delivered.missing_count()), (0, 1));
    let joined = app
        .channels()
        .create("other")
        .unwrap()
        .add(&uid, &FrontendId::new("connector-1").unwrap())
        .await;
    assert!(
        matches!(joined, Err(shaddock::channel::JoinError::Refused(_))),
        "{joined:?}"
    );
    let sessions = app.backend_sessions();
    let view = |sid| sessions.get("connector-1", sid);
    let (of_ann, of_guest) = (view(ann.session.id()).await, view(guest.session.id()).await);
    let (of_ann, of_guest) = (of_ann.unwrap().unwrap(), of_guest.unwrap().unwrap());
    assert!(of_ann.push_message("onText", "hi").await.is_err());
    of_guest.push_message("onText", "hi").await.unwrap();
    let to_all = async |options| {
        let sent = app
            .channels()
            .broadcast("connector", "onText", "hi", options);
        sent.await.unwrap().queued
    };
    assert_eq!(to_all(BroadcastOptions::all()).await, 1);
    assert_eq!(to_all(BroadcastOptions::bound()).await, 0);
    assert_eq!(to_all(BroadcastOptions::all().filtered("x")).await, 1);

    word.fenced.store(false, Ordering::Relaxed);
    assert_eq!(to_all(BroadcastOptions::all()).await, 2);
    assert_eq!(room.push_message("onText", "hi").await.unwrap().queued, 1);
    of_ann.push_message("onText", "hi").await.unwrap();
    let answer = ann.request("connector.entry.echo", json!("x")).await;
    assert_eq!(answer, json!("x"));
    assert_eq!(push().await.unwrap().queued, 1);
    running.shutdown().await;
}
