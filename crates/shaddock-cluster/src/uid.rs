//! How the uid of a user is written where it becomes part of a name: NATS subjects and etcd keys.
//!
//! A uid is any text of 1 to 256 bytes. Messages carry it as it is; only names need care:
//!
//! | where | the uid is written |
//! | --- | --- |
//! | a subject, if Pitaya could use the uid too | as it is, in Pitaya's subject `pitaya/<type>/user/<uid>/push` |
//! | a subject, otherwise | with escapes, in a subject of our own, `shaddock.user/<type>/<escaped>/push` |
//! | an etcd key | as it is: a key is bytes, the uid is its last part, and a type has no `/` |
//!
//! So a uid that looks like an escaped one means nothing else: it stays in the other kind of subject. A Pitaya server cannot name users of
//! the second kind (NATS would refuse its subjects), so none is ever connected to one.

use std::fmt::Write as _;

/// The longest uid, in bytes.
pub(crate) const MAX_UID: usize = 256;

/// Whether a text may be a uid.
pub(crate) fn is_uid(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= MAX_UID
}

/// Whether a uid can be part of Pitaya's subjects as it is: NATS takes the subject, and it selects no other user.
pub(crate) fn is_plain(uid: &str) -> bool {
    is_uid(uid)
        && !uid.chars().any(|c| c == ' ' || c.is_control())
        && !uid.contains("..")
        && !has_wildcard(uid)
}

/// Only whole tokens of the subject `pitaya/<type>/user/<uid>/push` are wildcards, so the first and last of the uid are not.
fn has_wildcard(uid: &str) -> bool {
    let mut tokens = uid.split('.').skip(1).peekable();
    while let Some(token) = tokens.next() {
        if tokens.peek().is_some() && (token == "*" || token == ">") {
            return true;
        }
    }
    false
}

/// A subject of a user at frontends of a type; `what` is `push` or `kick`.
pub(crate) fn subject(frontend_type: &str, uid: &str, what: &str) -> String {
    if is_plain(uid) {
        return format!("pitaya/{frontend_type}/user/{uid}/{what}");
    }
    // A server type has no `/`, so this is no subject of a server (`shaddock.<type>.<id>.>`).
    let mut subject = format!("shaddock.user/{frontend_type}/");
    escape(uid, &mut subject);
    subject.push('/');
    subject.push_str(what);
    subject
}

/// Adds a text to a subject so that no character of it means anything to NATS. Two texts are never written alike.
pub(crate) fn escape(text: &str, subject: &mut String) {
    for &byte in text.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => subject.push(byte.into()),
            // Writing to a string cannot fail.
            _ => drop(write!(subject, "%{byte:02X}")),
        }
    }
}

/// The etcd key of a user below `prefix`.
pub(crate) fn key(prefix: &str, frontend_type: &str, uid: &str) -> String {
    format!("{prefix}bindings/{frontend_type}/{uid}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Reads a subject back, as `(type, uid, what)`.
    fn read(subject: &str) -> Option<(String, String, String)> {
        let (rest, escaped) = match subject.strip_prefix("pitaya/") {
            Some(rest) => (rest, false),
            None => (subject.strip_prefix("shaddock.user/")?, true),
        };
        let (server_type, rest) = rest.split_once('/')?;
        let (uid, what) = rest.rsplit_once('/')?;
        let uid = if escaped {
            let (mut bytes, mut rest) = (Vec::new(), uid.as_bytes());
            while let [first, tail @ ..] = rest {
                if *first == b'%' {
                    let text = std::str::from_utf8(tail.get(..2)?).ok()?;
                    bytes.push(u8::from_str_radix(text, 16).ok()?);
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            String::from_utf8(bytes).ok()?
        } else {
            uid.strip_prefix("user/")?.to_owned()
        };
        Some((server_type.to_owned(), uid, what.to_owned()))
    }

    /// A valid subject of NATS without wildcards.
    fn names_one_subject(subject: &str) -> bool {
        !subject
            .split('.')
            .any(|token| token.is_empty() || token == "*" || token == ">")
            && !subject.bytes().any(|b| b <= b' ' || b == 0x7f)
    }

    fn check(uid: &str, seen: &mut HashMap<String, String>) {
        for what in ["push", "kick"] {
            let subject = subject("connector", uid, what);
            assert!(names_one_subject(&subject), "{uid:?}: {subject}");
            assert!(subject.len() < 1024, "NATS takes 4096 bytes a line");
            let expected = ("connector".to_owned(), uid.to_owned(), what.to_owned());
            assert_eq!(read(&subject), Some(expected), "{subject}");
            if is_plain(uid) {
                assert_eq!(subject, format!("pitaya/connector/user/{uid}/{what}"));
            }
            let of = seen.entry(subject).or_insert_with(|| uid.to_owned());
            assert_eq!(of, uid, "two users have one subject");
        }
        assert_eq!(
            key("p/", "connector", uid).strip_prefix("p/bindings/connector/"),
            Some(uid)
        );
    }

    #[test]
    fn every_uid_has_subjects_of_its_own() {
        let mut seen = HashMap::new();
        let parts = [
            "", " ", ".", "*", ">", "/", "%", "%20", "a", "张", "\t", "\n", "\u{7f}", "\u{a0}",
            "\u{85}", "%2F", "push", "user/", "\0",
        ];
        for a in parts {
            for b in parts {
                for c in parts {
                    let uid = [a, b, c].concat();
                    if is_uid(&uid) {
                        check(&uid, &mut seen);
                    }
                }
            }
        }
        for uid in [
            "John Smith",
            "a.*.b",
            "shaddock.user/connector/a%20b/push",
            &" ".repeat(256),
            &"é".repeat(128),
        ] {
            check(uid, &mut seen);
        }
    }

    #[test]
    fn uids_of_pitaya_are_plain() {
        for plain in [
            "u42",
            "a.b@example.org",
            "*",
            "*.a",
            "a.>",
            "a*.b",
            "张三*room",
            ".",
            "a%20b",
        ] {
            assert!(is_plain(plain), "{plain:?}");
        }
        for other in ["a.*.b", "a.>.b", "a b", "a..b", "a\tb", "a\u{7f}"] {
            assert!(is_uid(other) && !is_plain(other), "{other:?}");
        }
        for none in ["", &"x".repeat(257)] {
            assert!(!is_uid(none) && !is_plain(none), "{none:?}");
        }
    }
}
