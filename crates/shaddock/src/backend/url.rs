//! The URL of a service.

use std::{fmt, str::FromStr};

use hyper::http::{HeaderValue, Uri};

use super::BackendError;

/// The URL of a backend: `http://host:port/path`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl {
    pub(super) is_tls: bool,
    /// The host for the connection.
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of the `Host` header.
    pub(super) authority: HeaderValue,
    /// The path, without a trailing slash.
    pub(super) path: String,
}

impl BackendUrl {
    #[cfg(feature = "otlp")]
    pub(crate) const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The path, without a trailing slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    #[cfg(feature = "otlp")]
    pub(crate) const fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(super) const fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// The scheme, host and port.
    pub(crate) fn root(&self) -> String {
        let authority = self.authority.to_str().unwrap_or_default();
        format!("{}://{authority}", self.scheme())
    }
}

impl FromStr for BackendUrl {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        // The text before an `@` may be a password, and the text after a `?` a token.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        let wrong = |reason| BackendError::Url {
            url: shown.to_owned(),
            reason,
        };
        if text.contains('@') {
            return Err(wrong(
                "contains a user, which is not sent; use `secret`, so that the service can check signatures",
            ));
        }
        if !text.contains("://") {
            return Err(wrong(
                "has no scheme; write it as \"http://127.0.0.1:8000/shaddock\"",
            ));
        }
        let no_url = "is not a URL; write it as \"http://127.0.0.1:8000/shaddock\"";
        let uri: Uri = text.parse().map_err(|_| wrong(no_url))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => {
                return Err(wrong(
                    "has an unknown scheme; write \"http://\" or \"https://\"",
                ));
            }
        };
        if uri.query().is_some() || text.contains('#') {
            return Err(wrong(
                "contains `?` or `#`; remove that part, because the route is appended to the path",
            ));
        }
        let authority = uri.authority().ok_or_else(|| wrong(no_url))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        // The host is followed by nothing, or by a colon and a port.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") if is_tls => 443,
            Some("") => 80,
            Some(port) => {
                let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
                port.ok_or_else(|| wrong(no_url))?
            }
            None => return Err(wrong(no_url)),
        };
        if port == 0 {
            return Err(wrong("has port 0, where nothing listens"));
        }
        if host.is_empty() {
            return Err(wrong(no_url));
        }
        Ok(Self {
            is_tls,
            host,
            port,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong(no_url))?,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.root(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown, host, port) in [
            ("http://a", "http://a", "a", 80),
            ("http://a/", "http://a", "a", 80),
            (
                "http://127.0.0.1:8000/x/",
                "http://127.0.0.1:8000/x",
                "127.0.0.1",
                8000,
            ),
            ("http://[::1]:81/x/y", "http://[::1]:81/x/y", "::1", 81),
            ("https://a/x", "https://a/x", "a", 443),
            ("https://a:8443", "https://a:8443", "a", 8443),
        ] {
            let url: BackendUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.host.as_str(), url.port),
                (shown, host, port)
            );
        }
        for (text, part) in [
            ("127.0.0.1:8000", "no scheme"),
            ("", "no scheme"),
            ("ftp://a", "unknown scheme"),
            ("http://", "is not a URL"),
            ("http:///x", "is not a URL"),
            ("http://a:", "is not a URL"),
            ("http://a:0", "port 0"),
            ("http://a:99999", "is not a URL"),
            ("http://a b", "is not a URL"),
            ("http://a/?x=s3cret", "`?`"),
            ("http://a/#s3cret", "`#`"),
            ("http://user:s3cret@a/x", "`secret`"),
            ("http://s3cret@a/x@b?s3cret", "`secret`"),
        ] {
            let error = text.parse::<BackendUrl>().unwrap_err().to_string();
            assert!(
                error.contains(part) && !error.contains("s3cret"),
                "{text}: {error}"
            );
        }
    }
}
