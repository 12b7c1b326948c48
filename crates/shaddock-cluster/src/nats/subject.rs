//! Names of subjects.

use crate::ServerInfo;

/// Where a server is called.
pub(crate) fn server(server_type: &str, id: &str) -> String {
    format!("pitaya/servers/{server_type}/{id}")
}

/// Where a user of a frontend type is pushed to.
pub(crate) fn push(frontend_type: &str, uid: &str) -> String {
    crate::uid::subject(frontend_type, uid, "push")
}

/// Where a user of a frontend type is kicked.
pub(crate) fn kick(frontend_type: &str, uid: &str) -> String {
    crate::uid::subject(frontend_type, uid, "kick")
}

/// Where binds of a frontend type are announced.
pub(crate) fn bindings(frontend_type: &str) -> String {
    format!("pitaya/{frontend_type}/bindings")
}

/// All messages that only shaddock servers send to one server: deliveries, session operations and answers to its calls. One
/// subscription, so that messages of one sender stay in order: a push before an answer, a kick after a push.
pub(crate) fn own_all(info: &ServerInfo) -> String {
    own(info, ">")
}

/// One message for many clients.
pub(crate) fn multi_push(info: &ServerInfo) -> String {
    own(info, MULTI_PUSH)
}

/// Session operations.
pub(crate) fn operation(info: &ServerInfo) -> String {
    own(info, OPERATION)
}

/// In front of the number of a call, for its answer. The token tells this life of a server from an earlier one with its id.
pub(crate) fn answers(info: &ServerInfo, token: &str) -> String {
    own(info, &format!("{ANSWER}.{token}."))
}

/// Notices that users joined or left audiences that a server watches.
pub(crate) fn member(info: &ServerInfo) -> String {
    own(info, MEMBER)
}

/// Pushes to a topic. Its name is data: no character of it means anything to NATS, and two names are two subjects.
pub(crate) fn topic(name: &str) -> String {
    // Three tokens; the subjects of a server have four or more.
    let mut subject = String::from("shaddock.topic.");
    crate::uid::escape(name, &mut subject);
    subject
}

fn own(info: &ServerInfo, what: &str) -> String {
    format!("shaddock.{}.{}.{what}", info.server_type, info.id)
}

/// The last part of subjects of [`own_all`].
pub(crate) const MULTI_PUSH: &str = "mpush";
pub(crate) const OPERATION: &str = "op";
pub(crate) const ANSWER: &str = "r";
pub(crate) const MEMBER: &str = "member";

/// Announcements of servers that leave, are gone, or revoke their promises.
pub(crate) const GOODBYES: &str = "shaddock.servers";

/// Events of sessions for all servers that announce this interest.
pub(crate) fn events(interest: &str) -> String {
    // FNV-1a: a name that every server makes of the same text.
    let hash = interest.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("shaddock.events.{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_subject_of_its_own_and_none_is_a_wildcard() {
        let names = [
            "lobby",
            "Lobby",
            "a.b",
            "a b",
            "*",
            ">",
            "a.>",
            "%2A",
            "%",
            "room:7",
            "room/7",
            "\u{5927}\u{5385}",
            "\r\n",
        ];
        let subjects: std::collections::HashSet<String> =
            names.iter().map(|name| topic(name)).collect();
        assert_eq!(subjects.len(), names.len());
        for subject in &subjects {
            assert_eq!(subject.split('.').count(), 3, "{subject}");
            assert!(!subject.contains(['*', '>', ' ', '\r', '\n']), "{subject}");
        }
        assert!(topic(&"\u{ff}".repeat(128)).len() < 1024);
    }
}
