//! Servers come, have numbers, drain and go.

use std::sync::Arc;

use bytes::Bytes;
use shaddock_cluster::{
    ClusterError, Context, JoinOptions, RemoteErrorKind, ServerInfo, SessionAnswer, SessionOp,
};

use crate::support::node::{TestNode, call, delivery, request, uids, works};
use crate::support::until;
use crate::{Server, World};

for_both! {
    servers_come_and_go
    an_id_is_taken_once
    each_start_of_a_frontend_has_a_number
    a_server_that_leaves_finishes_what_it_has
    a_frontend_that_drains_still_serves_its_clients
    a_frontend_that_left_the_list_is_known_to_later_servers
    a_departing_server_is_known_until_it_is_gone
    a_hidden_server_is_not_listed
}

async fn servers_come_and_go(world: World) {
    let first = world.join("chat-1", "chat").await;
    assert!(
        first.member.members().server("chat-1").is_some(),
        "one finds oneself"
    );
    let second = world.join("chat-2", "chat").await;
    assert!(
        second.member.members().server("chat-1").is_some(),
        "known when the join is done"
    );
    first.sees("chat-2").await;
    until("told of it", || first.state().joined == ["chat-2"]).await;
    let ids: Vec<_> = first
        .member
        .members()
        .servers_of("chat")
        .iter()
        .map(|s| s.id.to_string())
        .collect();
    assert_eq!(ids, ["chat-1", "chat-2"]);

    second.member.leave().await;
    until("gone", || first.member.members().server("chat-2").is_none()).await;
    until("told of it", || first.state().left == ["chat-2"]).await;
    assert!(!second.member.status().listed && first.member.status().listed);
}

async fn an_id_is_taken_once(world: World) {
    let first = world.join("chat-1", "chat").await;
    let info = ServerInfo::new("chat-1", "chat", false).unwrap();
    let again = world
        .cluster
        .join(info, JoinOptions::new(), Arc::new(TestNode::default()))
        .await;
    assert!(matches!(again.err(), Some(ClusterError::IdTaken(id)) if id == *"chat-1"));
    first.member.leave().await;
    world.join("chat-1", "chat").await;
}

async fn each_start_of_a_frontend_has_a_number(world: World) {
    let mut numbers = Vec::new();
    for _ in 0..2 {
        // The same servers, started again.
        let ids = ["front-1", "front-2", "front-3"];
        let starts = ids.map(|id| world.join(id, "connector"));
        let servers = futures_util::future::join_all(starts).await;
        let back = world.join("back-1", "chat").await;
        assert_eq!(back.member.start_number(), 0);
        for server in &servers {
            numbers.push(server.member.start_number());
            server.member.leave().await;
        }
        back.member.leave().await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

async fn a_server_that_leaves_finishes_what_it_has(world: World) {
    let (front, back) = world.pair().await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            front
                .member
                .forward(back.info(), request("chat.room.gate", "on"))
        })
        .collect();
    let answers = futures_util::future::join_all(waiting);
    until("all are at work", || back.member.status().serving == 20).await;
    let opens = async {
        until("it has left the list", || {
            front.member.members().server("back-1").is_none()
        })
        .await;
        assert_eq!(back.member.status().serving, 20);
        back.open_gate();
    };
    let (answers, (), ()) = tokio::join!(answers, back.member.leave(), opens);
    for answer in answers {
        assert_eq!(answer.unwrap(), "on");
    }
    assert_eq!(back.member.status().serving, 0);
}

async fn a_frontend_that_drains_still_serves_its_clients(world: World) {
    let (front, back) = world.pair().await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    leaves_the_list(&front, &back).await;
    back.member
        .deliver(&front.id(), delivery("still", uids(&["u"])))
        .await
        .unwrap();
    assert_eq!(front.got(1), ["still"]);
    works(&front, &back).await;
    let SessionAnswer::Kicked(1) = back
        .member
        .session_op(
            &front.id(),
            SessionOp::KickUser {
                uid: "u".into(),
                reason: None,
            },
            Context::new(),
        )
        .await
        .unwrap()
    else {
        panic!()
    };
    front.member.leave().await;
    until("gone", || {
        let gone = back
            .member
            .deliver_unconfirmed(&front.id(), delivery("late", uids(&["u"])));
        gone.is_err_and(|error| error.kind() == RemoteErrorKind::NoServer)
    })
    .await;
}

/// The only frontend leaves the list, and the backend has seen it.
async fn leaves_the_list(front: &Server, back: &Server) {
    front.member.withdraw().await;
    until("not routed to", || {
        !back.member.members().has_type("connector")
    })
    .await;
}

/// Servers that join after the goodbye of a frontend know it too: its clients receive broadcasts, and can be looked up.
async fn a_frontend_that_left_the_list_is_known_to_later_servers(world: World) {
    let (front, back) = world.pair().await;
    front.open(1);
    front.bind(1, "u").await.unwrap();
    leaves_the_list(&front, &back).await;
    let later = world.join("later-1", "chat").await;
    let known = || {
        let departing = later.member.departing();
        departing.iter().any(|info| info.id == front.id())
    };
    until("it is known", known).await;
    let info = later.member.departing().pop().unwrap();
    assert_eq!(*info, *front.info());
    later
        .member
        .deliver(&front.id(), delivery("still", uids(&["u"])))
        .await
        .unwrap();
    assert_eq!(front.got(1), ["still"]);
    front.member.leave().await;
    until("gone", || !known()).await;
}

async fn a_departing_server_is_known_until_it_is_gone(world: World) {
    let (front, back) = world.pair().await;
    let tool = world
        .join_with("tool-1", "tool", JoinOptions::new().hidden())
        .await;
    tool.sees("front-1").await;
    tool.sees("back-1").await;
    let departing = || -> Vec<String> {
        let all = tool.member.departing();
        all.iter().map(|info| info.id.to_string()).collect()
    };
    assert!(departing().is_empty(), "a hidden server has not left");
    for (server, route) in [(&back, "chat.room.echo"), (&front, "connector.room.echo")] {
        server.member.withdraw().await;
        until("departing", || departing() == [server.id().to_string()]).await;
        let info = tool.member.departing().pop().unwrap();
        let answer = tool.member.call(&info, call(route, "on")).await.unwrap();
        assert_eq!(answer, "on");
        server.member.leave().await;
        until("gone", || departing().is_empty()).await;
    }
}

async fn a_hidden_server_is_not_listed(world: World) {
    let (front, _back) = world.pair().await;
    let tool = world
        .join_with("tool-1", "tool", JoinOptions::new().hidden())
        .await;
    tool.sees("front-1").await;
    front.open(1);
    let custom = SessionOp::Custom {
        name: "mirror".into(),
        argument: Bytes::from_static(b"1"),
    };
    tool.member
        .session_op(&front.id(), custom, Context::new())
        .await
        .unwrap();
    // A server that joins later is seen, and the list is read in order.
    let later = world.join("later-1", "chat").await;
    front.sees("later-1").await;
    tool.sees("later-1").await;
    for server in [&front, &later] {
        assert!(server.member.members().server("tool-1").is_none());
        assert!(!server.state().joined.contains(&"tool-1".to_owned()));
    }
    assert!(!tool.member.status().listed);
}
