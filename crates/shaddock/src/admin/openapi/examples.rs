//! An example of each type of the API with all optional members: a new member does not compile until it is added here.

mod commands;
mod console;
mod servers;
mod sessions;

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::operators::{Unanswered, WhyUnanswered};

/// The name of a type, its required members, and an example with all members.
pub(super) type Example = (&'static str, &'static [&'static str], Value);

/// A type, described by an example with all members.
pub(super) struct Type {
    pub(super) name: &'static str,
    /// Required members.
    pub(super) required: Vec<String>,
    /// Members that may be `null`.
    pub(super) nullable: &'static [&'static str],
    pub(super) value: Value,
}

/// All types.
pub(super) fn all() -> impl Iterator<Item = Type> {
    let given = commands::requests()
        .into_iter()
        .chain(commands::responses())
        .chain(console::examples());
    given
        .map(of)
        .chain(sessions::requests())
        .chain(servers::drains())
        .chain(servers::settings())
        .chain(sessions::responses())
        .chain(servers::cluster())
        .chain(servers::process())
}

fn of((name, required, value): Example) -> Type {
    Type {
        name,
        required: required.iter().map(|&member| member.to_owned()).collect(),
        nullable: &[],
        value,
    }
}

/// A response type: all members are required except the optional ones.
fn shown(
    name: &'static str,
    optional: &[&str],
    nullable: &'static [&'static str],
    of: &impl Serialize,
) -> Type {
    let value = value(of);
    let members = value.as_object().into_iter().flat_map(Map::keys);
    let required = members.filter(|member| !optional.contains(&member.as_str()));
    Type {
        name,
        required: required.cloned().collect(),
        nullable,
        value,
    }
}

pub(super) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn text() -> String {
    "text".to_owned()
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 3010).into()
}

fn unanswered() -> Unanswered {
    Unanswered {
        server: text(),
        why: WhyUnanswered::Silent,
        reason: text(),
    }
}
