//! Subscriptions of servers to session events, as frontends see them.
//!
//! All servers with the same [`Interest`] share one subject, so an event is published once for each different interest that it matches, however many
//! servers have it, and not at all if it matches none. A server's interest is part of what it announces in the list; a frontend knows of it from
//! the moment when it has the server in its list.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_nats::Subject;

use super::subject;
use crate::{Interest, ServerInfo};

/// The interests of the other servers.
#[derive(Default)]
pub(super) struct Interests(ArcSwap<Vec<Group>>);

/// Servers with the same interest.
struct Group {
    interest: Interest,
    subject: Subject,
}

impl Interests {
    /// Reads the interests of the present servers, and again if another thread has changed the result meanwhile.
    pub(super) fn read(&self, own: &ServerInfo, servers: impl Fn() -> Vec<Arc<ServerInfo>>) {
        self.0.rcu(|_| {
            let servers = servers();
            let mut groups: BTreeMap<&str, Interest> = BTreeMap::new();
            for server in servers.iter().filter(|server| server.id != own.id) {
                if let Some((text, interest)) = server.interest() {
                    groups.insert(text, interest);
                }
            }
            let groups = groups.into_iter().map(|(text, interest)| Group {
                interest,
                subject: Subject::from(subject::events(text)),
            });
            groups.collect::<Vec<_>>()
        });
    }

    /// Where an event of a session is published.
    pub(super) fn subjects(&self, frontend_type: &str, uid: Option<&str>) -> Vec<Subject> {
        let groups = self.0.load();
        let asked = groups
            .iter()
            .filter(|group| group.interest.wants(frontend_type, uid));
        asked.map(|group| group.subject.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, interest: &Interest) -> Arc<ServerInfo> {
        let mut info = ServerInfo::new(id, "chat", false).unwrap();
        info.announce_interest(interest);
        Arc::new(info)
    }

    #[test]
    fn servers_with_one_interest_cost_one_message_and_no_interest_costs_none() {
        let own = server("front-1", &Interest::all());
        let interests = Interests::default();
        let subjects = |servers: &[&Arc<ServerInfo>], uid| {
            let servers: Vec<_> = servers.iter().copied().cloned().collect();
            interests.read(&own, || servers.clone());
            interests.subjects("connector", uid)
        };
        let chats: Vec<_> = (0..100)
            .map(|n| server(&format!("chat-{n}"), &Interest::all()))
            .collect();
        let chats: Vec<_> = chats.iter().collect();
        let (none, bots) = (
            server("game-1", &Interest::none()),
            server("bots-1", &Interest::of_users("bot-")),
        );
        assert!(subjects(&[&none, &bots, &own], Some("ann")).is_empty());
        assert_eq!(subjects(&chats, Some("ann")).len(), 1);
        let mut all = chats.clone();
        all.extend([&none, &bots]);
        assert_eq!(subjects(&all, Some("ann")).len(), 1);
        assert_eq!(subjects(&all, Some("bot-1")).len(), 2);
        assert!(subjects(&[&none], Some("bot-1")).is_empty());
    }
}
