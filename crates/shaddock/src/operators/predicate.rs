//! Which sessions an operator means, as a text: `transport = ws and client.version < 1.4 and not (settings.level >= 10)`.
//!
//! ```text
//! or      := and ("or" and)*
//! and     := not ("and" not)*
//! not     := "not" not | "(" or ")" | FIELD OPERATOR VALUE
//! ```
//!
//! What a session does not have equals `null` and nothing else, and is neither less nor more than anything. An error names the column.

use std::{cmp::Ordering, fmt, net::SocketAddr};

use serde_json::Value;
use shaddock_core::Session;

use super::filter::AddressFilter;

/// Bytes of a predicate.
const LONGEST: usize = 4096;
/// How deep parentheses and `not` may be nested.
const DEEPEST: usize = 32;

const FIELDS: &str = "uid, sid, frontend, address, transport, dialect, state, age, queued, client, client.version, client.platform, settings.<key>";

/// What is wrong with a predicate, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub(crate) struct PredicateError {
    /// Of the first character, from 1.
    pub(crate) column: usize,
    reason: String,
}

/// A predicate that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Predicate(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    /// The field is one of these.
    Text(Field, Test, Option<String>),
    Number(Field, Test, f64),
    Version(Test, Option<String>),
    Address(bool, Net),
    Setting(Vec<String>, Test, Value),
}

/// A network, comparable by how it was written.
#[derive(Debug, Clone)]
struct Net {
    text: String,
    filter: AddressFilter,
}

impl PartialEq for Net {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Uid,
    Sid,
    Frontend,
    Transport,
    Dialect,
    State,
    Client,
    Platform,
    /// In milliseconds.
    Age,
    /// Bytes that wait for the client.
    Queued,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Test {
    const fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// With what is there and can be compared.
    const fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// With what cannot be compared: it is not equal, and that is all that can be said.
    fn of(self, order: Option<Ordering>) -> bool {
        order.map_or(self == Self::NotEqual, |order| self.holds(order))
    }
}

/// What a predicate may ask of a session.
trait Facts {
    fn text(&self, field: Field) -> Option<String>;
    fn number(&self, field: Field) -> f64;
    fn version(&self) -> Option<String>;
    fn address(&self) -> Option<SocketAddr>;
    fn setting(&self, path: &[String]) -> Option<Value>;
}

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

impl Node {
    fn holds(&self, of: &(impl Facts + ?Sized)) -> bool {
        match self {
            Self::Or(nodes) => nodes.iter().any(|node| node.holds(of)),
            Self::And(nodes) => nodes.iter().all(|node| node.holds(of)),
            Self::Not(node) => !node.holds(of),
            Self::Text(field, test, wanted) => match (of.text(*field), wanted) {
                (None, None) => *test == Test::Equal,
                (Some(have), Some(wanted)) => test.holds(have.as_str().cmp(wanted)),
                _ => *test == Test::NotEqual,
            },
            Self::Number(field, test, wanted) => test.of(of.number(*field).partial_cmp(wanted)),
            Self::Version(test, wanted) => match (of.version(), wanted) {
                (None, None) => *test == Test::Equal,
                (Some(have), Some(wanted)) => test.holds(compare_versions(&have, wanted)),
                _ => *test == Test::NotEqual,
            },
            Self::Address(is_in, net) => {
                of.address()
                    .is_some_and(|address| net.filter.holds(address))
                    == *is_in
            }
            Self::Setting(path, test, wanted) => {
                let have = of.setting(path).unwrap_or(Value::Null);
                test.of(compare_values(&have, wanted))
            }
        }
    }
}

/// Part by part: as numbers where both are, as text otherwise. `1.4` is `1.4.0`.
fn compare_versions(one: &str, two: &str) -> Ordering {
    let parts =
        |text: &str| -> Vec<String> { text.split(['.', '-', '+']).map(str::to_owned).collect() };
    let (one, two) = (parts(one), parts(two));
    for at in 0..one.len().max(two.len()) {
        let part = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "0".to_owned());
        let (a, b) = (part(&one), part(&two));
        let order = match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(&b),
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// `None`: they are of different kinds, or not equal and without an order.
fn compare_values(one: &Value, two: &Value) -> Option<Ordering> {
    match (one, two) {
        (Value::Number(a), Value::Number(b)) => match (whole(a), whole(b)) {
            // As floating point numbers two that are above 2^53 could be the same.
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) if a == b => Some(Ordering::Equal),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// A number that was written without a fraction.
fn whole(number: &serde_json::Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Word(String),
    /// In quotes.
    Text(String),
    Operator(Test),
    Open,
    Close,
}

#[derive(Debug, Clone)]
struct Token {
    column: usize,
    kind: Kind,
}

impl Token {
    fn wrong(&self, reason: impl fmt::Display) -> PredicateError {
        PredicateError {
            column: self.column,
            reason: reason.to_string(),
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(text) if text.eq_ignore_ascii_case(word))
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, PredicateError> {
    let all: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&first) = all.get(at) {
        let column = at + 1;
        let second = all.get(at + 1).copied();
        let (kind, length) = match (first, second) {
            (' ' | '\t' | '\r' | '\n', _) => {
                at += 1;
                continue;
            }
            ('(', _) => (Kind::Open, 1),
            (')', _) => (Kind::Close, 1),
            ('!', Some('=')) | ('<', Some('>')) => (Kind::Operator(Test::NotEqual), 2),
            ('<', Some('=')) => (Kind::Operator(Test::LessOrEqual), 2),
            ('>', Some('=')) => (Kind::Operator(Test::GreaterOrEqual), 2),
            ('=', Some('=')) => (Kind::Operator(Test::Equal), 2),
            ('<', _) => (Kind::Operator(Test::Less), 1),
            ('>', _) => (Kind::Operator(Test::Greater), 1),
            ('=', _) => (Kind::Operator(Test::Equal), 1),
            ('"' | '\'', _) => quoted(&all[at..], column)?,
            (other, _) if is_word(other) => {
                let word: String = all[at..].iter().take_while(|c| is_word(**c)).collect();
                let length = word.chars().count();
                (Kind::Word(word), length)
            }
            (other, _) => {
                return Err(PredicateError {
                    column,
                    reason: format!("`{other}` means nothing here; texts with it stand in quotes"),
                });
            }
        };
        found.push(Token { column, kind });
        at += length;
    }
    Ok(found)
}

/// What needs no quotes: names, numbers, times, versions, addresses, networks.
fn is_word(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(
            c,
            '_' | '-' | '.' | ':' | '/' | '[' | ']' | '+' | '@' | '*' | '#'
        )
}

/// A text in quotes, in which `\` takes the next character as it is; with how many characters it takes.
fn quoted(all: &[char], column: usize) -> Result<(Kind, usize), PredicateError> {
    let mut text = String::new();
    let mut rest = all.iter().enumerate().skip(1);
    while let Some((at, &c)) = rest.next() {
        match c {
            '\\' => text.extend(rest.next().map(|(_, c)| *c)),
            _ if Some(&c) == all.first() => return Ok((Kind::Text(text), at + 1)),
            _ => text.push(c),
        }
    }
    Err(PredicateError {
        column,
        reason: "the quote is not closed".to_owned(),
    })
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// The column behind everything.
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self, expected: &str) -> Result<Token, PredicateError> {
        let token = self.peek().cloned().ok_or_else(|| PredicateError {
            column: self.end,
            reason: format!("{expected} is expected here"),
        })?;
        self.at += 1;
        Ok(token)
    }

    fn takes(&mut self, word: &str) -> bool {
        let is_it = self.peek().is_some_and(|token| token.is_word(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn or(&mut self, depth: usize) -> Result<Node, PredicateError> {
        let mut nodes = vec![self.and(depth)?];
        while self.takes("or") {
            nodes.push(self.and(depth)?);
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => Node::Or(nodes),
        })
    }

    fn and(&mut self, depth: usize) -> Result<Node, PredicateError> {
        let mut nodes = vec![self.not(depth)?];
        while self.takes("and") {
            nodes.push(self.not(depth)?);
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => Node::And(nodes),
        })
    }

    fn not(&mut self, depth: usize) -> Result<Node, PredicateError> {
        let token = self.next("a field, such as `uid`,")?;
        if depth > DEEPEST {
            return Err(token.wrong(format!("it is nested deeper than {DEEPEST}")));
        }
        if token.is_word("not") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if token.kind == Kind::Open {
            let inner = self.or(depth + 1)?;
            let close = self.next("`)`")?;
            if close.kind != Kind::Close {
                return Err(close.wrong("`)`, `and` or `or` is expected here"));
            }
            return Ok(inner);
        }
        self.comparison(&token)
    }

    fn comparison(&mut self, field: &Token) -> Result<Node, PredicateError> {
        let Kind::Word(name) = &field.kind else {
            return Err(field.wrong(format!("a field is expected here: {FIELDS}")));
        };
        let name = name.clone();
        let known = Known::of(&name)
            .ok_or_else(|| field.wrong(format!("\"{name}\" is no field; there are {FIELDS}")))?;
        let operator = self.next("an operator, such as `=`,")?;
        let Kind::Operator(operation) = operator.kind else {
            return Err(operator.wrong("an operator is expected here: =, !=, <, <=, >, >="));
        };
        let value = self.next("a value")?;
        let (text, is_quoted) = match &value.kind {
            Kind::Word(text) => (text.clone(), false),
            Kind::Text(text) => (text.clone(), true),
            _ => return Err(value.wrong("a value is expected here")),
        };
        let unordered =
            |what: &str| operator.wrong(format!("{what} has no order; write `=` or `!=`"));
        match known {
            Known::Text(_) if operation.is_order() => Err(unordered(&format!("`{name}`"))),
            Known::Text(field) => {
                let is_null = !is_quoted && text == "null";
                check_choice(field, &text, &value)?;
                Ok(Node::Text(field, operation, (!is_null).then_some(text)))
            }
            Known::Number(field) => {
                let number = if field == Field::Age {
                    age(&text)
                } else {
                    text.parse().ok()
                };
                number
                    .filter(|number: &f64| number.is_finite())
                    .map(|number| Node::Number(field, operation, number))
                    .ok_or_else(|| {
                        value.wrong(if field == Field::Age {
                            format!("\"{text}\" is no time; write 90s, 5m, 1h or 2d")
                        } else {
                            format!("\"{text}\" is no number")
                        })
                    })
            }
            Known::Version => {
                let is_null = !is_quoted && text == "null";
                if is_null && operation.is_order() {
                    return Err(unordered("`null`"));
                }
                Ok(Node::Version(operation, (!is_null).then_some(text)))
            }
            Known::Address if operation.is_order() => Err(unordered("an address")),
            Known::Address => {
                let filter = AddressFilter::parse(&text).map_err(|reason| value.wrong(reason))?;
                Ok(Node::Address(
                    operation == Test::Equal,
                    Net { text, filter },
                ))
            }
            Known::Setting(path) => {
                let wanted = setting_value(&text, is_quoted);
                let has_order = wanted.is_number() || wanted.is_string();
                if operation.is_order() && !has_order {
                    return Err(unordered(&format!("`{text}`")));
                }
                Ok(Node::Setting(path, operation, wanted))
            }
        }
    }
}

/// A field, by what it can be compared with.
enum Known {
    Text(Field),
    Number(Field),
    Version,
    Address,
    Setting(Vec<String>),
}

impl Known {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "uid" => Self::Text(Field::Uid),
            "sid" => Self::Text(Field::Sid),
            "frontend" => Self::Text(Field::Frontend),
            "transport" => Self::Text(Field::Transport),
            "dialect" => Self::Text(Field::Dialect),
            "state" => Self::Text(Field::State),
            "client" | "client.type" => Self::Text(Field::Client),
            "client.platform" => Self::Text(Field::Platform),
            "client.version" => Self::Version,
            "age" => Self::Number(Field::Age),
            "queued" => Self::Number(Field::Queued),
            "address" => Self::Address,
            other => {
                let path = other.strip_prefix("settings.")?;
                let path: Vec<String> = path.split('.').map(str::to_owned).collect();
                if path.iter().any(String::is_empty) {
                    return None;
                }
                Self::Setting(path)
            }
        })
    }
}

/// A value that a field can never have is a mistake.
fn check_choice(field: Field, text: &str, value: &Token) -> Result<(), PredicateError> {
    let choices: &[&str] = match field {
        Field::Transport => &["tcp", "tls", "ws", "wss", "memory"],
        Field::Dialect => &["pomelo", "pitaya"],
        Field::State => &["open", "suspended"],
        Field::Sid if text.parse::<shaddock_core::Sid>().is_err() => {
            return Err(value.wrong(format!("\"{text}\" is no session id")));
        }
        _ => return Ok(()),
    };
    if choices.contains(&text) {
        return Ok(());
    }
    let list = choices.join(", ");
    Err(value.wrong(format!("\"{text}\" is none of {list}")))
}

/// Milliseconds.
fn age(text: &str) -> Option<f64> {
    let (number, unit) = [
        ("ms", 1.0),
        ("s", 1e3),
        ("m", 60e3),
        ("h", 3600e3),
        ("d", 86_400e3),
    ]
    .iter()
    .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?.parse::<f64>().ok()?, *ms)))?;
    (number >= 0.0).then_some(number * unit)
}

/// As in JSON, but that a word needs no quotes.
fn setting_value(text: &str, is_quoted: bool) -> Value {
    let value = || match text {
        "null" => Some(Value::Null),
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        number => {
            let number: serde_json::Number = number.parse().ok()?;
            Some(Value::Number(number))
        }
    };
    let value = if is_quoted { None } else { value() };
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

impl Facts for Session {
    fn text(&self, field: Field) -> Option<String> {
        let claims = || self.claims().unwrap_or_default();
        Some(match field {
            Field::Uid => return self.uid().map(|uid| uid.as_str().to_owned()),
            Field::Sid => self.id().to_string(),
            Field::Frontend => self.frontend_id().as_str().to_owned(),
            Field::Transport => self.transport().name().to_owned(),
            Field::Dialect => self.dialect().name().to_owned(),
            Field::State => crate::admin::state_name(self.state()).to_owned(),
            Field::Client => return claims().kind.as_deref().map(str::to_owned),
            Field::Platform => return claims().platform.as_deref().map(str::to_owned),
            Field::Age | Field::Queued => return None,
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds and bytes are far below 2^53"
    )]
    fn number(&self, field: Field) -> f64 {
        if field == Field::Age {
            return shaddock_net::now().0.saturating_sub(self.connected_at().0) as f64;
        }
        let outbox = self.outbox().stats();
        (outbox.queued_bytes + outbox.in_flight_bytes) as f64
    }

    fn version(&self) -> Option<String> {
        let claims = self.claims()?;
        claims.version.as_deref().map(str::to_owned)
    }

    fn address(&self) -> Option<SocketAddr> {
        self.client_address()
    }

    fn setting(&self, path: &[String]) -> Option<Value> {
        let (first, rest) = path.split_first()?;
        let settings = self.settings();
        let mut value = settings.get(first)?;
        for key in rest {
            value = value.get(key)?;
        }
        Some(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            ("name = ann", 1, "\"name\" is no field; there are uid"),
            ("uid ann", 5, "an operator"),
            ("uid =", 6, "a value"),
            ("uid = ann bob", 11, "`and` or `or`"),
            ("uid = ann and", 14, "a field"),
            ("uid = ann or or", 14, "\"or\" is no field"),
            ("(uid = ann", 11, "`)`"),
            ("(uid = ann]", 12, "`)`"),
            ("uid = ann)", 10, "`and` or `or`"),
            ("uid = 'ann", 7, "quote is not closed"),
            ("uid < ann", 5, "`uid` has no order"),
            ("client.version < null", 16, "`null` has no order"),
            (
                "uid = a and client.version >= null",
                28,
                "`null` has no order",
            ),
            ("settings.a > null", 12, "`null` has no order"),
            ("房 = 1", 1, "is no field"),
            ("uid = \"房\" and age > x", 21, "no time"),
            ("age > 1y", 7, "write 90s"),
            ("age > -1s", 7, "write 90s"),
            ("age > NaNs", 7, "write 90s"),
            ("queued > inf", 10, "no number"),
            ("transport = udp", 13, "none of tcp, tls"),
            ("sid = abc", 7, "no session id"),
            ("address = here", 11, "is no address"),
            ("address < 10.0.0.1", 9, "no order"),
            ("settings. = 1", 1, "is no field"),
            ("settings.vip > true", 14, "no order"),
            ("uid = ann; drop", 10, "means nothing"),
            ("uid = = ann", 7, "a value"),
            ("and", 1, "no field"),
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
