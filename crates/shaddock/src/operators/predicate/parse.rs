//! From words to a tree.

use serde_json::Value;

use super::{
    token::{Kind, Token},
    types::{Field, Net, Node, PredicateError, Test},
};
use crate::operators::address::AddressFilter;

/// How deep parentheses and `not` may be nested.
const DEEPEST: usize = 32;

const FIELDS: &str = "uid, sid, frontend, address, transport, dialect, state, age, queued, client, client.version, client.platform, settings.<key>";

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    /// The column behind everything.
    pub(super) end: usize,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
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

    pub(super) fn or(&mut self, depth: usize) -> Result<Node, PredicateError> {
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
        let known = Known::of(&name).ok_or_else(|| {
            field.wrong(format!(
                "\"{name}\" is not a field; the fields are {FIELDS}"
            ))
        })?;
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
        let is_null = !is_quoted && text == "null";
        let unordered =
            |what: &str| operator.wrong(format!("{what} is not ordered; write `=` or `!=`"));
        match known {
            Known::Text(_) if operation.is_order() => Err(unordered(&format!("`{name}`"))),
            Known::Text(field) => {
                check_choice(field, &text, &value)?;
                Ok(Node::Text(field, operation, (!is_null).then_some(text)))
            }
            Known::Number(field) => number_of(field, &text)
                .map(|number| Node::Number(field, operation, number))
                .map_err(|reason| value.wrong(reason)),
            Known::Version if operation.is_order() && is_null => Err(unordered("`null`")),
            Known::Version => {
                if operation.is_order() {
                    check_version(&text).map_err(|reason| value.wrong(reason))?;
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

/// The number that is compared with a field: of an age, its seconds.
fn number_of(field: Field, text: &str) -> Result<f64, String> {
    let (number, wrong) = if field == Field::Age {
        (age(text), "is not a time; write 90s, 5m, 1h or 2d")
    } else {
        (text.parse().ok(), "is not a number")
    };
    number
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("\"{text}\" {wrong}"))
}

/// Every version is below a word: a typing error would select all sessions.
fn check_version(text: &str) -> Result<(), String> {
    let number = text.strip_prefix(['v', 'V']).unwrap_or(text);
    if number.starts_with(|c: char| c.is_ascii_digit()) {
        Ok(())
    } else {
        Err(format!("\"{text}\" is not a version; write 1.4 or 1.4.0"))
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
            return Err(value.wrong(format!("\"{text}\" is not a session id")));
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
