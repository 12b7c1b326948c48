//! How many messages NATS sees, by its own count.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use shaddock_cluster::{
    ForwardedSession, Interest, JoinOptions, Membership, Receivers, ServerId, SessionEvent,
};
use support::node::{Server, delivery};
use support::servers::Backing;
use support::until;

const USERS: u64 = 1000;

/// A backend, and a thousand users on two frontends.
struct World {
    backing: Backing,
    fronts: [Server; 2],
    back: Server,
}

impl World {
    async fn start() -> Self {
        let backing = Backing::start();
        let cluster = backing.cluster();
        let join = async |id, kind| Server::join(&cluster, id, kind, JoinOptions::new()).await;
        let fronts = [
            join("front-1", "connector").await,
            join("front-2", "connector").await,
        ];
        let back = join("chat-1", "chat").await;
        back.sees("front-2").await;
        for n in 0..USERS {
            let front = &fronts[usize::try_from(n % 2).unwrap()];
            front.open(n + 1);
            front.bind(n + 1, &format!("user-{n}")).await.unwrap();
        }
        Self {
            backing,
            fronts,
            back,
        }
    }

    /// The users of one frontend.
    fn users(front: u64) -> Receivers {
        let mine = (0..USERS).filter(|n| n % 2 == front);
        Receivers::Uids(mine.map(|n| Arc::from(format!("user-{n}"))).collect())
    }

    fn member(&self) -> (&Arc<dyn Membership>, [ServerId; 2]) {
        (
            &self.back.member,
            [self.fronts[0].id(), self.fronts[1].id()],
        )
    }

    /// Everybody has got it, and each of them once.
    async fn reached(&self, body: &str) {
        for n in 0..USERS {
            let front = &self.fronts[usize::try_from(n % 2).unwrap()];
            until("everybody got it", || !front.got(n + 1).is_empty()).await;
            assert_eq!(front.got(n + 1).last().map(String::as_str), Some(body));
        }
        let total: usize = (0..USERS)
            .map(|n| {
                self.fronts[usize::try_from(n % 2).unwrap()]
                    .got(n + 1)
                    .len()
            })
            .sum();
        assert_eq!(total % 1000, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_thousand_users_is_one_message_for_each_frontend() {
    let world = World::start().await;
    let (back, ids) = world.member();

    let before = world.backing.nats.messages();
    for (n, id) in (0..).zip(&ids) {
        back.deliver_unconfirmed(id, delivery("first", World::users(n)))
            .unwrap();
    }
    world.reached("first").await;
    let pushed = world.backing.nats.messages() - before;
    // `bench/cluster` reads this line.
    println!("{pushed} NATS messages");
    assert_eq!(pushed, 2);

    // Who wants to know whom it reached pays for an answer of each frontend.
    let before = world.backing.nats.messages();
    let sent: Vec<_> = (0..)
        .zip(&ids)
        .map(|(n, id)| back.deliver(id, delivery("second", World::users(n))))
        .collect();
    for answer in sent {
        let delivered = answer.await.unwrap();
        assert_eq!((delivered.queued, delivered.missing_uids.len()), (500, 0));
    }
    assert_eq!(world.backing.nats.messages() - before, 4);
    world.reached("second").await;

    // The same where only the type of their frontends is known: each is told of all, and answers.
    let before = world.backing.nats.messages();
    let Receivers::Uids(everybody) = World::users_of_both() else {
        unreachable!()
    };
    let sent = back.deliver_to_users("connector", "onChat".into(), "third".into(), everybody);
    let delivered = sent.await.unwrap();
    assert_eq!((delivered.queued, delivered.missing_uids.len()), (1000, 0));
    assert_eq!(world.backing.nats.messages() - before, 4);
}

impl World {
    fn users_of_both() -> Receivers {
        Receivers::Uids((0..USERS).map(|n| Arc::from(format!("user-{n}"))).collect())
    }
}

/// A bind and a close are told to nobody if nobody asked; and once, however many servers asked for the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_one_message_for_each_interest_that_it_matches() {
    let world = World::start().await;
    let front = &world.fronts[0];
    front.sees("front-2").await;
    let tell = |uid: &str| {
        let session = ForwardedSession {
            frontend: Some(front.id()),
            uid: Some(uid.into()),
            ..ForwardedSession::default()
        };
        front
            .member
            .publish_event(SessionEvent::Bound(session.clone()));
        front.member.publish_event(SessionEvent::Closed {
            session,
            reason: "closed".into(),
        });
    };
    let count = async || {
        let before = world.backing.nats.messages();
        (0..100).for_each(|_| tell("ann"));
        // Behind all of them.
        let last = front
            .member
            .deliver(&world.fronts[1].id(), delivery("last", World::users(1)));
        last.await.unwrap();
        world.backing.nats.messages() - before - 2
    };
    assert_eq!(count().await, 0);

    let mut askers = Vec::new();
    let cluster = world.backing.cluster();
    for (n, interest) in [
        Interest::of_users("bot-"),
        Interest::of_type("connector"),
        Interest::of_type("connector"),
        Interest::of_type("connector"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("asks-{n}");
        let options = JoinOptions::new().with_events_of(interest);
        askers.push(Server::join(&cluster, &id, "game", options).await);
        front.is_told_of(&id).await;
    }
    assert_eq!(count().await, 200);
    for asker in &askers[1..] {
        until("all of them", || asker.state().events.len() == 200).await;
    }
    assert_eq!(askers[0].state().events.len(), 0);
    for asker in askers {
        asker.member.leave().await;
    }
    // The last goodbye may still be on its way.
    let mut sent = 200;
    for _ in 0..100 {
        if sent > 0 {
            sent = count().await;
        }
    }
    assert_eq!(sent, 0, "nobody asks any more");
}
