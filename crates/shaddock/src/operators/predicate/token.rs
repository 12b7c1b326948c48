//! A predicate as words, each with its column.

use std::fmt;

use super::types::{PredicateError, Test};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Word(String),
    /// In quotes.
    Text(String),
    Operator(Test),
    Open,
    Close,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) column: usize,
    pub(super) kind: Kind,
}

impl Token {
    pub(super) fn wrong(&self, reason: impl fmt::Display) -> PredicateError {
        PredicateError {
            column: self.column,
            reason: reason.to_string(),
        }
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(text) if text.eq_ignore_ascii_case(word))
    }
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, PredicateError> {
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
                    reason: format!(
                        "`{other}` is not allowed here; write texts that contain it in quotes"
                    ),
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
