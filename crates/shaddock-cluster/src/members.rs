//! The list of servers.

use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{ServerId, ServerInfo};
use parking_lot::Mutex;

/// The shared list of servers. Cheap to clone; reading takes no lock.
#[derive(Clone, Debug)]
pub struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    now: ArcSwap<Snapshot>,
    /// One writer at a time.
    writer: Mutex<()>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Snapshot {
    by_id: HashMap<ServerId, Arc<ServerInfo>>,
    /// Each list is sorted by id, so that all servers see the same order.
    by_type: ByType,
    /// Servers that do not reply, listed or not.
    suspects: HashSet<ServerId>,
    /// The other servers of types that have a suspect.
    without_suspects: ByType,
}

type ByType = BTreeMap<Arc<str>, Arc<[Arc<ServerInfo>]>>;

impl Snapshot {
    fn new(
        by_id: HashMap<ServerId, Arc<ServerInfo>>,
        by_type: ByType,
        suspects: HashSet<ServerId>,
    ) -> Self {
        let mut without_suspects = ByType::new();
        if !suspects.is_empty() {
            for (server_type, servers) in &by_type {
                let (out, others): (Vec<_>, Vec<_>) = servers
                    .iter()
                    .cloned()
                    .partition(|server| suspects.contains(&server.id));
                if !out.is_empty() && !others.is_empty() {
                    without_suspects.insert(Arc::clone(server_type), others.into());
                }
            }
        }
        Self {
            by_id,
            by_type,
            suspects,
            without_suspects,
        }
    }
}

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

impl Members {
    /// An empty list.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            now: ArcSwap::default(),
            writer: Mutex::new(()),
            version: watch::Sender::new(0),
        }))
    }

    /// The servers of a type, sorted by id. The same `Arc` until a server of the type joins or leaves.
    pub fn servers_of(&self, server_type: &str) -> Arc<[Arc<ServerInfo>]> {
        self.0
            .now
            .load()
            .by_type
            .get(server_type)
            .cloned()
            .unwrap_or_else(|| Arc::from([]))
    }

    /// The servers of a type to which a message may be sent: as [`servers_of`](Self::servers_of), without suspects, unless all of them are
    /// suspects.
    pub fn choices_of(&self, server_type: &str) -> Arc<[Arc<ServerInfo>]> {
        let now = self.0.now.load();
        match now.without_suspects.get(server_type) {
            Some(others) => Arc::clone(others),
            None => now
                .by_type
                .get(server_type)
                .cloned()
                .unwrap_or_else(|| Arc::from([])),
        }
    }

    /// Whether this server suspects another one: it did not reply, and is probed until it does. Until then other servers of its type are
    /// selected, and pushes to it are sent without waiting.
    pub fn is_suspect(&self, id: &str) -> bool {
        self.0.now.load().suspects.contains(id)
    }

    /// The suspected servers, in no particular order.
    pub fn suspects(&self) -> Vec<ServerId> {
        self.0.now.load().suspects.iter().cloned().collect()
    }

    /// A server does not reply, or replies again.
    #[cfg_attr(
        not(feature = "nats"),
        allow(dead_code, reason = "servers of one process answer")
    )]
    pub(crate) fn suspect(&self, id: &ServerId, suspected: bool) {
        let _writer = self.0.writer.lock();
        let old = self.0.now.load();
        let mut suspects = old.suspects.clone();
        let changed = if suspected {
            suspects.insert(id.clone())
        } else {
            suspects.remove(id)
        };
        if changed {
            let new = Snapshot::new(old.by_id.clone(), old.by_type.clone(), suspects);
            self.0.now.store(Arc::new(new));
        }
    }

    /// One server.
    pub fn server(&self, id: &str) -> Option<Arc<ServerInfo>> {
        self.0.now.load().by_id.get(id).cloned()
    }

    /// Whether a server of this type is listed.
    pub fn has_type(&self, server_type: &str) -> bool {
        self.0.now.load().by_type.contains_key(server_type)
    }

    /// All types with a listed server, sorted.
    pub fn types(&self) -> Vec<Arc<str>> {
        self.0.now.load().by_type.keys().cloned().collect()
    }

    /// All servers, by type and id.
    pub fn all(&self) -> Vec<Arc<ServerInfo>> {
        self.0
            .now
            .load()
            .by_type
            .values()
            .flat_map(|list| list.iter().cloned())
            .collect()
    }

    /// All servers that hold clients.
    pub fn frontends(&self) -> Vec<Arc<ServerInfo>> {
        let mut all = self.all();
        all.retain(|server| server.frontend);
        all
    }

    /// A number that grows with each change; receivers can wait for the next.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Adds a server; returns false for a known id, and nothing changes (the data of servers never change).
    pub(crate) fn add(&self, info: Arc<ServerInfo>) -> bool {
        self.change(|by_id| {
            if by_id.contains_key(&info.id) {
                return false;
            }
            by_id.insert(info.id.clone(), info);
            true
        })
    }

    /// Removes a server.
    pub(crate) fn remove(&self, id: &str) -> Option<Arc<ServerInfo>> {
        let mut removed = None;
        self.change(|by_id| {
            removed = by_id.remove(id);
            removed.is_some()
        });
        removed
    }

    fn change(&self, edit: impl FnOnce(&mut HashMap<ServerId, Arc<ServerInfo>>) -> bool) -> bool {
        let _writer = self.0.writer.lock();
        let old = self.0.now.load();
        let mut by_id = old.by_id.clone();
        if !edit(&mut by_id) {
            return false;
        }
        let mut lists: BTreeMap<Arc<str>, Vec<Arc<ServerInfo>>> = BTreeMap::new();
        for info in by_id.values() {
            lists
                .entry(Arc::clone(&info.server_type))
                .or_default()
                .push(Arc::clone(info));
        }
        let by_type = lists
            .into_iter()
            .map(|(server_type, mut list)| {
                list.sort_by(|a, b| a.id.cmp(&b.id));
                let same = old
                    .by_type
                    .get(&server_type)
                    .filter(|before| ***before == *list)
                    .cloned();
                (server_type, same.unwrap_or_else(|| list.into()))
            })
            .collect();
        let new = Snapshot::new(by_id, by_type, old.suspects.clone());
        self.0.now.store(Arc::new(new));
        self.0.version.send_modify(|version| *version += 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, server_type: &str) -> Arc<ServerInfo> {
        Arc::new(ServerInfo::new(id, server_type, server_type == "connector").unwrap())
    }

    #[test]
    fn lists_are_sorted_and_stay_the_same_while_nothing_of_the_type_changes() {
        let members = Members::new();
        assert!(members.add(server("c2", "chat")) && members.add(server("c1", "chat")));
        let chat = members.servers_of("chat");
        assert_eq!(
            chat.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
            ["c1", "c2"]
        );
        assert!(members.add(server("k1", "connector")));
        assert!(Arc::ptr_eq(&chat, &members.servers_of("chat")));
        assert_eq!(members.frontends().len(), 1);
        assert!(members.remove("c1").is_some() && members.remove("c1").is_none());
        assert_eq!(members.servers_of("chat").len(), 1);
        members.remove("c2");
        assert!(!members.has_type("chat"));
    }

    #[test]
    fn suspects_are_avoided_while_there_are_others() {
        let members = Members::new();
        for id in ["c1", "c2"] {
            members.add(server(id, "chat"));
        }
        let id = |id| ServerId::new(id).unwrap();
        let choices = || -> Vec<String> {
            let choices = members.choices_of("chat");
            choices.iter().map(|s| s.id.to_string()).collect()
        };
        members.suspect(&id("c1"), true);
        assert_eq!(choices(), ["c2"]);
        assert_eq!(members.servers_of("chat").len(), 2, "both are listed");
        members.suspect(&id("c2"), true);
        assert_eq!(choices(), ["c1", "c2"], "there is no better choice");
        members.suspect(&id("c1"), false);
        assert_eq!(choices(), ["c1"]);
        members.add(server("c3", "chat"));
        assert_eq!(
            choices(),
            ["c1", "c3"],
            "a change of the list forgets no suspect"
        );
        assert!(members.is_suspect("c2") && !members.is_suspect("c1"));
        assert_eq!(members.suspects(), [id("c2")]);
    }

    #[test]
    fn a_known_id_is_not_replaced() {
        let members = Members::new();
        members.add(server("a", "chat"));
        let mut changes = members.changes();
        assert!(!members.add(server("a", "game")));
        assert!(!changes.has_changed().unwrap());
        members.remove("a");
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), 2);
    }
}
