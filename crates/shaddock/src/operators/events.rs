//! Recent events of sessions, on all frontends.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shaddock_core::CloseReason;

use super::{
    address::AddressFilter,
    filter::{limit_of, parse_sid},
    types::Unanswered,
};
use crate::history::{Entry, History};

const EVENTS: [&str; 5] = ["bound", "unbound", "suspended", "resumed", "closed"];

/// Which events. All conditions that are given must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EventQuery {
    /// Of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Of sessions of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Of sessions from this address, address with port, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `bound`, `unbound`, `suspended`, `resumed` or `closed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Closes for this reason, such as `slow_client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many at most: 1 to 1000, by default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionRecord {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// `bound`, `unbound`, `suspended`, `resumed` or `closed`.
    pub event: String,
    /// The session.
    pub sid: String,
    /// The server that had it.
    pub frontend: String,
    /// Its user then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Where the client came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Milliseconds since its handshake.
    pub age_ms: u64,
    /// Why it was closed: a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why it was closed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Events, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventPage {
    /// The events.
    pub events: Vec<SessionRecord>,
    /// Since when none is missing: older ones were forgotten. Absent: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Frontends whose events are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// A query that makes sense.
pub(super) struct Wanted {
    pub(super) sid: Option<shaddock_core::Sid>,
    uid: Option<String>,
    address: Option<AddressFilter>,
    event: Option<String>,
    reason: Option<String>,
    pub(super) limit: usize,
}

impl Wanted {
    /// The text of an error says what is wrong with the query.
    pub(super) fn new(query: &EventQuery) -> Result<Self, String> {
        if let Some(event) = &query.event
            && !EVENTS.contains(&event.as_str())
        {
            let known = EVENTS.join(", ");
            return Err(format!(
                "\"{event}\" is not an event; the events are {known}"
            ));
        }
        if let Some(reason) = &query.reason
            && !CloseReason::NAMES.contains(&reason.as_str())
        {
            let known = CloseReason::NAMES.join(", ");
            return Err(format!(
                "\"{reason}\" is not a close reason; the reasons are {known}"
            ));
        }
        let address = query.address.as_deref().map(AddressFilter::parse);
        Ok(Self {
            sid: query.sid.as_deref().map(parse_sid).transpose()?,
            uid: query.uid.clone(),
            address: address.transpose()?,
            event: query.event.clone(),
            reason: query.reason.clone(),
            limit: limit_of(query.limit),
        })
    }

    fn is(&self, entry: &Entry) -> bool {
        let has_uid = |uid: &String| entry.uid.as_ref().is_some_and(|own| own.as_str() == uid);
        let is_from = |filter: &AddressFilter| entry.address.is_some_and(|own| filter.holds(own));
        let is_for = |reason: &String| {
            entry
                .reason
                .as_ref()
                .is_some_and(|own| own.name() == reason)
        };
        self.uid.as_ref().is_none_or(has_uid)
            && self.address.as_ref().is_none_or(is_from)
            && self
                .event
                .as_ref()
                .is_none_or(|event| entry.kind.name() == event)
            && self.reason.as_ref().is_none_or(is_for)
    }
}

impl SessionRecord {
    fn of(entry: &Entry, frontend: &str) -> Self {
        let reason = entry.reason.as_ref();
        Self {
            time_ms: entry.time_ms,
            event: entry.kind.name().to_owned(),
            sid: entry.sid.to_string(),
            frontend: frontend.to_owned(),
            uid: entry.uid.as_ref().map(|uid| uid.as_str().to_owned()),
            address: entry.address,
            age_ms: entry.age_ms,
            reason: reason.map(|reason| reason.name().to_owned()),
            code: reason.map(CloseReason::code),
            text: reason.map(ToString::to_string),
        }
    }
}

impl EventPage {
    /// Events of the sessions of one server. The text of an error says what is wrong with the query.
    pub(super) fn here(
        history: &History,
        server: &str,
        query: &EventQuery,
    ) -> Result<Self, String> {
        let wanted = Wanted::new(query)?;
        let (entries, since_ms) = history.find(wanted.sid, wanted.limit, |one| wanted.is(one));
        let record = |entry: &Entry| SessionRecord::of(entry, server);
        Ok(Self {
            events: entries.iter().map(record).collect(),
            since_ms,
            unanswered: Vec::new(),
        })
    }
}
