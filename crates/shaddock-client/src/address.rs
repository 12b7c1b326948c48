//! Server addresses: `tcp://`, `tls://`, `ws://` or `wss://`.

use tokio_tungstenite::tungstenite::http::Uri;

use crate::AddressError;

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) websocket: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The URI for the WebSocket request: always with scheme, host and path.
    pub(crate) uri: Uri,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::Syntax)?;
        let (tls, websocket, default) = match uri.scheme_str() {
            Some("tcp") => (false, false, None),
            Some("tls") => (true, false, None),
            Some("ws") => (false, true, Some(80)),
            Some("wss") => (true, true, Some(443)),
            Some(_) => return Err(AddressError::Scheme),
            None => return Err(AddressError::Syntax),
        };
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(AddressError::Syntax);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(AddressError::Syntax);
        }
        // An invalid port must not be treated as an absent one. A colon before a bracket belongs to an IPv6 address.
        let port = match authority.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                Some(port.parse().map_err(|_| AddressError::Port)?)
            }
            _ => None,
        };
        if !websocket && !matches!(uri.path(), "" | "/") {
            return Err(AddressError::Path);
        }
        Ok(Self {
            tls,
            websocket,
            host: host.to_owned(),
            port: port.or(default).ok_or(AddressError::Port)?,
            uri,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (bool, bool, String, u16) {
        let address = Address::parse(text).unwrap();
        (address.tls, address.websocket, address.host, address.port)
    }

    #[test]
    fn the_four_schemes() {
        let host = |host: &str| host.to_owned();
        assert_eq!(
            parsed("tcp://127.0.0.1:3010"),
            (false, false, host("127.0.0.1"), 3010)
        );
        assert_eq!(
            parsed("tls://game.example:3010/"),
            (true, false, host("game.example"), 3010)
        );
        assert_eq!(
            parsed("ws://[::1]:3050/a?b=c"),
            (false, true, host("::1"), 3050)
        );
        assert_eq!(parsed("ws://[::1]"), (false, true, host("::1"), 80));
        assert_eq!(
            parsed("wss://game.example"),
            (true, true, host("game.example"), 443)
        );
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("", AddressError::Syntax),
            ("127.0.0.1:3010", AddressError::Syntax),
            ("/path", AddressError::Syntax),
            ("tcp://:3010", AddressError::Syntax),
            ("tcp://host:99999", AddressError::Port),
            ("ws://host:99999", AddressError::Port),
            ("ws://host:", AddressError::Port),
            ("ws://user:word@host", AddressError::Syntax),
            ("http://host:80", AddressError::Scheme),
            ("tcp://host", AddressError::Port),
            ("tcp://host:1/path", AddressError::Path),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }
}
