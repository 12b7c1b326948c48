//! Messages around the limit of NATS for one message: each arrives whole or its sender is told, and none is half done.

use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use shaddock_cluster::{
    AudienceKey, Context, Receivers, RemoteErrorKind, SessionAnswer, SessionData, SessionOp,
};

use crate::join;
use crate::peers::{Peer, arrived};
use crate::support::node::{Server, call, delivery, raw, request, uids};
use crate::support::servers::{Backing, EtcdServer, NatsServer};
use crate::support::until;

/// The limit of NATS in these tests.
const MAX: usize = 8192;

fn backing() -> Backing {
    Backing {
        nats: NatsServer::start_with_config(&format!("max_payload: {MAX}\n")),
        etcd: EtcdServer::start(),
    }
}

/// Lengths below the limit, at it, and above.
fn lengths() -> impl Iterator<Item = usize> {
    let coarse = (MAX - 1700..MAX + 100).step_by(41);
    [100].into_iter().chain(coarse).chain([MAX, 3 * MAX])
}

/// A body of this length that differs from the one before.
fn body(length: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(length % 26).unwrap());
    std::iter::repeat_n(letter, length).collect()
}

/// The bodies that were sent, and the number of refused ones.
#[derive(Default)]
struct Sent {
    bodies: Vec<String>,
    refused: usize,
}

impl Sent {
    fn note<T>(
        &mut self,
        body: String,
        result: Result<T, shaddock_cluster::RemoteError>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.bodies.push(body);
                Some(value)
            }
            Err(error) => {
                assert_eq!(error.kind(), RemoteErrorKind::Refused, "{error}");
                assert!(error.message().contains("the limit of NATS is"), "{error}");
                self.refused += 1;
                None
            }
        }
    }

    /// Both happened.
    fn check(&self, what: &str) {
        println!(
            "{what}: {} sent, {} refused",
            self.bodies.len(),
            self.refused
        );
        assert!(self.bodies.len() > 2 && self.refused > 2, "{what}");
    }
}

async fn with_users() -> (Backing, Vec<Server>, Server) {
    let backing = backing();
    let config = backing.patient_config();
    let mut fronts = Vec::new();
    for (id, uid) in [("front-1", "ann"), ("front-2", "bob")] {
        let front = join(&config, id, "connector").await;
        front.open(1);
        front.bind(1, uid).await.unwrap();
        fronts.push(front);
    }
    let back = join(&config, "chat-1", "chat").await;
    for front in &fronts {
        back.sees(front.id().as_str()).await;
    }
    (backing, fronts, back)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_any_length_reaches_all_frontends_or_none() {
    let (backing, fronts, back) = with_users().await;
    let go = Peer::start(&backing, "connector", "go-1").await;
    back.sees("go-1").await;
    let mut for_cid = go
        .client
        .subscribe("pitaya/connector/user/cid/push")
        .await
        .unwrap();
    arrived(&go.client).await;

    let mut sent = Sent::default();
    for length in lengths() {
        let text = body(length);
        let users = ["ann", "bob", "cid"].map(Arc::from);
        let pushed = back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            text.clone().into(),
            users.into(),
        );
        if let Some(pushed) = sent.note(text, pushed.await) {
            assert_eq!((pushed.queued, &pushed.failed), (2, &Vec::new()));
            assert_eq!(pushed.unconfirmed, ["cid".into()]);
        }
    }
    sent.check("to users");
    for front in &fronts {
        // All are confirmed.
        assert!(front.got(1) == sent.bodies, "{}", front.id());
    }
    for text in &sent.bodies {
        let message = for_cid.next().await.unwrap();
        assert!(holds(&message.payload, text), "{}", text.len());
    }
    assert!(futures_util::FutureExt::now_or_never(for_cid.next()).is_none());
}

fn holds(payload: &[u8], text: &str) -> bool {
    payload
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_any_length_reaches_all_receivers_of_a_frontend_or_none() {
    let (_backing, fronts, back) = with_users().await;
    let front = &fronts[0];
    // Their names take several messages.
    let users: Vec<_> = (0..300).map(|n| format!("{n:0>60}")).collect();
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    for (sid, uid) in (10..).zip(&users) {
        front.open(sid);
        front.bind(sid, uid).await.unwrap();
    }
    let sids: Arc<[_]> = (10..310).map(raw).collect();
    let mut all = Sent::default();
    for to in [
        uids(&names),
        Receivers::Sids(sids),
        Receivers::All { bound_only: true },
    ] {
        let mut sent = Sent::default();
        for length in lengths().step_by(3) {
            let text = body(length);
            let delivered = back
                .member
                .deliver(&front.id(), delivery(&text, to.clone()))
                .await;
            if let Some(delivered) = sent.note(text, delivered) {
                assert!(delivered.queued >= 300, "{delivered:?}");
                assert_eq!(delivered.failed, []);
            }
        }
        sent.check("to a frontend");
        all.bodies.append(&mut sent.bodies);
    }
    for sid in 10..310 {
        assert!(front.got(sid) == all.bodies, "{sid}");
    }
}

/// Without a confirmation, too; and what its members did not get is reported as far as there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_any_length_to_an_audience_is_heard_or_refused() {
    let (_backing, fronts, back) = with_users().await;
    let front = &fronts[0];
    let _tie = front.member.hold_topic("room").await.unwrap();
    let key = AudienceKey::topic("room").unwrap();
    let to = |name_missing| Receivers::Audience {
        key: key.clone(),
        except: None,
        name_missing,
    };
    let mut sent = Sent::default();
    for length in lengths() {
        let text = body(length);
        let one = delivery(&text, to(false));
        let pushed = back.member.deliver_to_topic("room", one.clone());
        if let Some(more) = sent.note(text.clone(), pushed) {
            more.await;
        }
        let pushed = back.member.deliver_unconfirmed(&front.id(), one);
        sent.note(text, pushed);
    }
    sent.check("to an audience");
    let heard = || {
        let state = front.state();
        let bodies = state.heard.iter().map(|(_, _, body)| body.clone());
        bodies.collect::<Vec<_>>()
    };
    until("all of it", || heard().len() >= sent.bodies.len()).await;
    // A topic and a frontend have subjects of their own: messages to both may overtake each other.
    let (mut heard, mut expected) = (heard(), sent.bodies);
    heard.sort();
    expected.sort();
    assert!(heard == expected);

    let many = "no member gets it";
    let answer = back.member.deliver(&front.id(), delivery(many, to(true)));
    let answer = answer.await.unwrap();
    assert_eq!((answer.queued, answer.missing), (3, 1000));
    assert!((50..1000).contains(&answer.missing_uids.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_any_length_is_run_whole_or_refused() {
    let (backing, fronts, back) = with_users().await;
    let front = &fronts[0];
    front.sees("chat-1").await;
    let mut go = Peer::start(&backing, "game", "go-1").await;
    front.sees("go-1").await;
    let go_info = front.member.members().server("go-1").unwrap();
    let (mut sent, mut to_go) = (Sent::default(), Sent::default());
    for length in lengths() {
        let text = body(length);
        let answer = front.request(back.info(), "chat.room.echo", &text).await;
        if let Some(answer) = sent.note(text.clone(), answer) {
            assert!(answer == text);
        }
        let answer = front
            .member
            .call(back.info(), call("chat.room.echo", &text));
        if let Some(answer) = sent.note(text.clone(), answer.await) {
            assert!(answer == text);
        }
        let asked = front.member.forward(&go_info, request("game.r.h", &text));
        let served = async {
            let message = go.requests.next().await.unwrap();
            assert!(holds(&message.payload, &text), "{length}");
            go.answer(message.reply.unwrap(), b"\x0a\x02ok").await;
        };
        // Either it is refused, or it arrives.
        let answer = tokio::select! {
            answer = asked => answer,
            () = async { served.await; std::future::pending().await } => unreachable!(),
        };
        if let Some(answer) = to_go.note(text, answer) {
            assert_eq!(answer, "ok");
        }
    }
    sent.check("to a shaddock server");
    to_go.check("to a Pitaya server");
    let ran = {
        let state = back.state();
        state.requests.len() + state.calls.len()
    };
    assert_eq!(ran, sent.bodies.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_of_any_length_arrives_whole_or_as_an_error() {
    let (_backing, fronts, back) = with_users().await;
    let front = &fronts[0];
    front.sees("chat-1").await;
    let mut outcomes = (0, 0);
    for length in (MAX - 50..MAX + 10).chain([3 * MAX]) {
        let wanted = length.to_string();
        let answer = front.request(back.info(), "chat.room.big", &wanted);
        match answer.await {
            Ok(answer) => {
                assert_eq!(answer.len(), length);
                outcomes.0 += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), "PIT-500");
                assert!(error.message().contains("the limit of NATS is"), "{error}");
                outcomes.1 += 1;
            }
        }
    }
    println!("responses: {outcomes:?}");
    assert!(outcomes.0 > 2 && outcomes.1 > 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_any_length_are_written_whole_or_refused() {
    let (_backing, fronts, back) = with_users().await;
    let front = &fronts[0];
    let op = async |op| {
        let done = back.member.session_op(&front.id(), op, Context::new());
        done.await
    };
    let mut sent = Sent::default();
    let mut last = Value::Null;
    for length in lengths() {
        let text = body(length);
        let mut changes = Map::new();
        changes.insert("a".to_owned(), json!(text));
        changes.insert("length".to_owned(), json!(length));
        let merge = SessionOp::Merge {
            sid: raw(1),
            changes: Arc::new(changes.clone()),
            removed: Vec::new(),
            view: SessionData::empty(),
        };
        if sent.note(text, op(merge).await).is_some() {
            last = Value::Object(changes);
        }
        let there = front.state().sessions[&1].data.clone();
        assert!(Value::Object(there) == last, "{length}");
        // A reader gets all of it, or an error.
        match op(SessionOp::Get { sid: raw(1) }).await {
            Ok(SessionAnswer::Sessions(found)) => {
                let data = found[0].data.to_map().unwrap();
                assert!(Value::Object(Map::clone(&data)) == last);
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.message().contains("the limit of NATS is")),
        }
    }
    sent.check("settings");
}
