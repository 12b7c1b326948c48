//! Random stories of users, rooms and servers, compared after each step with lists: who is in, and who hears what.

use std::collections::BTreeSet;

use serde_json::json;
use shaddock::{
    channel::{Channel, JoinError, Joined},
    cluster::LocalCluster,
    prelude::*,
};

use crate::support::{Client, In, front, frontend, uid};

const FRONTENDS: [&str; 3] = ["connector-1", "connector-2", "connector-3"];
const USERS: [&str; 4] = ["ann", "bob", "eve", "\u{674e}\u{96f7}"];

/// A small generator of our own: the seed is the case.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[derive(Clone)]
enum Room {
    Channel(Channel),
    Topic(Topic),
}

impl Room {
    async fn join(&self, view: &SessionView) -> Result<Joined, JoinError> {
        match self {
            Self::Channel(channel) => channel.join(view).await,
            Self::Topic(topic) => topic.join(view).await,
        }
    }

    async fn leave(&self, uid: &str, frontend: &str) -> bool {
        match self {
            Self::Channel(channel) => channel.leave(uid, frontend).await.unwrap(),
            Self::Topic(topic) => topic.leave(uid, frontend).await.unwrap(),
        }
    }

    async fn push(&self, n: u32, except: Option<&str>) {
        match (self, except) {
            (Self::Channel(channel), None) => drop(channel.push_message("onN", &n).await.unwrap()),
            (Self::Channel(channel), Some(uid)) => {
                drop(channel.push_except(uid, "onN", &n).await.unwrap());
            }
            (Self::Topic(topic), None) => topic.push("onN", &n).await.unwrap(),
            (Self::Topic(topic), Some(uid)) => topic.push_except(uid, "onN", &n).await.unwrap(),
        }
    }

    async fn members(&self) -> BTreeSet<(Uid, FrontendId)> {
        let members = match self {
            Self::Channel(channel) => channel.members().await,
            Self::Topic(topic) => topic.members().await,
        };
        let members = members.unwrap();
        assert_eq!(members.count, members.list.len());
        members.list.into_iter().collect()
    }
}

/// A client that is connected, and what the lists know of it.
struct One {
    client: Client,
    at: usize,
    user: usize,
}

struct World {
    cluster: LocalCluster,
    frontends: Vec<Running>,
    chats: Running,
    ones: Vec<One>,
    rooms: Vec<Room>,
    /// By room: user and frontend.
    members: Vec<BTreeSet<(usize, usize)>>,
    pushed: u32,
}

impl World {
    async fn start() -> Self {
        let cluster = LocalCluster::new();
        let mut frontends = Vec::new();
        for id in FRONTENDS {
            frontends.push(start_frontend(&cluster, id).await);
        }
        let chats = Servers::new()
            .add(App::new("chat", "chat-1"))
            .add(App::new("chat", "chat-2"))
            .cluster(cluster.clone());
        let chats = chats.start().await.unwrap();
        let app = |n: usize| &chats.apps()[n];
        // Two servers have a channel of one name.
        let rooms = vec![
            Room::Channel(app(0).channels().create("lobby").unwrap()),
            Room::Channel(app(1).channels().create("lobby").unwrap()),
            Room::Topic(app(0).topic("lobby")),
            Room::Topic(app(1).topic("hall")),
        ];
        Self {
            cluster,
            frontends,
            chats,
            ones: Vec::new(),
            members: vec![BTreeSet::new(); rooms.len()],
            rooms,
            pushed: 0,
        }
    }

    fn has(&self, user: usize, at: usize) -> bool {
        self.ones.iter().any(|one| one.user == user && one.at == at)
    }

    fn forget_those_without_session(&mut self) {
        let there: BTreeSet<_> = self.ones.iter().map(|one| (one.user, one.at)).collect();
        for room in &mut self.members {
            room.retain(|member| there.contains(member));
        }
    }

    async fn log_in(&mut self, user: usize, at: usize) {
        let app = &self.frontends[at].apps()[0];
        let client = Client::connect(app);
        app.bind(client.sid(), uid(USERS[user])).await.unwrap();
        self.ones.push(One { client, at, user });
    }

    /// The session as a backend saw it a moment ago.
    async fn view(&self, which: usize) -> SessionView {
        let one = &self.ones[which];
        let sessions = self.chats.apps()[0].backend_sessions();
        let found = sessions.get(FRONTENDS[one.at], one.client.sid()).await;
        found.unwrap().unwrap()
    }

    async fn step(&mut self, random: &mut Random) {
        let (user, at) = (random.below(USERS.len()), random.below(FRONTENDS.len()));
        let which = random.below(self.ones.len().max(1));
        let room = random.below(self.rooms.len());
        match random.below(14) {
            0..=2 => self.log_in(user, at).await,
            3 if !self.ones.is_empty() => {
                let one = self.ones.swap_remove(which);
                one.client.session.close(CloseReason::ClientClosed);
            }
            4 if !self.ones.is_empty() => {
                let one = self.ones.swap_remove(which);
                one.client.session.unbind(&uid(USERS[one.user])).unwrap();
                let joined = {
                    self.ones.push(one);
                    let view = self.view(self.ones.len() - 1).await;
                    self.rooms[room].join(&view).await
                };
                assert!(matches!(joined, Err(JoinError::NotBound)), "{joined:?}");
                drop(self.ones.pop());
            }
            5..=7 if !self.ones.is_empty() => {
                let view = self.view(which).await;
                let is_new = self.rooms[room].join(&view).await.unwrap().is_new();
                let member = (self.ones[which].user, self.ones[which].at);
                assert_eq!(is_new, self.members[room].insert(member));
            }
            8..=9 if !self.ones.is_empty() => self.join_while_it_closes(which, room).await,
            10 => {
                let left = self.rooms[room].leave(USERS[user], FRONTENDS[at]).await;
                assert_eq!(left, self.members[room].remove(&(user, at)));
            }
            11 if room < 2 => {
                let channels = self.chats.apps()[room].channels();
                assert!(channels.destroy("lobby"));
                self.rooms[room] = Room::Channel(channels.create("lobby").unwrap());
                self.members[room].clear();
            }
            12 if random.below(4) == 0 => {
                // Its clients are closed, and its next life has none.
                let fresh = start_frontend(&LocalCluster::new(), "nobody").await;
                std::mem::replace(&mut self.frontends[at], fresh)
                    .shutdown()
                    .await;
                self.frontends[at] = start_frontend(&self.cluster, FRONTENDS[at]).await;
                self.ones.retain(|one| one.at != at);
            }
            _ => {
                let except = (random.below(3) == 0).then_some(user);
                self.push(room, except).await;
            }
        }
        self.forget_those_without_session();
    }

    /// A backend lets a user in while the session closes: whatever comes first, it is no member afterwards, unless another session of the user
    /// is there.
    async fn join_while_it_closes(&mut self, which: usize, room: usize) {
        let view = self.view(which).await;
        let one = self.ones.swap_remove(which);
        let joining = {
            let room = self.rooms[room].clone();
            tokio::spawn(async move { room.join(&view).await })
        };
        let closing =
            tokio::spawn(async move { one.client.session.close(CloseReason::HeartbeatTimeout) });
        let joined = joining.await.unwrap();
        assert!(closing.await.unwrap());
        match joined {
            Ok(_) if self.has(one.user, one.at) => {
                _ = self.members[room].insert((one.user, one.at));
            }
            Ok(_) | Err(JoinError::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Each session of each member hears it once, and no other.
    async fn push(&mut self, room: usize, except: Option<usize>) {
        self.pushed += 1;
        let n = self.pushed;
        self.rooms[room]
            .push(n, except.map(|user| USERS[user]))
            .await;
        for one in &mut self.ones {
            let is_in = self.members[room].contains(&(one.user, one.at));
            let expected = if is_in && except != Some(one.user) {
                vec![In::Push {
                    route: "onN".to_owned(),
                    body: json!(n),
                }]
            } else {
                Vec::new()
            };
            assert_eq!(one.client.drain(), expected, "push {n}");
        }
    }

    async fn check(&self, seed: u64) {
        for (n, (room, members)) in self.rooms.iter().zip(&self.members).enumerate() {
            let expected: BTreeSet<_> = members
                .iter()
                .map(|(user, at)| (uid(USERS[*user]), front(FRONTENDS[*at])))
                .collect();
            assert_eq!(room.members().await, expected, "room {n}, seed {seed}");
        }
    }
}

async fn start_frontend(cluster: &LocalCluster, id: &str) -> Running {
    let servers = Servers::new().add(frontend(id)).cluster(cluster.clone());
    servers.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_match_the_lists_of_a_model() {
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut world = World::start().await;
        for _ in 0..60 {
            world.step(&mut random).await;
            world.check(seed).await;
        }
        for one in world.ones.drain(..) {
            one.client.session.close(CloseReason::ClientClosed);
        }
        world.members.iter_mut().for_each(BTreeSet::clear);
        world.check(seed).await;
        for frontend in &world.frontends {
            let service = frontend.apps()[0].session_service().unwrap();
            assert!(service.audiences(|_| true).is_empty(), "seed {seed}");
        }
        world.chats.shutdown().await;
        for frontend in world.frontends {
            frontend.shutdown().await;
        }
    }
}
