//! Peers that are slow, busy, strange or hostile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use shaddock_cluster::{
    Conflict, Context, Interest, JoinOptions, RemoteErrorKind, ServerId, SessionAnswer, SessionOp,
    SessionsPerUser,
};

use tokio::sync::Semaphore;

use crate::support::node::{call, raw, request, works};
use crate::support::servers::Backing;
use crate::support::until;
use crate::support::wait::PATIENCE;
use crate::{SECOND, clean, join, join_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_replies_immediately() {
    let backing = Backing::start();
    let mut config = backing.patient_config();
    let front = join(&config, "front-1", "connector").await;
    config.max_serving = 10;
    let back = join(&config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    let waiting: Vec<_> = (0..10)
        .map(|_| front.member.call(back.info(), call("chat.room.gate", "")))
        .collect();
    until("ten run", || back.member.status().serving == 10).await;
    let error = front
        .request(back.info(), "chat.room.echo", "")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.message()),
        (RemoteErrorKind::Busy, "PIT-503", "server busy")
    );
    // None of the ten has ended meanwhile.
    assert_eq!(back.member.status().serving, 10);
    back.open_gate();
    futures_util::future::try_join_all(waiting).await.unwrap();
    works(&front, &back).await;
    assert_eq!(back.member.status().refused_busy, 1);
}

async fn nats(backing: &Backing) -> async_nats::Client {
    let address = format!("nats://{}", backing.nats.address);
    async_nats::connect(address).await.unwrap()
}

/// Waits until NATS has done all that this client has sent, subscriptions too. `flush` ends when it is sent.
pub(crate) async fn arrived(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, Bytes::new()).await.unwrap();
    client.flush().await.unwrap();
    let back = tokio::time::timeout(PATIENCE, back.next()).await;
    back.expect("NATS answers").unwrap();
}

/// A server that is not one of ours, and does what a test wants.
pub(crate) struct Peer {
    pub(crate) client: async_nats::Client,
    pub(crate) requests: async_nats::Subscriber,
}

impl Peer {
    /// Listens, then lists itself.
    pub(crate) async fn start(backing: &Backing, server_type: &str, id: &str) -> Self {
        let client = nats(backing).await;
        let name = format!("pitaya/servers/{server_type}/{id}");
        let requests = client.subscribe(name.clone()).await.unwrap();
        arrived(&client).await;
        let frontend = server_type.ends_with("front") || server_type == "connector";
        let value = format!(
            r#"{{"id":"{id}","type":"{server_type}","metadata":null,"frontend":{frontend},"hostname":"x"}}"#
        );
        backing.etcd.etcdctl(&["put", &name, &value]);
        Self { client, requests }
    }

    /// Where the next request wants its answer.
    async fn asked(&mut self) -> async_nats::Subject {
        self.requests.next().await.unwrap().reply.unwrap()
    }

    pub(crate) async fn answer(&self, to: async_nats::Subject, payload: &'static [u8]) {
        let payload = Bytes::from_static(payload);
        self.client.publish(to, payload).await.unwrap();
        self.client.flush().await.unwrap();
    }
}

/// A server that answers when the test lets it.
struct PitayaLike {
    /// How many requests it had at once at most.
    most: Arc<AtomicUsize>,
    /// Each permit is one answer; closed it answers all.
    gate: Arc<Semaphore>,
    client: async_nats::Client,
}

async fn pitaya_like(backing: &Backing, id: &str) -> PitayaLike {
    let mut peer = Peer::start(backing, "game", id).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let this = PitayaLike {
        most: Arc::clone(&most),
        gate: Arc::clone(&gate),
        client: peer.client.clone(),
    };
    tokio::spawn(async move {
        while let Some(message) = peer.requests.next().await {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (client, now) = (peer.client.clone(), Arc::clone(&now));
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                if let Ok(permit) = gate.acquire().await {
                    permit.forget();
                }
                now.fetch_sub(1, Ordering::SeqCst);
                let reply = message.reply.expect("a reply subject");
                client
                    .publish(reply, Bytes::from_static(b"\x0a\x02ok"))
                    .await
                    .unwrap();
            });
        }
    });
    this
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pitaya_server_never_gets_more_than_it_can_take() {
    let backing = Backing::start();
    let front = join(&backing.patient_config(), "front-1", "connector").await;
    let back = join(&backing.patient_config(), "chat-1", "chat").await;
    let peer = pitaya_like(&backing, "game-1").await;
    front.sees("game-1").await;
    front.sees("chat-1").await;
    let game = front.member.members().server("game-1").unwrap();
    let mut calls: Vec<_> = (0..300)
        .map(|_| front.member.forward(&game, request("game.a.b", "")))
        .collect();
    let most = || peer.most.load(Ordering::SeqCst);
    until("it has all it can take", || most() == 25).await;
    // Some give up while they wait, some while they are on the way: Pitaya works on those, too.
    drop(calls.drain(..10));
    drop(calls.drain(100..150));
    // Messages sent before this reply are at NATS, and those that NATS had before the other reply are at the peer.
    works(&front, &back).await;
    arrived(&peer.client).await;
    peer.gate.close();
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
    assert_eq!(most(), 25);
    assert_eq!(front.member.status().pending_calls, 0);

    // One that never answers fills its places; what waits fails by its own deadline.
    let _never = pitaya_like(&backing, "game-2").await;
    front.sees("game-2").await;
    let silent = front.member.members().server("game-2").unwrap();
    let calls = (0..60).map(|_| {
        let mut late = request("game.a.b", "");
        late.context = Context::with_timeout(Duration::from_millis(300));
        front.member.forward(&silent, late)
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap_err().kind(), RemoteErrorKind::Timeout);
    }
    assert_eq!(front.member.status().pending_calls, 0);
    assert_eq!(
        front
            .member
            .forward(&game, request("game.a.b", ""))
            .await
            .unwrap(),
        "ok"
    );
    // An operation that it does not support fails without a request to it.
    let error = front
        .member
        .session_op(&game.id, SessionOp::Get { sid: raw(1) }, Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::Refused);
}

/// Pitaya sends the KICK and then closes; a client that is faster makes it say that it failed.
/// The context in a request on the wire: its last field.
fn metadata(request: &[u8]) -> serde_json::Value {
    let start = request
        .windows(14)
        .position(|bytes| bytes == b"{\"reqTimeout\":")
        .unwrap();
    serde_json::from_slice(&request[start..]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pitaya_server_receives_the_events_of_pitaya_frontends() {
    let backing = Backing::start();
    let front = join(&backing.patient_config(), "front-1", "connector").await;
    let mut game = Peer::start(&backing, "game", "game-1").await;
    front.sees("game-1").await;
    let to = front.member.members().server("game-1").unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = front.member.forward(&to, request("game.a.b", ""));
        let message = game.requests.next().await.unwrap();
        let told = metadata(&message.payload);
        assert_eq!(told["req-route"], "game.a.b");
        let started = Duration::from_nanos(told["req-start-time"].as_u64().unwrap());
        assert!(UNIX_EPOCH.elapsed().unwrap() < started + 60 * SECOND);
        ids.push(told["request.id"].as_str().unwrap().to_owned());
        game.answer(message.reply.unwrap(), b"\x0a\x02ok").await;
        assert_eq!(answer.await.unwrap(), "ok");
    }
    assert_ne!(ids[0], ids[1]);
    // The metadata of the request that led to this one is kept.
    let mut further = request("game.a.b", "");
    further.context.set("request.id", "of another".into());
    let _answer = front.member.forward(&to, further);
    let message = game.requests.next().await.unwrap();
    assert_eq!(metadata(&message.payload)["request.id"], "of another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_client_that_closes_first_was_kicked() {
    let backing = Backing::start();
    let back = join(&backing.patient_config(), "chat-1", "chat").await;
    let mut go = Peer::start(&backing, "gofront", "go-1").await;
    back.sees("go-1").await;
    let go_id = ServerId::new("go-1").unwrap();
    let answers = [
        (&b"\x0a\x02\x08\x01"[..], Ok(1)),
        (
            b"\x12\x1f\x0a\x07PIT-000\x12\x14close closed session",
            Ok(1),
        ),
        (
            b"\x12\x1c\x0a\x07PIT-000\x12\x11session not found",
            Err("session not found"),
        ),
    ];
    for (answer, expected) in answers {
        let kick = SessionOp::KickUser {
            uid: "u".into(),
            reason: None,
        };
        let kicked = back.member.session_op(&go_id, kick, Context::new());
        let reply = go.asked().await;
        go.answer(reply, answer).await;
        match (kicked.await, expected) {
            (Ok(SessionAnswer::Kicked(n)), Ok(expected)) => assert_eq!(n, expected),
            (Err(error), Err(text)) => assert_eq!(error.message(), text),
            (got, expected) => panic!("{got:?} and not {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_answers_late_twice_wrongly_and_unasked() {
    let backing = Backing::start();
    let front = join(&backing.patient_config(), "front-1", "connector").await;
    let back = join(&backing.patient_config(), "chat-1", "chat").await;
    let mut peer = Peer::start(&backing, "game", "game-1").await;
    front.sees("game-1").await;
    front.sees("chat-1").await;
    let game = front.member.members().server("game-1").unwrap();
    let ask = async |peer: &mut Peer, limit| {
        let mut request = request("game.a.b", "");
        request.context = Context::with_timeout(limit);
        let reply = front.member.forward(&game, request);
        (reply, peer.asked().await)
    };

    let (twice, subject) = ask(&mut peer, SECOND * 20).await;
    peer.answer(subject.clone(), b"\x0a\x05first").await;
    peer.answer(subject.clone(), b"\x0a\x06second").await;
    assert_eq!(twice.await.unwrap(), "first");
    let (late, late_subject) = ask(&mut peer, SECOND).await;
    assert_eq!(late.await.unwrap_err().kind(), RemoteErrorKind::Timeout);
    peer.answer(late_subject, b"\x0a\x04late").await;
    for garbage in [
        &b"\xff"[..],
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x12\x05\x0a\x03\xff\xff\xff",
    ] {
        let (wrong, subject) = ask(&mut peer, SECOND * 20).await;
        peer.answer(subject, garbage).await;
        let error = wrong.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (RemoteErrorKind::BadAnswer, "PIT-000")
        );
    }
    let (before_number, _) = subject.rsplit_once('.').unwrap();
    for number in [
        "0",
        "1",
        "-1",
        "999999999",
        "18446744073709551616",
        "",
        "x.y",
    ] {
        peer.answer(format!("{before_number}.{number}").into(), b"\x0a\x03odd")
            .await;
    }
    // A silent server does not delay calls of others.
    let silent: Vec<_> = (0..200)
        .map(|_| front.member.forward(&game, request("game.a.b", "")))
        .collect();
    for _ in 0..20 {
        works(&front, &back).await;
    }
    assert_eq!(front.member.status().pending_calls, silent.len());
    drop(silent);
    assert_eq!(front.member.status().pending_calls, 0);
    clean(&backing, &[&front, &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_on_every_subject_affect_no_session() {
    let backing = Backing::start();
    let unique = JoinOptions::new()
        .sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld))
        .with_events_of(Interest::all());
    let front = join_with(&backing.patient_config(), "front-1", "connector", unique).await;
    let back = join(&backing.patient_config(), "chat-1", "chat").await;
    front.sees("chat-1").await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let client = nats(&backing).await;
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/cluster.json"
    );
    let vectors: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut payloads = [b"".as_slice(), b"\xff", b"\x0a\xff\xff\xff\xff\x0f"]
        .map(Bytes::copy_from_slice)
        .to_vec();
    payloads.push(vec![b'x'; 70_000].into());
    for list in ["hostile", "messages"] {
        for vector in vectors[list].as_array().unwrap() {
            let hex = vector["hex"].as_str().unwrap();
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
            payloads.push(bytes.collect());
        }
    }
    let subjects = [
        "pitaya/servers/connector/front-1",
        "pitaya/servers/chat/chat-1",
        "pitaya/connector/user/u/push",
        "pitaya/connector/bindings",
        "shaddock.connector.front-1.mpush",
        "shaddock.connector.front-1.op",
        "shaddock.connector.front-1.r.x.1",
        "shaddock.connector.front-1.other",
        "shaddock.events",
        "shaddock.servers",
    ];
    for subject in subjects {
        for payload in &payloads {
            client.publish(subject, payload.clone()).await.unwrap();
            client
                .publish_with_reply(subject, "nobody", payload.clone())
                .await
                .unwrap();
        }
    }
    arrived(&client).await;
    // Answers with garbage are an error of the caller.
    until("all read", || front.member.status().serving == 0).await;
    works(&front, &back).await;
    assert_eq!(front.uid(1).as_deref(), Some("u"));
    let key = "pitaya/servers/chat";
    for (id, value) in [
        ("x1", "{"),
        ("x2", "[]"),
        ("x3", r#"{"id":"other","type":"chat"}"#),
        ("x4/y", "{}"),
        (" ", "null"),
    ] {
        backing
            .etcd
            .etcdctl(&["put", &format!("{key}/{id}"), value]);
    }
    backing
        .etcd
        .etcdctl(&["put", "pitaya/bindings/connector/v", "no . server > at all"]);
    front.open(2);
    front.bind(2, "v").await.unwrap();
    assert_eq!(front.member.members().servers_of("chat").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_subscribed_for_only_while_a_pitaya_server_needs_it() {
    let backing = Backing::start();
    let mut config = backing.patient_config();
    // Subscriptions go some time after the Pitaya server: twice as long as its last request may take.
    config.request_timeout = SECOND;
    let front = join(&config, "front-1", "connector").await;
    // Its pushes have more time than half of that.
    let back = join(&backing.patient_config(), "chat-1", "chat").await;
    for sid in 1..=5 {
        front.open(sid);
        front.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(front.member.status().subscriptions, 3);
    back.sees("front-1").await;
    let pushed = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "x".into(),
        [Arc::from("user-3")].into(),
    );
    assert_eq!(pushed.await.unwrap().queued, 1);
    pitaya_like(&backing, "game-1").await.gate.close();
    until("subscribed for all", || {
        front.member.status().subscriptions == 13
    })
    .await;
    let client = nats(&backing).await;
    let push = Bytes::from_static(b"\x0a\x06onChat\x12\x06user-4\x1a\x02hi");
    until("it arrives", || {
        let _ = futures_util::FutureExt::now_or_never(
            client.publish("pitaya/connector/user/user-4/push", push.clone()),
        );
        !front.got(4).is_empty()
    })
    .await;
    backing.etcd.etcdctl(&["del", "pitaya/servers/game/game-1"]);
    until("and no longer", || front.member.status().subscriptions == 3).await;
}

/// A Pitaya server pushes to all users as soon as it receives its first message: by then all users can be reached by their subjects,
/// including those who log in meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pitaya_server_pushes_when_it_is_first_called_arrives() {
    const USERS: u64 = 1500;
    let backing = Backing::start();
    let front = Arc::new(join(&backing.patient_config(), "front-1", "connector").await);
    for sid in 1..=USERS {
        front.open(sid);
        front.bind(sid, &format!("user-{sid}")).await.unwrap();
    }
    assert_eq!(front.member.status().subscriptions, 3);
    let logins = {
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let mut bound = USERS;
            while front.member.members().server("game-1").is_none() {
                bound += 1;
                front.open(bound);
                front.bind(bound, &format!("user-{bound}")).await.unwrap();
            }
            bound
        })
    };
    let mut game = Peer::start(&backing, "game", "game-1").await;
    let bound = tokio::time::timeout(30 * SECOND, logins)
        .await
        .unwrap()
        .unwrap();
    let info = front.member.members().server("game-1").unwrap();
    let answer = front.member.forward(&info, request("game.a.b", ""));
    let reply = game.asked().await;
    for sid in 1..=bound {
        let uid = format!("user-{sid}");
        let length = u8::try_from(uid.len()).unwrap();
        let push = [
            b"\x0a\x06onChat\x12",
            &[length][..],
            uid.as_bytes(),
            b"\x1a\x02hi",
        ]
        .concat();
        let subject = format!("pitaya/connector/user/{uid}/push");
        game.client.publish(subject, push.into()).await.unwrap();
    }
    game.answer(reply, b"\x0a\x02ok").await;
    assert_eq!(answer.await.unwrap(), "ok");
    let reached = || {
        let state = front.state();
        state.sessions.values().filter(|s| s.got.len() == 1).count() as u64
    };
    until("everybody got it", || reached() == bound).await;
}

/// One message for each shaddock frontend with all its receivers, and one for each user to Pitaya's; no user receives two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_type_with_frontends_of_both_kinds_are_pushed_to_once() {
    let backing = Backing::start();
    let config = backing.patient_config();
    let go = Peer::start(&backing, "connector", "go-1").await;
    let front = join(&config, "front-1", "connector").await;
    let back = join(&config, "chat-1", "chat").await;
    for (sid, uid) in [(1, "ann"), (2, "bob")] {
        front.open(sid);
        front.bind(sid, uid).await.unwrap();
    }
    for server in ["front-1", "go-1"] {
        back.sees(server).await;
    }
    let subject = "shaddock.connector.front-1.mpush";
    let mut for_ours = go.client.subscribe(subject).await.unwrap();
    let plain = "pitaya/connector/user/cid/push";
    let mut for_cid = go.client.subscribe(plain).await.unwrap();
    arrived(&go.client).await;

    for body in ["1", "2"] {
        let uids = ["ann", "bob", "cid", "no name"].map(Arc::from);
        let pushed =
            back.member
                .deliver_to_users("connector", "onChat".into(), body.into(), uids.into());
        let pushed = pushed.await.unwrap();
        assert_eq!(pushed.queued, 2);
        assert_eq!(pushed.unconfirmed, ["cid".into()]);
        assert_eq!(pushed.missing_uids, ["no name".into()]);
        for_ours.next().await.unwrap();
        for_cid.next().await.unwrap();
    }
    assert!(futures_util::FutureExt::now_or_never(for_ours.next()).is_none());
    // A push that does come by the user's own subject shows that the copies for Pitaya's frontends have been passed over by then.
    let last = Bytes::from_static(b"\x0a\x06onChat\x12\x03ann\x1a\x013");
    let subject = "pitaya/connector/user/ann/push";
    go.client.publish(subject, last).await.unwrap();
    until("the last one came", || front.got(1).len() >= 3).await;
    assert_eq!(front.got(1), ["1", "2", "3"]);
}

/// Pitaya's binding storage deletes the key of a session that closes, also if it names another frontend by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_comes_from_a_pitaya_frontend_has_one_session() {
    let backing = Backing::start();
    let config = backing.patient_config();
    let _go = Peer::start(&backing, "connector", "go-1").await;
    let options =
        || JoinOptions::new().sessions_per_user(SessionsPerUser::One(Conflict::ReplaceOld));
    let first = join_with(&config, "front-1", "connector", options()).await;
    let second = join_with(&config, "front-2", "connector", options()).await;
    first.sees("go-1").await;
    second.sees("go-1").await;
    let key = "pitaya/bindings/connector/u";
    let etcdctl = |words: &[&str]| backing.etcd.etcdctl(words);
    // Another shaddock frontend binds the user while the key is gone: it has no owner to ask, but reports its bind.
    etcdctl(&["put", key, "go-1"]);
    first.open(1);
    first.bind(1, "u").await.unwrap();
    etcdctl(&["del", key]);
    second.open(2);
    second.bind(2, "u").await.unwrap();
    until("replaced", || first.uid(1).is_none()).await;
    assert_eq!(second.uid(2).as_deref(), Some("u"));

    // If no claimant comes for a while, the key is written again.
    etcdctl(&["put", key, "go-1"]);
    first.open(3);
    first.bind(3, "u").await.unwrap();
    until("replaced", || second.uid(2).is_none()).await;
    etcdctl(&["del", key]);
    until("claimed again", || {
        etcdctl(&["get", "--print-value-only", key]).trim() == "front-1"
    })
    .await;
    assert_eq!(first.uid(3).as_deref(), Some("u"));
}
