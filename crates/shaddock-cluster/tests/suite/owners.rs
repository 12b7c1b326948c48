//! Ownership of users: many sessions, or one.

use std::sync::Arc;

use shaddock_cluster::{Conflict, JoinOptions, SessionsPerUser};

use crate::World;
use crate::support::node::{Server, raw};
use crate::support::until;

for_both! {
    users_may_have_many_sessions
    a_second_bind_is_refused_everywhere
    a_second_bind_replaces_the_first_everywhere
    binds_that_race_leave_one
    a_second_bind_of_a_session_that_is_dropped_takes_nothing_away
    any_text_names_a_user
}

async fn users_may_have_many_sessions(world: World) {
    let (front, back) = world.pair().await;
    let other = world.join("front-2", "connector").await;
    front.open(1);
    front.open(2);
    other.open(3);
    for (server, sid) in [(&front, 1), (&front, 2), (&other, 3)] {
        server.bind(sid, "u").await.unwrap();
    }
    back.sees("front-2").await;
    let push = || {
        back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            "x".into(),
            vec![Arc::from("u"); 1].into(),
        )
    };
    push().await.unwrap();
    until("all three", || {
        front.got(1) == ["x"] && front.got(2) == ["x"] && other.got(3) == ["x"]
    })
    .await;
    front.close(1);
    push().await.unwrap();
    until("the other two", || {
        front.got(2).len() == 2 && other.got(3).len() == 2
    })
    .await;
    front.close(2);
    other.close(3);
    until("nobody", || {
        front.member.status().bound_users + other.member.status().bound_users == 0
    })
    .await;
}

/// Uids that would break or widen a subject of NATS if they were part of it as they are, and one that looks like such a uid with escapes.
const ODD_UIDS: [&str; 8] = [
    "John Smith",
    "John%20Smith",
    "a.*.b",
    "a.>.b",
    "a..b",
    "a\nPUB x 0",
    "张 三",
    "\u{7f}",
];

async fn any_text_names_a_user(world: World) {
    let (front, other) = two_unique(&world, SessionsPerUser::One(Conflict::ReplaceOld)).await;
    let back = world.join("back-1", "chat").await;
    back.sees("front-1").await;
    back.sees("front-2").await;
    for (n, uid) in ODD_UIDS.iter().enumerate() {
        let n = n as u64;
        front.open(10 + n);
        front.bind(10 + n, uid).await.unwrap();
    }
    for uid in ODD_UIDS {
        // One user and two frontends: NATS is asked where the user is.
        let pushed = back.member.deliver_to_users(
            "connector",
            "onChat".into(),
            uid.as_bytes().to_vec().into(),
            vec![Arc::from(uid)].into(),
        );
        let delivered = pushed.await.unwrap();
        assert_eq!(
            (delivered.queued, delivered.missing_uids.len()),
            (1, 0),
            "{uid:?}"
        );
    }
    for (n, uid) in ODD_UIDS.iter().enumerate() {
        let n = n as u64;
        until("exactly one message", || front.got(10 + n) == [*uid]).await;
        // The user comes back elsewhere: one session stays.
        other.open(30 + n);
        other.bind(30 + n, uid).await.unwrap();
        until("closed here", || front.closed(10 + n).is_some()).await;
        let found = back.member.where_is(Arc::from(*uid)).await.unwrap();
        assert_eq!(found.len(), 1, "{uid:?}: {found:?}");
        assert_eq!(
            back.member.kick_user(Arc::from(*uid), None).await.unwrap(),
            1,
            "{uid:?}"
        );
    }
    for bad in ["", &"x".repeat(257)] {
        front.open(99);
        assert!(front.bind(99, bad).await.is_err());
    }
}

async fn two_unique(world: &World, unique: SessionsPerUser) -> (Server, Server) {
    let options = JoinOptions::new().sessions_per_user(unique);
    let first = world
        .join_with("front-1", "connector", options.clone())
        .await;
    let second = world.join_with("front-2", "connector", options).await;
    first.sees("front-2").await;
    (first, second)
}

async fn a_second_bind_is_refused_everywhere(world: World) {
    let (first, second) = two_unique(&world, SessionsPerUser::One(Conflict::RejectNew)).await;
    first.open(1);
    first.open(2);
    second.open(3);
    first.bind(1, "u").await.unwrap();
    assert!(
        first
            .bind(2, "u")
            .await
            .unwrap_err()
            .message()
            .contains("already bound at front-1")
    );
    assert!(
        second
            .bind(3, "u")
            .await
            .unwrap_err()
            .message()
            .contains("already bound at front-1")
    );
    second.bind(3, "v").await.unwrap();
    assert_eq!(first.uid(1).as_deref(), Some("u"), "the old one stays");
    first.close(1);
    second.close(3);
    second.open(4);
    let mut result = second.bind(4, "u").await;
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        result = second.bind(4, "u").await;
    }
    result.unwrap();
}

async fn a_second_bind_replaces_the_first_everywhere(world: World) {
    let (first, second) = two_unique(&world, SessionsPerUser::One(Conflict::ReplaceOld)).await;
    first.open(1);
    second.open(2);
    first.bind(1, "u").await.unwrap();
    second.bind(2, "u").await.unwrap();
    until("replaced", || {
        first.closed(1).as_deref() == Some("replaced")
    })
    .await;
    assert!(second.member.is_bound("u", raw(2)) && !first.member.is_bound("u", raw(1)));
    assert_eq!(first.state().lost, ["u"]);
    first.open(3);
    first.bind(3, "u").await.unwrap();
    until("and back", || {
        second.closed(2).as_deref() == Some("replaced")
    })
    .await;
    assert_eq!(first.uid(3).as_deref(), Some("u"));
}

/// A client that logs in twice and does not wait for the second answer.
async fn a_second_bind_of_a_session_that_is_dropped_takes_nothing_away(world: World) {
    let (first, second) = two_unique(&world, SessionsPerUser::One(Conflict::RejectNew)).await;
    first.open(1);
    first.bind(1, "u").await.unwrap();
    let again = || first.member.bind_user("u".into(), raw(1));
    // Given up before it has begun, while it waits, and when it is made.
    drop(again());
    let mut waits = again();
    let _ = futures_util::FutureExt::now_or_never(waits.as_mut());
    drop(waits);
    drop(again().await.unwrap());
    assert!(first.member.is_bound("u", raw(1)));
    second.open(2);
    let refused = second.bind(2, "u").await.unwrap_err();
    assert!(
        refused.message().contains("already bound at front-1"),
        "{refused}"
    );
    assert_eq!(first.member.status().bound_users, 1);
    first.close(1);
    assert_eq!(first.member.status().bound_users, 0);
}

async fn binds_that_race_leave_one(world: World) {
    for (round, unique) in [
        SessionsPerUser::One(Conflict::RejectNew),
        SessionsPerUser::One(Conflict::ReplaceOld),
    ]
    .into_iter()
    .enumerate()
    {
        let world_type = format!("connector-{round}");
        let mut fronts = Vec::new();
        for n in 0..3 {
            let options = JoinOptions::new().sessions_per_user(unique);
            fronts.push(
                world
                    .join_with(&format!("front-{round}-{n}"), &world_type, options)
                    .await,
            );
        }
        for (a, b) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            fronts[a].sees(fronts[b].id().as_str()).await;
        }
        for turn in 0..10 {
            let uid = format!("user-{turn}");
            for front in &fronts {
                front.open(turn + 1);
            }
            let binds = fronts.iter().map(|front| front.bind(turn + 1, &uid));
            futures_util::future::join_all(binds).await;
            until("at most one has the user", || {
                fronts
                    .iter()
                    .filter(|front| front.uid(turn + 1).as_deref() == Some(&*uid))
                    .count()
                    <= 1
            })
            .await;
            // Each asks all others, behind whatever it has told them before.
            for front in &fronts {
                let found = front.member.where_is(Arc::from(&*uid)).await.unwrap();
                assert_eq!(found.len(), 1, "{unique:?} turn {turn}: {found:?}");
            }
            let bound = fronts.iter().filter(|f| f.uid(turn + 1).is_some()).count();
            // The last one that took the user stays; one that took the user from others is never turned away.
            assert_eq!(bound, 1, "{unique:?} turn {turn}");
            let believes = fronts
                .iter()
                .filter(|f| f.member.is_bound(&uid, raw(turn + 1)))
                .count();
            assert_eq!(believes, 1);
        }
        for front in fronts {
            front.member.leave().await;
        }
    }
}
