//! Texts of the configuration that are not printed: not in errors, not in logs, not by `Debug`.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A password, a token or a key. Only [`expose`](Self::expose) shows it.
///
/// It serialises as it is, so that configurations can be compared and written: who prints a serialised one leaves it out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "(none)"
        } else {
            "(hidden)"
        })
    }
}

/// Where a server is: `host:port` or a URL, which may have a user and a password in it. Those are not printed and not serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// The text as it was given, with what is secret in it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for an empty secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part before the host (`nats://`), user and password, and host and port.
    fn split(&self) -> (&str, Option<&str>, &str) {
        let start = self.0.find("://").map_or(0, |scheme| scheme + 3);
        let (scheme, rest) = self.0.split_at(start);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        match rest[..end].rfind('@') {
            Some(at) => (scheme, Some(&rest[..at]), &rest[at + 1..]),
            // A secret with a slash in it belongs to no host either.
            None => match rest.rfind('@') {
                Some(at) => (scheme, Some(&rest[..at]), &rest[at + 1..]),
                None => (scheme, None, rest),
            },
        }
    }

    /// The address alone.
    pub(crate) fn without_login(&self) -> String {
        let (scheme, _, host) = self.split();
        format!("{scheme}{host}")
    }

    /// User and password; a text without a colon is a token, and has no second part. `%40` is `@`.
    pub(crate) fn login(&self) -> Option<(String, Option<Secret>)> {
        let (_, login, _) = self.split();
        let login = login?;
        Some(match login.split_once(':') {
            Some((user, password)) => (decoded(user), Some(decoded(password).into())),
            None => (decoded(login), None),
        })
    }
}

/// Replaces `%xx`; what is none stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let replaced = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        out.push(replaced.unwrap_or(*byte));
        at += if replaced.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl<T: Into<String>> From<T> for Address {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, login, host) = self.split();
        let hidden = if login.is_some() { "(hidden)@" } else { "" };
        write!(f, "{scheme}{hidden}{host}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Several addresses, for people.
#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "servers of one process have no address")
)]
pub(crate) fn list(addresses: &[Address]) -> String {
    let texts: Vec<_> = addresses.iter().map(Address::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_in_no_text() {
        for login in [
            "ann:s3cret",
            "s3cret",
            "a:s3cret@more",
            "a:s3cret/x",
            "a:s3%63ret",
            ":s3cret",
        ] {
            for (scheme, host) in [("nats://", "h:1"), ("", "h:1"), ("tls://", "[::1]:1/s3?a")] {
                let address = Address::from(format!("{scheme}{login}@{host}"));
                let texts = [
                    address.to_string(),
                    format!("{address:?}"),
                    serde_json::to_string(&address).unwrap(),
                    address.without_login(),
                    list(&[address.clone(), "b:2".into()]),
                ];
                for text in texts {
                    assert!(
                        !text.contains("s3cret") && !text.contains("s3%63ret"),
                        "{text}"
                    );
                    assert!(text.contains(host), "{text}");
                }
                assert!(address.login().is_some());
            }
        }
        assert!(!format!("{:?}", Secret::from("s3cret")).contains("s3cret"));
    }

    #[test]
    fn logins() {
        let login = |text: &str| {
            let login = Address::from(text).login();
            login.map(|(user, password)| (user, password.map(|p| p.expose().to_owned())))
        };
        assert_eq!(login("nats://h:4222"), None);
        assert_eq!(
            login("nats://a:b%40c@h:4222"),
            Some(("a".to_owned(), Some("b@c".to_owned())))
        );
        assert_eq!(login("nats://t%3Ak@h"), Some(("t:k".to_owned(), None)));
        assert_eq!(login("nats://100%@h"), Some(("100%".to_owned(), None)));
    }
}
