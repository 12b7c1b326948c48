//! Channels and topics, as far as the cluster carries them.

use std::sync::Arc;

use shaddock_cluster::{
    AudienceKey, AudiencePart, Context, Delivered, Departure, JoinAnswer, MemberNotice, Receivers,
    SessionAnswer, SessionOp,
};

use crate::World;
use crate::support::node::{delivery, raw};
use crate::support::until;

for_both! {
    operations_on_audiences_and_their_answers_arrive_as_they_were
    a_push_names_the_audience_and_is_answered_in_numbers
    notices_arrive_in_order
    what_is_pushed_to_a_topic_comes_while_it_is_held
}

fn lobby() -> AudienceKey {
    AudienceKey::channel("back-1", 7, 1, "lobby *").unwrap()
}

fn to(key: &AudienceKey, except: Option<&str>, name_missing: bool) -> Receivers {
    Receivers::Audience {
        key: key.clone(),
        except: except.map(Arc::from),
        name_missing,
    }
}

async fn operations_on_audiences_and_their_answers_arrive_as_they_were(world: World) {
    let (front, back) = world.pair().await;
    assert!(back.member.keeps_audiences(&front.id()).unwrap());
    assert!(
        back.member
            .keeps_audiences(&"nobody".try_into().unwrap())
            .is_err()
    );
    let mut sent = Vec::new();
    let mut ask = async |op: SessionOp| {
        sent.push(format!("{op:?}"));
        let context = Context::new();
        back.member
            .session_op(&front.id(), op, context)
            .await
            .unwrap()
    };
    for (uid, expected) in [
        ("new", JoinAnswer::Joined),
        ("known", JoinAnswer::Already),
        ("unbound", JoinAnswer::NotBound),
        ("closed", JoinAnswer::Closed),
        ("other", JoinAnswer::Refused("because".into())),
    ] {
        let join = SessionOp::Join {
            audience: lobby(),
            uid: uid.into(),
            sid: (uid == "new").then(|| raw(9)),
        };
        let answer = ask(join).await;
        assert!(matches!(answer, SessionAnswer::Joined(found) if found == expected));
    }
    for is_prefix in [false, true] {
        let leave = SessionOp::Leave {
            audience: lobby().shared().clone(),
            is_prefix,
            uid: "a".into(),
        };
        assert!(matches!(ask(leave).await, SessionAnswer::Count(7)));
    }
    let end = SessionOp::EndAudience { audience: lobby() };
    assert!(matches!(ask(end).await, SessionAnswer::Count(7)));
    for (named, only) in [(true, None), (false, Some(Arc::from("a")))] {
        let audience = AudienceKey::topic("t").unwrap();
        let who = SessionOp::Audience {
            audience,
            named,
            only,
        };
        let SessionAnswer::Audiences { parts, more, .. } = ask(who).await else {
            panic!("another answer")
        };
        assert_eq!((parts.len(), &*parts[0].audience, more), (1, "t/t", false));
    }
    for watcher in [None, Some(back.id())] {
        let all = SessionOp::Audiences {
            prefixes: vec!["t/room:".to_owned(), "c/".to_owned()],
            after: "t/a".into(),
            named: true,
            watcher,
        };
        let SessionAnswer::Audiences {
            parts,
            more,
            notices,
        } = ask(all).await
        else {
            panic!("another answer")
        };
        let part = AudiencePart {
            audience: "c/".into(),
            uids: vec!["a".into(), "\u{e4} *".into()],
            count: 1 << 40,
        };
        assert_eq!((&parts[1], more, notices), (&part, true, u64::MAX));
    }
    let next = SessionOp::NextNotice { watcher: back.id() };
    assert!(matches!(ask(next).await, SessionAnswer::Count(7)));
    assert_eq!(front.state().audience_ops, sent);
}

async fn a_push_names_the_audience_and_is_answered_in_numbers(world: World) {
    let (front, back) = world.pair().await;
    let push = |to| back.member.deliver(&front.id(), delivery("1", to));
    let delivered = push(to(&lobby(), Some("a"), false)).await.unwrap();
    let expected = Delivered {
        queued: 3,
        missing: 2,
        no_audience: true,
        ..Delivered::default()
    };
    assert_eq!(delivered, expected);
    let delivered = push(to(&lobby(), None, true)).await.unwrap();
    let expected = Delivered {
        queued: 3,
        missing: 2,
        missing_uids: vec!["x".into(), "y".into()],
        ..Delivered::default()
    };
    assert_eq!(delivered, expected);
    let one = |except: Option<&str>| (lobby(), except.map(str::to_owned), "1".to_owned());
    assert_eq!(front.state().heard, [one(Some("a")), one(None)]);
}

async fn notices_arrive_in_order(world: World) {
    let (front, back) = world.pair().await;
    let departures = [
        None,
        Some(Departure::Left),
        Some(Departure::Closed),
        Some(Departure::Unbound),
        Some(Departure::Ended),
        Some(Departure::FrontendLost),
    ];
    let mut sent = Vec::new();
    for number in 1..=60 {
        let notice = MemberNotice {
            frontend: front.id(),
            number,
            audience: lobby(),
            uid: format!("user {number}").into(),
            departure: departures[usize::try_from(number).unwrap() % departures.len()],
        };
        front
            .member
            .notify_member(&back.id(), notice.clone())
            .unwrap();
        sent.push(notice);
    }
    until("all notices", || back.state().notices.len() == sent.len()).await;
    assert_eq!(back.state().notices, sent);
    let nobody = "nobody".try_into().unwrap();
    assert!(
        front
            .member
            .notify_member(&nobody, sent[0].clone())
            .is_err()
    );
}

async fn what_is_pushed_to_a_topic_comes_while_it_is_held(world: World) {
    let (front, back) = world.pair().await;
    let before = front.member.status().subscriptions;
    for name in ["room:7", "a.b.*.>", "\u{5927} \u{5385}"] {
        let key = AudienceKey::topic(name).unwrap();
        let push = |n: u32| {
            let message = delivery(&n.to_string(), to(&key, None, false));
            back.member.deliver_to_topic(name, message).unwrap()
        };
        // Several hold it at once; it is there until the last one lets go.
        let (first, second) = (front.member.hold_topic(name), front.member.hold_topic(name));
        let first = first.await.unwrap();
        push(1).await;
        let second = second.await.unwrap();
        drop(first);
        for n in 2..=50 {
            push(n).await;
        }
        until("all of it", || front.state().heard.len() == 50).await;
        let heard = std::mem::take(&mut front.state().heard);
        let bodies: Vec<String> = heard.into_iter().map(|(_, _, body)| body).collect();
        let expected: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
        assert_eq!(bodies, expected, "each once, and in order");
        drop(second);
        assert_eq!(front.member.status().subscriptions, before);
        // And again.
        let again = front.member.hold_topic(name).await.unwrap();
        push(51).await;
        until("one more", || front.state().heard.len() == 1).await;
        front.state().heard.clear();
        drop(again);
    }
}
