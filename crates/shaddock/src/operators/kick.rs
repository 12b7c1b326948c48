//! Kicks by operators.

use shaddock_core::{CloseReason, Session, SessionService, Sid};

use super::KickRequest;
use super::{address::AddressFilter, filter::parse_sid};

/// Characters of a kick's reason.
const LONGEST_REASON: usize = 256;
/// The sessions to kick.
#[derive(Debug, Clone)]
pub(crate) enum KickTarget {
    User(String),
    Session(Sid),
    Address(AddressFilter),
}

/// A kick that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct Kick {
    pub(crate) target: KickTarget,
    pub(crate) reason: String,
}

impl Kick {
    /// The text of an error says what is wrong with the request.
    pub(crate) fn new(request: &KickRequest) -> Result<Self, String> {
        let reason = request.reason.as_deref().unwrap_or("kicked by an operator");
        if reason.chars().count() > LONGEST_REASON {
            return Err(format!(
                "`reason` may have at most {LONGEST_REASON} characters"
            ));
        }
        let target = match (&request.uid, &request.sid, &request.address) {
            (Some(uid), None, None) => KickTarget::User(uid.clone()),
            (None, Some(sid), None) => KickTarget::Session(parse_sid(sid)?),
            (None, None, Some(address)) => KickTarget::Address(AddressFilter::parse(address)?),
            _ => {
                return Err(
                    "name the sessions: exactly one of `uid`, `sid` and `address`".to_owned(),
                );
            }
        };
        Ok(Self {
            target,
            reason: reason.to_owned(),
        })
    }

    /// Kicks sessions of this service; the number of those that were open.
    pub(crate) fn apply(&self, service: &SessionService) -> u64 {
        let close = CloseReason::kicked(self.reason.as_str());
        let closed = match &self.target {
            KickTarget::User(uid) => service.close_by_uid(uid, &close),
            KickTarget::Session(sid) => {
                usize::from(service.kick_by_session_id(*sid, Some(self.reason.as_str())))
            }
            KickTarget::Address(filter) => {
                let mut found = Vec::new();
                service.visit_sessions(|session| {
                    if filter.matches(session) {
                        found.push(std::sync::Arc::clone(session));
                    }
                });
                let closes = |session: &std::sync::Arc<Session>| session.close(close.clone());
                found.iter().filter(|session| closes(session)).count()
            }
        };
        closed as u64
    }
}
