//! How many messages NATS sees, by its own count.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use shaddock_cluster::{
    AudienceKey, Conflict, Context, Delivered, ForwardedSession, Interest, JoinOptions, Membership,
    Receivers, ServerId, SessionEvent, SessionOp, SessionsPerUser,
};
use support::node::{Server, delivery, raw};
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

    /// All receivers have it, exactly once.
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

    // A caller that requests the number of receivers pays for a reply of each frontend.
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

    // The same where only the type of the frontends is known: each receives all uids, and replies.
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

/// A bind and a close are sent to no server without subscribers; and once, however many servers subscribed to the same.
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

/// Some frontends with a policy, and two backends, which know each other.
struct Many {
    backing: Backing,
    fronts: Vec<Server>,
    backs: Vec<Server>,
}

impl Many {
    async fn start(fronts: usize, unique: SessionsPerUser) -> Self {
        let backing = Backing::start();
        let cluster = backing.cluster();
        let mut many = Self {
            backing,
            fronts: Vec::new(),
            backs: Vec::new(),
        };
        for n in 0..fronts {
            let (id, options) = (
                format!("front-{n}"),
                JoinOptions::new().sessions_per_user(unique),
            );
            many.fronts
                .push(Server::join(&cluster, &id, "connector", options).await);
        }
        for n in 0..2 {
            let (id, options) = (format!("chat-{n}"), JoinOptions::new());
            many.backs
                .push(Server::join(&cluster, &id, "chat", options).await);
        }
        for server in many.fronts.iter().chain(&many.backs) {
            for other in many.fronts.iter().chain(&many.backs) {
                server.sees(other.id().as_str()).await;
            }
        }
        many
    }

    /// The messages that were sent to NATS, and those that it delivered.
    fn count(&self) -> (u64, u64) {
        (self.backing.nats.messages(), self.backing.nats.copies())
    }

    async fn push(&self, back: usize) -> (Delivered, u64) {
        let before = self.count();
        let member = &self.backs[back].member;
        let pushed = member.deliver_to_users(
            "connector",
            "onChat".into(),
            "x".into(),
            ["u".into()].into(),
        );
        let delivered = pushed.await.unwrap();
        let after = self.count();
        assert_eq!(after.0 - before.0, after.1 - before.1, "no copies");
        (delivered, after.0 - before.0)
    }

    /// The user logs in at a frontend, by way of a backend.
    async fn bind(&self, front: usize, sid: u64) {
        let front = &self.fronts[front];
        front.open(sid);
        let bind = SessionOp::Bind {
            sid: raw(sid),
            uid: "u".into(),
        };
        let bound = self.backs[0]
            .member
            .session_op(&front.id(), bind, Context::new());
        bound.await.unwrap();
    }
}

/// Where a user is is asked of all frontends once. From then on a push is one message and its answer, whatever the user does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_user_goes_to_the_frontend_that_has_the_user() {
    const FRONTS: u64 = 4;
    for unique in [
        SessionsPerUser::Any,
        SessionsPerUser::One(Conflict::ReplaceOld),
    ] {
        let many = Many::start(4, unique).await;
        many.bind(0, 1).await;
        let (delivered, messages) = many.push(0).await;
        assert_eq!((delivered.queued, messages), (1, 2 * FRONTS), "it is asked");
        for _ in 0..3 {
            let (delivered, messages) = many.push(0).await;
            assert_eq!((delivered.queued, messages), (1, 2), "it is known");
        }
        // A second session is another place, or the only one.
        many.bind(1, 2).await;
        let places = if unique == SessionsPerUser::Any { 2 } else { 1 };
        let (delivered, _) = many.push(0).await;
        assert_eq!(delivered.queued, places);
        let (delivered, messages) = many.push(0).await;
        assert_eq!((delivered.queued, messages), (places, 2 * places as u64));

        many.fronts[0].close(1);
        many.fronts[1].close(2);
        let (delivered, _) = many.push(0).await;
        assert_eq!(delivered.missing_uids, ["u".into()]);
        let (delivered, messages) = many.push(0).await;
        assert_eq!(delivered.missing_uids, ["u".into()]);
        assert_eq!(messages, 0, "it is known that the user is nowhere");
        many.bind(3, 4).await;
        let (delivered, messages) = many.push(0).await;
        assert_eq!((delivered.queued, messages), (1, 2), "it was told");
        assert_eq!(many.fronts[3].got(4).len(), 1);
    }
}

/// With everything that a login can need: a backend that binds, an older session elsewhere, senders that were promised to be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_and_a_logout_are_at_most_six_messages_whatever_the_number_of_servers() {
    for unique in [
        SessionsPerUser::Any,
        SessionsPerUser::One(Conflict::ReplaceOld),
        SessionsPerUser::One(Conflict::RejectNew),
    ] {
        let mut counts = Vec::new();
        for fronts in [3, 8] {
            let many = Many::start(fronts, unique).await;
            for back in 0..2 {
                assert_eq!(many.push(back).await.0.missing_uids.len(), 1);
            }
            let replaces = unique == SessionsPerUser::One(Conflict::ReplaceOld);
            if replaces {
                many.bind(0, 1).await;
                assert_eq!(many.push(0).await.0.queued, 1);
            }
            let before = many.count();
            many.bind(1, 2).await;
            assert_eq!(many.fronts[0].closed(1).is_some(), replaces);
            many.fronts[1].close(2);
            until("logged out", || {
                many.fronts[1].member.status().bound_users == 0
            })
            .await;
            // The reply arrives after the messages, so that they can be counted.
            let address = SessionOp::ClientAddress { sid: raw(9) };
            let last = many.fronts[1].id();
            let asked = many.backs[0]
                .member
                .session_op(&last, address, Context::new());
            asked.await.unwrap();
            let after = many.count();
            counts.push((after.0 - before.0 - 2, after.1 - before.1 - 2));
        }
        println!("{unique:?}: {counts:?} messages");
        assert_eq!(counts[0], counts[1], "it does not depend on the servers");
        assert!(counts[0].0 <= 6 && counts[0].1 <= 6, "{counts:?}");
    }
}

/// A push to a topic is one message, of which NATS makes a copy for each frontend that has members, and for no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_topic_goes_to_the_frontends_that_have_members() {
    let backing = Backing::start();
    let mut config = backing.config();
    // Nothing is to go wrong here, however slow the machine is.
    config.etcd_timeout = std::time::Duration::from_secs(60);
    config.lease_ttl = config.etcd_timeout;
    config.nats_ping_interval = config.etcd_timeout;
    let cluster = shaddock_cluster::NatsCluster::new(config).unwrap();
    let join = async |id: &str, kind| Server::join(&cluster, id, kind, JoinOptions::new()).await;
    let mut fronts = Vec::new();
    for n in 0..4 {
        fronts.push(join(&format!("front-{n}"), "connector").await);
    }
    let back = join("chat-1", "chat").await;
    for front in &fronts {
        back.sees(front.id().as_str()).await;
    }
    let key = AudienceKey::topic("room:7").unwrap();
    let mut held = Vec::new();
    for front in &fronts[..3] {
        held.push(front.member.hold_topic("room:7").await.unwrap());
    }
    let count = || (backing.nats.messages(), backing.nats.copies());
    let to_members = || Receivers::Audience {
        key: key.clone(),
        except: None,
        name_missing: false,
    };
    let before = count();
    for n in 1..=100 {
        let message = delivery(&n.to_string(), to_members());
        back.member
            .deliver_to_topic("room:7", message)
            .unwrap()
            .await;
    }
    for front in &fronts[..3] {
        until("all of it", || front.state().heard.len() == 100).await;
    }
    let after = count();
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 300));
    assert!(
        fronts[3..]
            .iter()
            .all(|front| front.state().heard.is_empty())
    );
}
