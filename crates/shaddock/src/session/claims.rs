//! What clients said of themselves, kept with their sessions.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shaddock_cluster::{RawSid, RemoteError, SessionAnswer, SessionOp};
use shaddock_core::{ClientClaims, SessionService};
use shaddock_protocol::HandshakeRequest;

use super::{SessionError, SessionView, view::raw};

/// The operation that asks a frontend for them.
pub(super) const CLAIMS: &str = "shaddock.claims";

/// The longest text of each kind that is kept.
const LONGEST: usize = 64;
/// How many different claims without user data a frontend remembers, so that all sessions of a kind of client share theirs.
const KINDS: usize = 64;

/// The claims that sessions of this frontend share.
#[derive(Default)]
pub(crate) struct KnownClaims(Mutex<Vec<Arc<ClientClaims>>>);

impl KnownClaims {
    /// What is kept of a handshake, within `limit` bytes of user data (0: nothing at all). `None` if the client said nothing.
    pub(crate) fn of(&self, said: &HandshakeRequest, limit: usize) -> Option<Arc<ClientClaims>> {
        if limit == 0 {
            return None;
        }
        let text = |text: &Option<String>| {
            let text = text.as_deref()?;
            (text.len() <= LONGEST).then(|| Box::from(text))
        };
        let user = said.user_text();
        let mut claims = ClientClaims::default();
        claims.kind = text(&said.client_type);
        claims.version = text(&said.version).or_else(|| text(&said.client_version));
        claims.platform = text(&said.platform);
        claims.library = text(&said.lib_version);
        claims.build = text(&said.client_build_number);
        claims.user = (user != "null" && user.len() <= limit).then(|| user.into());
        if claims.is_empty() {
            return None;
        }
        if claims.user.is_some() {
            return Some(Arc::new(claims));
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| ***known == claims) {
            return Some(Arc::clone(same));
        }
        let claims = Arc::new(claims);
        if known.len() < KINDS {
            known.push(Arc::clone(&claims));
        }
        Some(claims)
    }
}

/// Which session.
#[derive(Serialize, Deserialize)]
pub(super) struct Which {
    pub(super) sid: RawSid,
}

impl SessionView {
    /// What the client said of itself in its handshake: kind, version, platform and user data. `None` if it said nothing, or the session is gone.
    ///
    /// Up to [`AppConfig::handshake_bytes`](crate::app::AppConfig::handshake_bytes) of user data are kept. Nothing of it was checked, except by
    /// your own hooks.
    ///
    /// # Errors
    /// [`SessionError::Remote`] if the frontend cannot be asked, or is a Pitaya server.
    pub async fn claims(&self) -> Result<Option<Arc<ClientClaims>>, SessionError> {
        if let Some(session) = self.session() {
            return Ok(session.claims());
        }
        let which = Which {
            sid: raw(self.id()),
        };
        let answer = self.ask_custom(CLAIMS, &which).await?;
        serde_json::from_slice::<Option<ClientClaims>>(&answer)
            .map(|claims| claims.map(Arc::new))
            .map_err(|error| SessionError::Remote(RemoteError::new("PIT-500", error.to_string())))
    }

    /// Asks the frontend of a session on another server for something that only ours can do.
    pub(super) async fn ask_custom<T: Serialize>(
        &self,
        name: &'static str,
        argument: &T,
    ) -> Result<Bytes, SessionError> {
        let argument = serde_json::to_vec(argument).unwrap_or_default();
        let op = SessionOp::Custom {
            name: name.into(),
            argument: argument.into(),
        };
        match self.app().ask_frontend(self.holder()?, op).await? {
            SessionAnswer::Custom(answer) => Ok(answer),
            _ => Ok(Bytes::from_static(b"null")),
        }
    }
}

/// Answers a server that asks.
pub(super) fn serve_claims(service: &SessionService, which: &Which) -> SessionAnswer {
    let session = shaddock_core::Sid::new(which.sid.get()).and_then(|sid| service.get(sid));
    let claims = session.and_then(|session| session.claims());
    let answer = serde_json::to_vec(&claims.as_deref()).unwrap_or_default();
    SessionAnswer::Custom(answer.into())
}

#[cfg(test)]
mod tests {
    use shaddock_protocol::DialectChoice;

    use super::*;

    fn said(text: &str) -> HandshakeRequest {
        HandshakeRequest::parse(Bytes::from(text.to_owned()), DialectChoice::Auto).unwrap()
    }

    #[test]
    fn sessions_of_a_kind_share_what_they_said() {
        let known = KnownClaims::default();
        let browser = r#"{"sys":{"type":"js-websocket","version":"0.0.1"}}"#;
        let (one, other) = (
            known.of(&said(browser), 1024),
            known.of(&said(browser), 1024),
        );
        assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
        for n in 0..10 * KINDS {
            let text = format!(r#"{{"sys":{{"type":"{n}"}}}}"#);
            assert_eq!(
                known.of(&said(&text), 1024).unwrap().kind.as_deref(),
                Some(&*n.to_string())
            );
        }
        assert_eq!(known.0.lock().unwrap().len(), KINDS);
        assert_eq!(known.of(&said(browser), 0), None, "nothing is to be kept");
        assert_eq!(
            known.of(&said(r#"{"sys":{"a":1}}"#), 1024),
            None,
            "nothing was said"
        );
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let known = KnownClaims::default();
        let long = "x".repeat(LONGEST + 1);
        let text =
            format!(r#"{{"sys":{{"type":"{long}","version":"1"}},"user":{{"a":"{long}"}}}}"#);
        let claims = known.of(&said(&text), 64).unwrap();
        assert_eq!(
            (&claims.kind, claims.version.as_deref(), &claims.user),
            (&None, Some("1"), &None)
        );
        let claims = known.of(&said(&text), 1024).unwrap();
        let user: serde_json::Value = claims.user_as().unwrap();
        assert_eq!(user["a"], long);
        let pitaya = r#"{"sys":{"platform":"ios","libVersion":"1.2","clientBuildNumber":"7","clientVersion":"3"}}"#;
        let claims = known.of(&said(pitaya), 1024).unwrap();
        let seen = [
            &claims.platform,
            &claims.library,
            &claims.build,
            &claims.version,
        ];
        assert_eq!(
            seen.map(|text| text.as_deref().unwrap()),
            ["ios", "1.2", "7", "3"]
        );
    }
}
