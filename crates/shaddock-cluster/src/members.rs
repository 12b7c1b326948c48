//! The servers that are there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{ServerId, ServerInfo};

/// How long a server that was found dead is not chosen, if it is still listed. Then it may get a message again, which shows
/// whether it lives.
const AVOIDED: Duration = Duration::from_secs(1);

/// The list of servers, shared by all who look at it. Cheap to clone; reading takes no lock.
#[derive(Clone, Debug)]
pub struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    now: ArcSwap<Snapshot>,
    /// Servers that are listed although nobody listened there, and until when they are avoided. Empty but for the life of a
    /// lease after a crash.
    silent: ArcSwap<HashMap<ServerId, Instant>>,
    /// One writer at a time.
    writer: Mutex<()>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Snapshot {
    by_id: HashMap<ServerId, Arc<ServerInfo>>,
    /// Each list is sorted by id, so that all servers see the same order.
    by_type: BTreeMap<Arc<str>, Arc<[Arc<ServerInfo>]>>,
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
            silent: ArcSwap::default(),
            writer: Mutex::new(()),
            version: watch::Sender::new(0),
        }))
    }

    /// The servers of a type, sorted by id. The same `Arc` until a server of the type comes or leaves.
    pub fn servers_of(&self, server_type: &str) -> Arc<[Arc<ServerInfo>]> {
        self.0
            .now
            .load()
            .by_type
            .get(server_type)
            .cloned()
            .unwrap_or_else(|| Arc::from([]))
    }

    /// The servers of a type that a message may be sent to: as [`servers_of`](Self::servers_of), without those that were found
    /// dead within the last second. All of them if that is all of them.
    pub fn choices_of(&self, server_type: &str) -> Arc<[Arc<ServerInfo>]> {
        let servers = self.servers_of(server_type);
        let silent = self.0.silent.load();
        if silent.is_empty() {
            return servers;
        }
        let now = Instant::now();
        let avoided = |server: &ServerInfo| silent.get(&server.id).is_some_and(|end| *end > now);
        let choices: Vec<_> = servers
            .iter()
            .filter(|server| !avoided(server))
            .cloned()
            .collect();
        if choices.is_empty() || choices.len() == servers.len() {
            return servers;
        }
        choices.into()
    }

    /// Nobody listened at this server: while others of its type are there, they are chosen.
    #[cfg_attr(
        not(feature = "nats"),
        allow(dead_code, reason = "servers of one process do not die")
    )]
    pub(crate) fn avoid(&self, id: &ServerId) {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.now.load().by_id.contains_key(id) {
            return;
        }
        let now = Instant::now();
        let mut silent = HashMap::clone(&self.0.silent.load());
        silent.retain(|_, end| *end > now);
        silent.insert(id.clone(), now + AVOIDED);
        self.0.silent.store(Arc::new(silent));
    }

    /// One server.
    pub fn server(&self, id: &str) -> Option<Arc<ServerInfo>> {
        self.0.now.load().by_id.get(id).cloned()
    }

    /// Whether a server of this type is there.
    pub fn has_type(&self, server_type: &str) -> bool {
        self.0.now.load().by_type.contains_key(server_type)
    }

    /// All types of which a server is there, sorted.
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

    /// A number that grows with each change; a receiver can wait for the next.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Adds a server; false if the id is known, then nothing changes (values of servers never change).
    pub(crate) fn add(&self, info: Arc<ServerInfo>) -> bool {
        self.change(|by_id| {
            if by_id.contains_key(&info.id) {
                return false;
            }
            by_id.insert(info.id.clone(), info);
            true
        })
    }

    /// Takes a server out.
    pub(crate) fn remove(&self, id: &str) -> Option<Arc<ServerInfo>> {
        let mut removed = None;
        self.change(|by_id| {
            removed = by_id.remove(id);
            removed.is_some()
        });
        removed
    }

    fn change(&self, edit: impl FnOnce(&mut HashMap<ServerId, Arc<ServerInfo>>) -> bool) -> bool {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
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
        // A new life of a server has nothing to do with its last one.
        if !self.0.silent.load().is_empty() {
            let mut silent = HashMap::clone(&self.0.silent.load());
            silent.retain(|id, _| by_id.contains_key(id));
            self.0.silent.store(Arc::new(silent));
        }
        self.0.now.store(Arc::new(Snapshot { by_id, by_type }));
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
    fn the_dead_are_avoided_while_others_live() {
        let members = Members::new();
        for id in ["c1", "c2"] {
            members.add(server(id, "chat"));
        }
        let choices = || -> Vec<String> {
            let choices = members.choices_of("chat");
            choices.iter().map(|s| s.id.to_string()).collect()
        };
        members.avoid(&ServerId::new("c1").unwrap());
        members.avoid(&ServerId::new("nobody").unwrap());
        assert_eq!(choices(), ["c2"]);
        assert_eq!(members.servers_of("chat").len(), 2, "both are listed");
        members.avoid(&ServerId::new("c2").unwrap());
        assert_eq!(choices(), ["c1", "c2"], "there is no better choice");
        // One comes back.
        members.remove("c1");
        members.add(server("c1", "chat"));
        assert_eq!(choices(), ["c1"]);
        assert_eq!(members.0.silent.load().len(), 1);
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
