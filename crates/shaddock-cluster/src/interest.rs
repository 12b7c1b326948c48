//! Subscriptions of servers to session events.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::quiet::quiet;
use crate::{ServerInfo, SessionEvent};

/// Key of [`ServerInfo::metadata`] under which a server announces its subscription: a JSON array.
const METADATA: &str = "shaddock.events";

/// The session events that a server subscribes to ([`JoinOptions::session_events`](crate::JoinOptions)): by the type of the frontend, by
/// uid prefix, by both, or all of them. The default is none.
///
/// A server announces its subscription when it joins. Frontends send an event only to servers that subscribed to it; without subscribers no
/// event is sent.
///
/// ```
/// use shaddock_cluster::Interest;
///
/// let interest = Interest::of_type("connector").or(Interest::of_users("bot-"));
/// assert!(interest.wants("connector", Some("ann")) && interest.wants("gate", Some("bot-7")));
/// assert!(!interest.wants("gate", Some("ann")) && !interest.wants("gate", None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest(BTreeSet<Filter>);

/// One condition. An absent field matches everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Filter {
    /// The type of the frontend.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    frontend_type: Option<Box<str>>,
    /// The prefix of the uid.
    #[serde(rename = "uid", default, skip_serializing_if = "Option::is_none")]
    prefix: Option<Box<str>>,
}

impl Filter {
    fn wants(&self, frontend_type: &str, uid: Option<&str>) -> bool {
        let of_type = |wanted: &str| wanted == frontend_type;
        let of_user = |prefix: &str| uid.is_some_and(|uid| uid.starts_with(prefix));
        self.frontend_type.as_deref().is_none_or(of_type)
            && self.prefix.as_deref().is_none_or(of_user)
    }
}

impl Interest {
    /// No events.
    pub fn none() -> Self {
        Self::default()
    }

    /// Events of all sessions, including those without a user.
    pub fn all() -> Self {
        Self::one(None, None)
    }

    /// Events of all sessions of frontends of a type.
    pub fn of_type(frontend_type: &str) -> Self {
        Self::one(Some(frontend_type.into()), None)
    }

    /// Events of sessions of users with this uid prefix.
    pub fn of_users(prefix: &str) -> Self {
        Self::one(None, Some(prefix.into()))
    }

    /// Events of sessions of users with this uid prefix, on frontends of a type.
    pub fn of_users_at(frontend_type: &str, prefix: &str) -> Self {
        Self::one(Some(frontend_type.into()), Some(prefix.into()))
    }

    fn one(frontend_type: Option<Box<str>>, prefix: Option<Box<str>>) -> Self {
        let filter = Filter {
            frontend_type,
            prefix,
        };
        Self(BTreeSet::from([filter]))
    }

    /// The union of both subscriptions.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether there is no subscription.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether events of a session match; `uid` is its user, if it has one.
    pub fn wants(&self, frontend_type: &str, uid: Option<&str>) -> bool {
        let mut filters = self.0.iter();
        filters.any(|filter| filter.wants(frontend_type, uid))
    }

    /// Whether an event of a frontend of this type matches. The loss of a frontend matches all subscriptions to any of its sessions.
    pub fn wants_event(&self, frontend_type: &str, event: &SessionEvent) -> bool {
        if matches!(event, SessionEvent::FrontendLost(_)) {
            let of_type = |wanted: &str| wanted == frontend_type;
            let mut filters = self.0.iter();
            return filters.any(|filter| filter.frontend_type.as_deref().is_none_or(of_type));
        }
        self.wants(frontend_type, event.user())
    }
}

impl SessionEvent {
    /// The user of the event, if there is one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Bound(session)
            | Self::Suspended(session)
            | Self::Resumed(session)
            | Self::Closed { session, .. } => session.uid.as_deref(),
            Self::Unbound { uid, .. } => Some(uid),
            Self::FrontendLost(_) => None,
        }
    }
}

#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "servers of one process know each other's options")
)]
impl ServerInfo {
    /// Announces the subscription of the server. Call it before it joins.
    pub(crate) fn announce_interest(&mut self, interest: &Interest) {
        if interest.is_none() {
            self.metadata.remove(METADATA);
            return;
        }
        // Texts always have a JSON form.
        let text = serde_json::to_string(&interest.0).unwrap_or_default();
        self.metadata.insert(METADATA.to_owned(), text);
    }

    /// The subscription of the server, and its text: the same for equal subscriptions. `None` for servers without one, and if the text is
    /// invalid.
    pub(crate) fn interest(&self) -> Option<(&str, Interest)> {
        let text = self.metadata.get(METADATA)?.as_str();
        match serde_json::from_str(text) {
            Ok(filters) => Some((text, Interest(filters))).filter(|(_, asks)| !asks.is_none()),
            Err(error) => {
                quiet!(warn, "a server's subscription to session events is malformed; it receives none", server = %self.id, %error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ForwardedSession;

    /// Every form of interest against every kind of session.
    #[test]
    fn every_condition_that_is_named_must_hold() {
        let sessions = [
            ("connector", None),
            ("connector", Some("ann")),
            ("connector", Some("bot-1")),
            ("gate", None),
            ("gate", Some("ann")),
            ("gate", Some("bot-1")),
        ];
        let wanted = |interest: &Interest| {
            let wants = sessions.map(|(frontend_type, uid)| interest.wants(frontend_type, uid));
            wants.map(u8::from)
        };
        let of_type = Interest::of_type("connector");
        let bots = Interest::of_users("bot-");
        for (interest, expected) in [
            (Interest::none(), [0, 0, 0, 0, 0, 0]),
            (Interest::all(), [1, 1, 1, 1, 1, 1]),
            (Interest::of_users(""), [0, 1, 1, 0, 1, 1]),
            (of_type.clone(), [1, 1, 1, 0, 0, 0]),
            (bots.clone(), [0, 0, 1, 0, 0, 1]),
            (Interest::of_users_at("gate", "bot-"), [0, 0, 0, 0, 0, 1]),
            (of_type.or(bots), [1, 1, 1, 0, 0, 1]),
        ] {
            assert_eq!(wanted(&interest), expected, "{interest:?}");
            let mut info = ServerInfo::new("chat-1", "chat", false).unwrap();
            info.announce_interest(&interest);
            match info.interest() {
                Some((_, read)) => assert_eq!(read, interest),
                None => assert!(interest.is_none()),
            }
        }
    }

    #[test]
    fn the_loss_of_a_frontend_reaches_all_subscribers_of_its_type() {
        let info = ServerInfo::new("connector-1", "connector", true).unwrap();
        let lost = SessionEvent::FrontendLost(info.into());
        assert!(Interest::of_users("bot-").wants_event("connector", &lost));
        assert!(Interest::of_type("connector").wants_event("connector", &lost));
        assert!(!Interest::of_type("gate").wants_event("connector", &lost));
        assert!(!Interest::none().wants_event("connector", &lost));
        // A session that is unbound has no user any more; the event is about the one that it had.
        let unbound = SessionEvent::Unbound {
            session: ForwardedSession::default(),
            uid: "bot-1".into(),
        };
        assert!(Interest::of_users("bot-").wants_event("connector", &unbound));
    }

    #[test]
    fn an_interest_that_cannot_be_read_is_none() {
        for text in ["", "{", "[1]", "{}", "\"all\"", "[]"] {
            let mut info = ServerInfo::new("chat-1", "chat", false).unwrap();
            info.metadata.insert(METADATA.to_owned(), text.to_owned());
            assert_eq!(info.interest(), None, "{text:?}");
        }
    }
}
