//! Filters that select sessions.

use std::{collections::BTreeMap, sync::Arc};

use shaddock_core::{Session, SessionService, Sid, TransportKind};

use super::{SessionInfo, SessionPage, SessionQuery};
use super::{address::AddressFilter, predicate::Predicate};

/// Rows of one page, if the caller does not say.
const PAGE: usize = 100;
/// The most that a page may have.
pub(crate) const LARGEST_PAGE: usize = 1000;

/// Rows of a page of which the caller wants so many.
pub(crate) fn limit_of(wanted: Option<usize>) -> usize {
    wanted.unwrap_or(PAGE).clamp(1, LARGEST_PAGE)
}

pub(crate) fn parse_sid(text: &str) -> Result<Sid, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not a session id"))
}

fn parse_transport(text: &str) -> Result<TransportKind, String> {
    use TransportKind::{Memory, Tcp, Tls, WebSocket, WebSocketTls};
    [Tcp, Tls, WebSocket, WebSocketTls, Memory]
        .into_iter()
        .find(|transport| transport.name() == text)
        .ok_or_else(|| format!("\"{text}\" is not a transport; write tcp, tls, ws or wss"))
}

/// Which sessions a query is about.
pub(crate) struct Filter {
    predicate: Option<Predicate>,
    uid: Option<String>,
    address: Option<AddressFilter>,
    frontend: Option<String>,
    transport: Option<TransportKind>,
    /// Kind, version and platform of the client.
    client: [Option<String>; 3],
    after: Option<Sid>,
    limit: usize,
}

impl Filter {
    /// The text of an error says what is wrong with the query.
    pub(crate) fn new(query: &SessionQuery) -> Result<Self, String> {
        let predicate = query.predicate.as_deref().map(Predicate::parse);
        Ok(Self {
            predicate: predicate
                .transpose()
                .map_err(|error| format!("`where`, {error}"))?,
            uid: query.uid.clone(),
            address: query
                .address
                .as_deref()
                .map(AddressFilter::parse)
                .transpose()?,
            frontend: query.frontend.clone(),
            transport: query
                .transport
                .as_deref()
                .map(parse_transport)
                .transpose()?,
            client: [&query.client, &query.version, &query.platform].map(Clone::clone),
            after: query.after.as_deref().map(parse_sid).transpose()?,
            limit: limit_of(query.limit),
        })
    }

    /// Sessions of a page.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    fn matches(&self, session: &Session) -> bool {
        self.frontend
            .as_ref()
            .is_none_or(|frontend| session.frontend_id().as_str() == frontend)
            && self
                .transport
                .is_none_or(|transport| session.client().transport == transport)
            && self
                .uid
                .as_ref()
                .is_none_or(|uid| session.uid().is_some_and(|own| own.as_str() == uid))
            && self.address.is_none_or(|address| address.matches(session))
            && self.is_client(session)
            && self
                .predicate
                .as_ref()
                .is_none_or(|predicate| predicate.matches(session))
    }

    fn is_client(&self, session: &Session) -> bool {
        if self.client.iter().all(Option::is_none) {
            return true;
        }
        let claims = session.claims().unwrap_or_default();
        let said = [&claims.kind, &claims.version, &claims.platform];
        let mut both = self.client.iter().zip(said);
        both.all(|(wanted, said)| wanted.is_none() || wanted.as_deref() == said.as_deref())
    }

    /// Looks at every session, unless a user is named: not for a thread that others wait for.
    pub(crate) fn page(&self, services: &[SessionService]) -> SessionPage {
        let mut total = 0;
        let mut found: BTreeMap<Sid, Arc<Session>> = BTreeMap::new();
        let mut look = |session: &Arc<Session>| {
            if !self.matches(session) {
                return;
            }
            total += 1;
            if self.after.is_none_or(|after| session.id() > after) {
                found.insert(session.id(), Arc::clone(session));
                // One more than the page shows whether there is a next one; the rest need not be kept.
                if found.len() > self.limit + 1 {
                    found.pop_last();
                }
            }
        };
        for service in services {
            match &self.uid {
                Some(uid) => service.get_by_uid(uid).iter().for_each(&mut look),
                None => service.visit_sessions(&mut look),
            }
        }
        let more = found.len() > self.limit;
        let sessions: Vec<_> = found
            .values()
            .take(self.limit)
            .map(SessionInfo::of)
            .collect();
        let last = sessions.last().map(|session| session.sid.clone());
        SessionPage {
            total,
            next: last.filter(|_| more),
            sessions,
        }
    }
}
