//! Which sessions an operator means, as a text: `transport = ws and client.version < 1.4 and not (settings.level >= 10)`.
//!
//! ```text
//! or      := and ("or" and)*
//! and     := not ("and" not)*
//! not     := "not" not | "(" or ")" | FIELD OPERATOR VALUE
//! ```
//!
//! What a session does not have equals `null` and nothing else, and is neither less nor more than anything. An error names the column.
//!
//! `token.rs` makes words of the text, `parse.rs` a tree of the words, `types.rs` is the tree, and `holds.rs` says whether it is true of a session.

mod holds;
mod parse;
mod token;
mod types;

use shaddock_core::Session;

pub(crate) use self::types::Predicate;
use self::{parse::Parser, token::tokens, types::PredicateError};

/// Bytes of a predicate.
const LONGEST: usize = 4096;

impl Predicate {
    /// # Errors
    /// What is wrong, and in which column.
    pub(crate) fn parse(text: &str) -> Result<Self, PredicateError> {
        if text.len() > LONGEST {
            return Err(PredicateError {
                column: 1,
                reason: format!("a predicate may have at most {LONGEST} bytes"),
            });
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            end: text.chars().count() + 1,
        };
        let node = parser.or(0)?;
        match parser.peek() {
            None => Ok(Self(node)),
            Some(token) => Err(token.wrong("`and` or `or` is expected here")),
        }
    }

    /// Whether it is true of the session.
    pub(crate) fn matches(&self, session: &Session) -> bool {
        self.0.holds(session)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{Value, json};

    use super::{holds::Facts, types::Field, *};

    struct Fake {
        uid: Option<&'static str>,
        version: Option<&'static str>,
        settings: Value,
    }

    impl Facts for Fake {
        fn text(&self, field: Field) -> Option<String> {
            match field {
                Field::Uid => self.uid.map(str::to_owned),
                Field::Sid => Some("7".to_owned()),
                Field::Frontend => Some("connector-1".to_owned()),
                Field::Transport => Some("ws".to_owned()),
                Field::Dialect => Some("pomelo".to_owned()),
                Field::State => Some("open".to_owned()),
                Field::Client => Some("js".to_owned()),
                _ => None,
            }
        }

        fn number(&self, field: Field) -> f64 {
            if field == Field::Age {
                3_600_000.0
            } else {
                10.0
            }
        }

        fn version(&self) -> Option<String> {
            self.version.map(str::to_owned)
        }

        fn address(&self) -> Option<SocketAddr> {
            "192.0.2.7:4711".parse().ok()
        }

        fn setting(&self, path: &[String]) -> Option<Value> {
            let pointer = format!("/{}", path.join("/"));
            self.settings.pointer(&pointer).cloned()
        }
    }

    fn ann() -> Fake {
        Fake {
            uid: Some("ann"),
            version: Some("1.10.2"),
            settings: json!({"level": 10, "room": "lobby", "vip": true, "gone": null, "big": 9_007_199_254_740_993_u64, "most": u64::MAX, "least": i64::MIN, "pos": {"x": 1.5}}),
        }
    }

    #[test]
    fn what_is_true_of_a_session() {
        for (text, is_true) in [
            ("uid = ann", true),
            ("uid == \"ann\"", true),
            ("uid != ann", false),
            ("uid = null", false),
            ("uid = \"null\"", false),
            ("uid != null", true),
            ("transport = ws and frontend = connector-1", true),
            ("transport = tcp or transport = ws", true),
            ("transport = tcp or transport = ws and uid = bob", false),
            ("(transport = tcp or transport = ws) and uid = ann", true),
            ("NOT uid = bob AND NOT not uid = ann", true),
            ("client.version < 1.4", false),
            ("client.version >= 1.4 and client.version < 1.10.3", true),
            ("client.version = 1.10.2.0", true),
            ("client = js and client.type = js", true),
            ("client.platform = null", true),
            (
                "age > 59m and age <= 1h and age < 2d and age != 3599999ms",
                true,
            ),
            ("age > 1h", false),
            ("address = 192.0.2.0/24 and address = 192.0.2.7", true),
            ("address = 192.0.2.7:4712", false),
            ("address != 10.0.0.0/8", true),
            ("queued >= 10 and queued < 11", true),
            ("settings.level >= 10", true),
            ("settings.level = 10.0", true),
            ("settings.level > 10", false),
            ("settings.level < 10.5 and settings.level > 9.5", true),
            ("settings.big = 9007199254740993", true),
            ("settings.big = 9007199254740992", false),
            (
                "settings.big > 9007199254740992 and settings.big < 9007199254740994",
                true,
            ),
            ("settings.most > 18446744073709551614", true),
            ("settings.most > -1 and settings.most > settings", false),
            ("settings.least < -9223372036854775807", true),
            ("settings.least < 18446744073709551615", true),
            ("client.version = null", false),
            ("client.version != null", true),
            ("client.version = \"null\"", false),
            ("settings.level = \"10\"", false),
            ("settings.level != \"10\"", true),
            ("settings.level < abc", false),
            ("settings.room = lobby and settings.room > \"l\"", true),
            ("settings.vip = true and settings.vip != false", true),
            ("settings.pos.x < 2", true),
            ("settings.pos.y = null and settings.gone = null", true),
            ("settings.pos.y < 2 or settings.pos.y >= 2", false),
            ("settings.pos.y != 2", true),
            ("sid = 7", true),
            ("state = open and dialect = pomelo", true),
        ] {
            let parsed = Predicate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.0.holds(&ann()), is_true, "{text}");
        }
        let nobody = Fake {
            uid: None,
            version: None,
            settings: json!({}),
        };
        for (text, is_true) in [
            ("uid = null", true),
            ("uid != ann", true),
            ("client.version < 99", false),
            ("client.version != 1", true),
            ("client.version = null", true),
            ("client.version != null", false),
            ("client.version = \"null\"", false),
            ("not client.version = null", false),
        ] {
            assert_eq!(
                Predicate::parse(text).unwrap().0.holds(&nobody),
                is_true,
                "{text}"
            );
        }
    }

    /// Each mistake with the column that an operator has to look at.
    #[test]
    fn mistakes_name_their_column() {
        let deep = format!("{}uid = a", "(".repeat(40));
        for (text, column, part) in [
            ("", 1, "a field"),
            ("   ", 4, "a field"),
            (
                "name = ann",
                1,
                "\"name\" is not a field; the fields are uid",
            ),
            ("uid ann", 5, "an operator"),
            ("uid =", 6, "a value"),
            ("uid = ann bob", 11, "`and` or `or`"),
            ("uid = ann and", 14, "a field"),
            ("uid = ann or or", 14, "\"or\" is not a field"),
            ("(uid = ann", 11, "`)`"),
            ("(uid = ann]", 12, "`)`"),
            ("uid = ann)", 10, "`and` or `or`"),
            ("uid = 'ann", 7, "quote is not closed"),
            ("uid < ann", 5, "`uid` is not ordered"),
            ("client.version < null", 16, "`null` is not ordered"),
            (
                "uid = a and client.version >= null",
                28,
                "`null` is not ordered",
            ),
            ("settings.a > null", 12, "`null` is not ordered"),
            ("client.version < abc", 18, "is not a version; write 1.4"),
            ("client.version >= \"\"", 19, "is not a version; write 1.4"),
            ("房 = 1", 1, "is not a field"),
            ("uid = \"房\" and age > x", 21, "not a time"),
            ("age > 1y", 7, "write 90s"),
            ("age > -1s", 7, "write 90s"),
            ("age > NaNs", 7, "write 90s"),
            ("queued > inf", 10, "not a number"),
            ("transport = udp", 13, "none of tcp, tls"),
            ("sid = abc", 7, "not a session id"),
            ("address = here", 11, "is not an address"),
            ("address < 10.0.0.1", 9, "not ordered"),
            ("settings. = 1", 1, "is not a field"),
            ("settings.vip > true", 14, "not ordered"),
            ("uid = ann; drop", 10, "is not allowed here"),
            ("uid = = ann", 7, "a value"),
            ("and", 1, "not a field"),
            ("not", 4, "a field"),
            (&deep, 34, "nested deeper"),
            (&"x".repeat(5000), 1, "at most"),
        ] {
            let error = Predicate::parse(text).unwrap_err();
            assert_eq!((error.column, text), (column, text), "{error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    /// Whatever is written, it is understood or refused.
    #[test]
    fn anything_may_be_written() {
        let pieces = [
            "uid",
            "=",
            "and",
            "or",
            "not",
            "(",
            ")",
            "\"",
            "'",
            "\\",
            "<",
            "!",
            "age",
            "1h",
            "settings.a",
            "房",
            " ",
            "\0",
        ];
        let mut random = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text += pieces[(random >> 33) as usize % pieces.len()];
            }
            if let Err(error) = Predicate::parse(&text) {
                assert!(
                    (1..=text.chars().count() + 1).contains(&error.column),
                    "{text}"
                );
            }
        }
    }
}
