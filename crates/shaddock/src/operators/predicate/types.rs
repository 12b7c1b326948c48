//! A predicate as a tree.

use std::cmp::Ordering;

use serde_json::Value;

use crate::operators::address::AddressFilter;

/// What is wrong with a predicate, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub(crate) struct PredicateError {
    /// Of the first character, from 1.
    pub(crate) column: usize,
    pub(super) reason: String,
}

/// A predicate that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Predicate(pub(super) Node);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
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
pub(super) struct Net {
    pub(super) text: String,
    pub(super) filter: AddressFilter,
}

impl PartialEq for Net {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
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
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Test {
    pub(super) const fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// With what is there and can be compared.
    pub(super) const fn holds(self, order: Ordering) -> bool {
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
    pub(super) fn of(self, order: Option<Ordering>) -> bool {
        order.map_or(self == Self::NotEqual, |order| self.holds(order))
    }
}
