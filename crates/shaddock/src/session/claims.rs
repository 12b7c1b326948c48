//! What clients said of themselves, kept with their sessions.

use serde::{Deserialize, Serialize};
use shaddock_cluster::{RawSid, SessionAnswer};
use shaddock_core::{ClientClaims, SessionService};
use shaddock_protocol::HandshakeRequest;

/// The operation that asks a frontend for them.
pub(super) const CLAIMS: &str = "shaddock.claims";

/// The longest text of each kind that is kept.
const LONGEST: usize = 64;

/// What is kept of a handshake, within `limit` bytes of user data (0: nothing at all). `None` if the client said nothing.
pub(crate) fn claims_of(said: &HandshakeRequest, limit: usize) -> Option<ClientClaims> {
    if limit == 0 {
        return None;
    }
    let text = |text: &Option<String>| {
        let text = text.as_deref()?;
        (text.len() <= LONGEST).then(|| Box::from(text))
    };
    let user = said.user_text();
    // Pomelo's JavaScript client sends an empty object if it is given nothing.
    let says_something = !matches!(user, "null" | "{}");
    let mut claims = ClientClaims::default();
    claims.kind = text(&said.client_type);
    claims.version = text(&said.version).or_else(|| text(&said.client_version));
    claims.platform = text(&said.platform);
    claims.library = text(&said.lib_version);
    claims.build = text(&said.client_build_number);
    claims.user = (says_something && user.len() <= limit).then(|| user.into());
    (claims != ClientClaims::default()).then_some(claims)
}

/// Which session.
#[derive(Serialize, Deserialize)]
pub(super) struct Which {
    pub(super) sid: RawSid,
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
    use bytes::Bytes;
    use shaddock_protocol::DialectChoice;

    use super::*;

    fn said(text: &str) -> HandshakeRequest {
        HandshakeRequest::parse(Bytes::from(text.to_owned()), DialectChoice::Auto).unwrap()
    }

    #[test]
    fn an_empty_object_has_no_claims() {
        let browser = r#"{"sys":{"type":"js-websocket","version":"0.0.1"},"user":{}}"#;
        let claims = claims_of(&said(browser), 1024).unwrap();
        assert_eq!(
            (claims.kind.as_deref(), &claims.user),
            (Some("js-websocket"), &None)
        );
        assert_eq!(claims_of(&said(browser), 0), None, "nothing is to be kept");
        assert_eq!(
            claims_of(&said(r#"{"sys":{"a":1}}"#), 1024),
            None,
            "nothing was said"
        );
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let long = "x".repeat(LONGEST + 1);
        let text =
            format!(r#"{{"sys":{{"type":"{long}","version":"1"}},"user":{{"a":"{long}"}}}}"#);
        let claims = claims_of(&said(&text), 64).unwrap();
        assert_eq!(
            (&claims.kind, claims.version.as_deref(), &claims.user),
            (&None, Some("1"), &None)
        );
        let claims = claims_of(&said(&text), 1024).unwrap();
        let user: serde_json::Value = claims.user_as().unwrap();
        assert_eq!(user["a"], long);
        let pitaya = r#"{"sys":{"platform":"ios","libVersion":"1.2","clientBuildNumber":"7","clientVersion":"3"}}"#;
        let claims = claims_of(&said(pitaya), 1024).unwrap();
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
