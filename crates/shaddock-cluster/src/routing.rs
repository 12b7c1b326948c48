//! Which server of a type gets a client's message.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::random::random_below;
use crate::{ForwardedSession, Members, RemoteError, RemoteErrorKind, ServerInfo, code};

/// The inputs of a routing function.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RoutingTarget<'a> {
    /// The client's session.
    pub session: &'a ForwardedSession,
    /// The full route.
    pub route: &'a str,
    /// The body of the message.
    pub body: &'a [u8],
}

impl<'a> RoutingTarget<'a> {
    /// The attributes of a message.
    pub fn new(session: &'a ForwardedSession, route: &'a str, body: &'a [u8]) -> Self {
        Self {
            session,
            route,
            body,
        }
    }
}

/// A function that chooses one of the servers, which are never empty and sorted by id. `None` is "none of them".
pub type RouteFn = Arc<
    dyn for<'a> Fn(&RoutingTarget<'a>, &'a [Arc<ServerInfo>]) -> Option<&'a Arc<ServerInfo>>
        + Send
        + Sync,
>;

/// How a server is chosen.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Any, as Pitaya does.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// The same server for the same user, on every frontend, as long as that server is there; when one comes or leaves,
    /// only its share of the users moves. A session without a user is placed by its own id.
    ConsistentHash,
    /// By a function of the session, as Pomelo's `app.route` does.
    Function(RouteFn),
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "Random",
            Self::RoundRobin => "RoundRobin",
            Self::ConsistentHash => "ConsistentHash",
            Self::Function(_) => "Function",
        })
    }
}

/// The strategies of one server, by the type of the target. Types that are not named get a random server, unless told otherwise.
#[derive(Debug, Default)]
pub struct Routing {
    by_type: BTreeMap<Arc<str>, (Strategy, AtomicUsize)>,
    others: (Strategy, AtomicUsize),
}

impl Routing {
    /// Random for all types.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the strategy for a type.
    pub fn set(&mut self, server_type: &str, strategy: Strategy) {
        self.by_type
            .insert(server_type.into(), (strategy, AtomicUsize::new(0)));
    }

    /// Sets the strategy for all types that are not named.
    pub fn set_default(&mut self, strategy: Strategy) {
        self.others = (strategy, AtomicUsize::new(0));
    }

    /// Chooses a server.
    ///
    /// # Errors
    /// `PIT-500` if no server of the type is there, or the function chose none.
    pub fn pick(
        &self,
        members: &Members,
        server_type: &str,
        target: &RoutingTarget<'_>,
    ) -> Result<Arc<ServerInfo>, RemoteError> {
        let servers = members.choices_of(server_type);
        if servers.is_empty() {
            return Err(RemoteError::no_server());
        }
        let chosen = match self.by_type.get(server_type).unwrap_or(&self.others) {
            (Strategy::Random, _) => Some(&servers[random_below(servers.len())]),
            (Strategy::RoundRobin, next) => {
                Some(&servers[next.fetch_add(1, Ordering::Relaxed) % servers.len()])
            }
            (Strategy::ConsistentHash, _) => owner(target.session, &servers),
            (Strategy::Function(choose), _) => choose(target, &servers),
        };
        chosen.cloned().ok_or_else(RemoteError::no_server)
    }
}

/// Chooses the server for a call (user RPC): any of the type that the route names, or the one with this id.
///
/// # Errors
/// The route has no type; it is the caller's own type or id, which is no call; no server of the type, or no such id.
pub fn call_target(
    members: &Members,
    own: &ServerInfo,
    route: &str,
    server: Option<&str>,
) -> Result<Arc<ServerInfo>, RemoteError> {
    if let Some(id) = server {
        if own.id == *id {
            return Err(RemoteError::local_call());
        }
        return members.server(id).ok_or_else(RemoteError::server_not_found);
    }
    let mut parts = route.split('.');
    let (Some(server_type), Some(_), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(RemoteError::of(
            RemoteErrorKind::Refused,
            code::UNKNOWN,
            "no server type chosen for sending RPC, send a full route in the format server.service.component",
        ));
    };
    if *own.server_type == *server_type {
        return Err(RemoteError::local_call());
    }
    let servers = members.choices_of(server_type);
    if servers.is_empty() {
        return Err(RemoteError::no_server());
    }
    Ok(Arc::clone(&servers[random_below(servers.len())]))
}

/// The server that a key belongs to: the same one on every machine that knows the same servers. When a server comes or leaves,
/// only its share of the keys moves. For routing functions: rooms by their id, for example. `None` if there is no server.
///
/// ```
/// # use std::sync::Arc;
/// # use shaddock_cluster::{ServerInfo, owner_of};
/// let servers = ["chat-1", "chat-2"].map(|id| Arc::new(ServerInfo::new(id, "chat", false).unwrap()));
/// let home = owner_of(b"lobby", &servers).unwrap();
/// assert_eq!(owner_of(b"lobby", &[Arc::clone(home)]), Some(home));
/// ```
pub fn owner_of<'a>(key: &[u8], servers: &'a [Arc<ServerInfo>]) -> Option<&'a Arc<ServerInfo>> {
    highest(hash(key, 0), servers)
}

fn owner<'a>(
    session: &ForwardedSession,
    servers: &'a [Arc<ServerInfo>],
) -> Option<&'a Arc<ServerInfo>> {
    let key = match (&session.uid, session.sid) {
        (Some(uid), _) => hash(uid.as_bytes(), 0),
        (None, sid) => hash(&sid.map_or(0, std::num::NonZero::get).to_le_bytes(), 1),
    };
    highest(key, servers)
}

/// Rendezvous hashing: the server with the highest score of (key, server) owns the key. Needs no table, and a server that
/// leaves gives away only what it owned.
fn highest(key: u64, servers: &[Arc<ServerInfo>]) -> Option<&Arc<ServerInfo>> {
    servers
        .iter()
        .max_by_key(|server| mix(hash(server.id.as_str().as_bytes(), key)))
}

/// FNV-1a with a seed. The same on every machine and in every version: all frontends must agree.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325 ^ mix(seed), |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// The finalizer of MurmurHash3: every bit of the input changes half of the output.
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn counted<'a>(ids: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
        let mut counts = HashMap::new();
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    fn members(n: usize) -> Members {
        let members = Members::new();
        for i in 0..n {
            members.add(Arc::new(
                ServerInfo::new(&format!("chat-{i}"), "chat", false).unwrap(),
            ));
        }
        members
    }

    fn of_uid(uid: String) -> ForwardedSession {
        ForwardedSession {
            uid: Some(uid.into()),
            ..ForwardedSession::default()
        }
    }

    fn picks(routing: &Routing, members: &Members, n: usize) -> Vec<String> {
        (0..n)
            .map(|i| {
                let session = of_uid(format!("user-{i}"));
                let target = RoutingTarget::new(&session, "chat.a.b", b"");
                routing
                    .pick(members, "chat", &target)
                    .unwrap()
                    .id
                    .as_str()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn no_server_is_pit_500() {
        let session = ForwardedSession::default();
        let error = Routing::new().pick(
            &members(0),
            "chat",
            &RoutingTarget::new(&session, "chat.a.b", b""),
        );
        assert_eq!(error.unwrap_err().code(), "PIT-500");
    }

    #[test]
    fn random_and_hash_spread_evenly_and_round_robin_exactly() {
        let members = members(4);
        for (strategy, slack) in [
            (Strategy::Random, 250),
            (Strategy::ConsistentHash, 250),
            (Strategy::RoundRobin, 0),
        ] {
            let mut routing = Routing::new();
            routing.set("chat", strategy.clone());
            let picks = picks(&routing, &members, 4000);
            for (id, count) in counted(picks.iter().map(String::as_str)) {
                assert!(count.abs_diff(1000) <= slack, "{strategy:?} {id}: {count}");
            }
        }
    }

    #[test]
    fn a_server_that_leaves_moves_only_its_own_users() {
        let members = members(5);
        let mut routing = Routing::new();
        routing.set("chat", Strategy::ConsistentHash);
        let before = picks(&routing, &members, 1000);
        members.remove("chat-3");
        for (was, is) in before.iter().zip(picks(&routing, &members, 1000)) {
            assert!(*was == is || was == "chat-3");
        }
    }

    #[test]
    fn keys_are_spread_and_stay_where_they_are_when_another_server_leaves() {
        let members = members(4);
        let home = |n: usize| {
            let servers = members.servers_of("chat");
            let home = owner_of(format!("room-{n}").as_bytes(), &servers).unwrap();
            home.id.as_str().to_owned()
        };
        let before: Vec<_> = (0..4000).map(home).collect();
        for (id, count) in counted(before.iter().map(String::as_str)) {
            assert!(count.abs_diff(1000) <= 250, "{id}: {count}");
        }
        members.remove("chat-2");
        for (n, was) in before.iter().enumerate() {
            assert!(home(n) == *was || was == "chat-2");
        }
        assert_eq!(owner_of(b"room", &[]), None);
    }

    #[test]
    fn a_function_sees_the_session_and_may_refuse() {
        let members = members(3);
        let mut routing = Routing::new();
        routing.set(
            "chat",
            Strategy::Function(Arc::new(|target, servers| {
                let rid = target.session.data.to_map().ok()?.get("rid")?.as_u64()?;
                servers.get(usize::try_from(rid).ok()?)
            })),
        );
        let mut session = ForwardedSession::default();
        assert!(
            routing
                .pick(
                    &members,
                    "chat",
                    &RoutingTarget::new(&session, "chat.a.b", b"")
                )
                .is_err()
        );
        session.data = crate::SessionData::from_json(bytes::Bytes::from_static(b"{\"rid\":2}"));
        let target = RoutingTarget::new(&session, "chat.a.b", b"");
        assert_eq!(
            routing.pick(&members, "chat", &target).unwrap().id.as_str(),
            "chat-2"
        );
    }
}
