//! Messages to clients of other servers.

use std::sync::Arc;

use shaddock_cluster::{
    Conflict, Context, Delivered, JoinOptions, Receivers, SessionOp, SessionsPerUser,
};

use crate::World;
use crate::support::node::{delivery, raw, uids};
use crate::support::until;

for_both! {
    one_delivery_reaches_many_and_names_the_missing_users
    deliveries_keep_their_order
    a_frontend_reports_packages_that_it_cannot_encode
    messages_of_one_sender_arrive_in_order_for_every_kind_of_call
    every_session_of_a_user_is_counted
    pushes_find_users_who_move
}

/// A receiver that is present, but for which the package cannot be encoded, is not missing.
async fn a_frontend_reports_packages_that_it_cannot_encode(world: World) {
    let (front, back) = world.pair().await;
    // With two frontends and one user, NATS is asked where the user is.
    let other = world.join("front-2", "connector").await;
    back.sees("front-2").await;
    front.open(1);
    front.bind(1, "a").await.unwrap();
    other.open(2);
    let route = || Arc::from("cannot be written");
    let expected = Delivered {
        refused: Some("because".into()),
        ..Delivered::default()
    };
    for to in [
        uids(&["a"]),
        Receivers::Sids([raw(1)].into()),
        Receivers::All { bound_only: false },
    ] {
        let mut message = delivery("1", to);
        message.route = route();
        let answer = back.member.deliver(&front.id(), message).await;
        assert_eq!(answer.unwrap(), expected);
    }
    for users in [vec![Arc::from("a")], vec!["a".into(); 3]] {
        let sent = back
            .member
            .deliver_to_users("connector", route(), "1".into(), users.into());
        assert_eq!(sent.await.unwrap(), expected);
    }
}

async fn one_delivery_reaches_many_and_names_the_missing_users(world: World) {
    let (front, back) = world.pair().await;
    for sid in 1..=4 {
        front.open(sid);
    }
    for (sid, uid) in [(1, "a"), (2, "b"), (3, "c")] {
        front.bind(sid, uid).await.unwrap();
    }
    let deliver = |body: &str, to| back.member.deliver(&front.id(), delivery(body, to));
    let delivered = deliver("1", uids(&["a", "x", "c", "y"])).await.unwrap();
    let missing = vec![Arc::from("x"), Arc::from("y")];
    assert_eq!(
        delivered,
        Delivered {
            queued: 2,
            missing_uids: missing,
            ..Delivered::default()
        }
    );
    let delivered = deliver("2", Receivers::Sids([raw(4), raw(9)].into()))
        .await
        .unwrap();
    assert_eq!(
        delivered,
        Delivered {
            queued: 1,
            missing_sids: vec![raw(9)],
            ..Delivered::default()
        }
    );
    assert_eq!(
        deliver("3", Receivers::All { bound_only: true })
            .await
            .unwrap()
            .queued,
        3
    );
    assert_eq!(
        deliver("4", Receivers::All { bound_only: false })
            .await
            .unwrap()
            .queued,
        4
    );
    assert_eq!(front.got(1), ["1", "3", "4"]);
    assert_eq!(front.got(4), ["2", "4"]);
    back.member
        .deliver_unconfirmed(&front.id(), delivery("5", uids(&["b"])))
        .unwrap();
    until("it came", || front.got(2) == ["3", "4", "5"]).await;

    let by_type = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "6".into(),
        [Arc::from("a"), Arc::from("x")].into(),
    );
    let delivered = by_type.await.unwrap();
    assert_eq!(
        (delivered.queued, delivered.missing_uids),
        (1, vec![Arc::from("x")])
    );
    let nowhere = back.member.deliver_to_users(
        "connector",
        "onChat".into(),
        "7".into(),
        [Arc::from("x")].into(),
    );
    assert_eq!(nowhere.await.unwrap().missing_uids, [Arc::from("x")]);
}

async fn deliveries_keep_their_order(world: World) {
    let (front, back) = world.pair().await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..3000 {
        match n % 3 {
            0 => back
                .member
                .deliver_unconfirmed(&front.id(), delivery(&n.to_string(), uids(&["u"])))
                .unwrap(),
            1 => waiting.push(
                back.member
                    .deliver(&front.id(), delivery(&n.to_string(), uids(&["u"]))),
            ),
            _ => waiting.push(back.member.deliver(
                &front.id(),
                delivery(&n.to_string(), Receivers::Sids([raw(1)].into())),
            )),
        }
    }
    // Not awaited in order, or not at all.
    waiting.reverse();
    waiting.truncate(100);
    futures_util::future::try_join_all(waiting).await.unwrap();
    until("all came", || front.got(1).len() == 3000).await;
    assert!(
        front
            .got(1)
            .iter()
            .enumerate()
            .all(|(n, body)| *body == n.to_string())
    );
}

/// Every way to a session, one after the other, and two frontends, so that more than one server may have the user.
async fn messages_of_one_sender_arrive_in_order_for_every_kind_of_call(world: World) {
    let (front, back) = world.pair().await;
    let other = world.join("front-2", "connector").await;
    back.sees("front-2").await;
    for (server, sid, uid) in [(&front, 1, "u"), (&other, 2, "v")] {
        server.open(sid);
        server.bind(sid, uid).await.unwrap();
    }
    let (id, to_v) = (front.id(), uids(&["v", "u"]));
    let mut waiting = Vec::new();
    for n in 0..3000 {
        let body = n.to_string();
        let deliver = |to| back.member.deliver(&id, delivery(&body, to));
        let everybody = Receivers::All {
            bound_only: n % 2 == 0,
        };
        match n % 7 {
            0 => waiting.push(back.member.deliver_to_users(
                "connector",
                "onChat".into(),
                body.into(),
                [Arc::from("u")].into(),
            )),
            1 => waiting.push(deliver(uids(&["u"]))),
            2 => waiting.push(deliver(Receivers::Sids([raw(1)].into()))),
            3 => back
                .member
                .deliver_unconfirmed(&id, delivery(&body, uids(&["u"])))
                .unwrap(),
            4 => waiting.push(deliver(everybody)),
            5 => waiting.push(deliver(to_v.clone())),
            _ => {
                waiting.push(back.member.deliver_to_users(
                    "connector",
                    "onChat".into(),
                    body.into(),
                    [Arc::from("v"), Arc::from("u"), Arc::from("nobody")].into(),
                ));
            }
        }
    }
    // Sent last, so it must not come before anything else.
    let kick = SessionOp::Kick {
        sid: raw(1),
        uid: None,
        reason: Some("done".into()),
    };
    let kick = back.member.session_op(&id, kick, Context::new());
    futures_util::future::try_join_all(waiting).await.unwrap();
    kick.await.unwrap();
    let got = front.got(1);
    let in_order = (0..)
        .zip(&got)
        .take_while(|(n, body)| n.to_string() == **body);
    assert_eq!((in_order.count(), got.len()), (3000, 3000));
}

async fn every_session_of_a_user_is_counted(world: World) {
    let (front, back) = world.pair().await;
    let other = world.join("front-2", "connector").await;
    back.sees("front-2").await;
    for (server, sid) in [(&front, 1), (&front, 2), (&other, 3)] {
        server.open(sid);
        server.bind(sid, "u").await.unwrap();
    }
    let delivered = back
        .member
        .deliver_to_users(
            "connector",
            "onChat".into(),
            "x".into(),
            [Arc::from("u")].into(),
        )
        .await
        .unwrap();
    assert_eq!((delivered.queued, delivered.missing_uids.len()), (3, 0));
}

/// A user who logs in here and there, with and without unique sessions: a push that is made after a login reaches it, whether or not its answer is awaited, and
/// every other session of the user, too.
async fn pushes_find_users_who_move(world: World) {
    let types = [
        ("connector-a", SessionsPerUser::Any),
        ("connector-b", SessionsPerUser::One(Conflict::ReplaceOld)),
    ];
    let back = world.join("back-1", "chat").await;
    // With unique sessions frontends promise to tell one server where a user is. It is this one, so the other has to find out.
    let first = world.join("back-2", "chat").await;
    for (server_type, unique) in types {
        let mut fronts = Vec::new();
        for n in 0..3 {
            let id = format!("{server_type}-{n}");
            let options = JoinOptions::new().sessions_per_user(unique);
            fronts.push(world.join_with(&id, server_type, options).await);
            back.sees(&id).await;
            first.sees(&id).await;
        }
        assert_eq!(push(&first, server_type, "").await.unwrap().queued, 0);
        for front in &fronts {
            for other in &fronts {
                front.sees(other.id().as_str()).await;
            }
        }
        let mut open: Vec<(usize, u64)> = Vec::new();
        for round in 0..30 {
            let place = [0, 1, 1, 2, 0, 2][round % 6];
            let sid = round as u64 + 1;
            if round % 4 == 3 {
                // The users are on no frontend for a moment, and the sender may observe that.
                open.drain(..)
                    .for_each(|(place, sid)| fronts[place].close(sid));
                if round % 8 == 3 {
                    let pushed = push(&back, server_type, "nobody hears it");
                    assert_eq!(pushed.await.unwrap().missing_uids.len(), 1);
                }
            }
            fronts[place].open(sid);
            fronts[place].bind(sid, "u").await.unwrap();
            if unique != SessionsPerUser::Any {
                // The node of the tests lets a user have several sessions at one frontend.
                open.retain(|(at, _)| *at == place);
            }
            open.push((place, sid));
            let bodies = ["awaited", "dropped"].map(|how| format!("{how} {round}"));
            // Either of them may be the one that does not find the user.
            let drops_first = round % 2 == 0 && round > 0;
            if drops_first {
                drop(push(&back, server_type, &bodies[1]));
            }
            let queued = push(&back, server_type, &bodies[0]).await.unwrap().queued;
            if !drops_first {
                drop(push(&back, server_type, &bodies[1]));
            }
            assert_eq!(queued, open.len(), "round {round}: {open:?}");
            for (place, sid) in &open {
                until("both came", || {
                    let got = fronts[*place].got(*sid);
                    bodies.iter().all(|body| got.contains(body))
                })
                .await;
            }
        }
    }
}

fn push(
    back: &crate::support::node::Server,
    server_type: &str,
    body: &str,
) -> impl Future<Output = Result<Delivered, shaddock_cluster::RemoteError>> {
    let (route, body) = ("onChat".into(), body.to_owned().into());
    back.member
        .deliver_to_users(server_type, route, body, [Arc::from("u")].into())
}
