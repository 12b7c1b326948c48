//! Reads values from a file, the environment and flags, with the place of each.

use std::path::Path;

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    error::{Origin, Problem},
    section::KeyInfo,
};

/// One value for one key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Section and key.
    pub(super) path: Vec<String>,
    pub(super) value: Given,
    pub(super) origin: Origin,
}

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) enum Given {
    Toml(Value),
    /// Text without TOML quotes: the key determines its type.
    Text(String),
}

/// The line that contains byte `offset` of `text`, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// Sections inside sections.
const NESTED: [&str; 1] = ["session.resume"];

/// The values of a TOML file, two levels deep, and three in nested sections.
pub(super) fn from_file(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let origin = |offset| Origin::File {
        path: path.to_path_buf(),
        line: line_of(text, offset),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = origin(error.span().map_or(0, |span| span.start));
        problems.push(Problem {
            origin,
            key: String::new(),
            message: error.message().to_owned(),
        });
    }
    let mut entries = Vec::new();
    let mut put = |path: Vec<String>, origin, value| match to_value(value) {
        Ok(value) => entries.push(Entry {
            path,
            value: Given::Toml(value),
            origin,
        }),
        Err(message) => problems.push(Problem {
            origin,
            key: path.join("."),
            message,
        }),
    };
    leaves(&[], document.into_inner(), &mut |path, at, value| {
        put(path, origin(at), value);
    });
    // The parser sorts by name; mistakes are reported in the order of the file.
    entries.sort_by_key(|entry| match entry.origin {
        Origin::File { line, .. } => line,
        _ => 0,
    });
    entries
}

/// Gives each value of a section to `put`, with its path and the place of its key. Sections inside sections are values, but for [`NESTED`].
fn leaves<'a>(
    section: &[String],
    table: DeTable<'a>,
    put: &mut dyn FnMut(Vec<String>, usize, Spanned<DeValue<'a>>),
) {
    for (key, value) in table {
        let path = [section, &[key.get_ref().to_string()]].concat();
        let at = key.span().start;
        let is_section = section.is_empty() || NESTED.contains(&path.join(".").as_str());
        let place = value.span();
        match value.into_inner() {
            DeValue::Table(inner) if is_section => leaves(&path, inner, put),
            other => put(path, at, Spanned::new(place, other)),
        }
    }
}

fn to_value(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    Value::deserialize(ValueDeserializer::from(value)).map_err(|error| error.message().to_owned())
}

/// The prefix of shaddock's variables. Their section is followed by a double underscore. Other variables with this prefix, such as those
/// that Kubernetes sets for a service called `shaddock`, are ignored.
const PREFIX: &str = "SHADDOCK_";

/// With this begin variables of the application, and those that are meant to be.
pub(super) const APPLICATION_PREFIX: &str = "SHADDOCK_APP_";

/// The variable of `section.key`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// Says what to write instead of a variable with a wrong number of underscores.
pub(super) fn write_instead(variable: &str, right: &str) -> String {
    let is_divided = variable[PREFIX.len()..].contains("__");
    let where_wrong = if is_divided {
        ""
    } else {
        ", with two underscores after the section"
    };
    format!("this variable has no effect; write `{right}`{where_wrong}")
}

/// The values of environment variables `SHADDOCK_SECTION__KEY`.
pub(super) fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = variables
        .filter_map(|(variable, text)| {
            let path: Vec<String> = variable
                .strip_prefix(PREFIX)?
                .to_lowercase()
                .split("__")
                .map(str::to_owned)
                .collect();
            let origin = Origin::Environment { variable };
            (path.len() > 1).then_some(Entry {
                path,
                value: Given::Text(text),
                origin,
            })
        })
        .collect();
    // The order of the environment is arbitrary; messages must not depend on it.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// Variables that differ from a key's variable only in the number of underscores. Without this check they would be ignored.
pub(super) fn misspelt<'a>(
    variables: impl Iterator<Item = &'a str>,
    known: &[KeyInfo],
) -> Vec<Problem> {
    let plain = |text: &str| text.replace('_', "");
    let meant = |variable: &str| {
        let is_ours = variable.starts_with(PREFIX) && !variable[PREFIX.len()..].contains("__");
        let same = |key: &&KeyInfo| plain(&key.variable()) == plain(variable);
        known.iter().find(same).filter(|_| is_ours)
    };
    let mut problems: Vec<_> = variables
        .filter_map(|variable| {
            let key = meant(variable)?;
            let message = write_instead(variable, &key.variable());
            Some(Problem {
                origin: Origin::Environment {
                    variable: variable.to_owned(),
                },
                key: key.path(),
                message,
            })
        })
        .collect();
    problems.sort_by(|one, other| one.key.cmp(&other.key));
    problems
}

/// The values of flags `section.key=value`.
pub(super) fn from_flags(
    flags: &[String],
    origin: &Origin,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    flags
        .iter()
        .filter_map(|flag| {
            let Some((key, text)) = flag.split_once('=') else {
                let message =
                    format!("\"{flag}\" is not a setting; write `--set section.key=value`");
                problems.push(Problem {
                    origin: origin.clone(),
                    key: String::new(),
                    message,
                });
                return None;
            };
            let path = key.trim().split('.').map(str::to_owned).collect();
            Some(Entry {
                path,
                value: Given::Text(text.to_owned()),
                origin: origin.clone(),
            })
        })
        .collect()
}

/// Candidates for a value without a type: TOML if it parses as TOML, else text; a list may be separated by commas.
pub(super) fn candidates(text: &str, is_list: bool) -> Vec<Value> {
    let trimmed = text.trim();
    let mut values = Vec::new();
    if let Ok(value) = DeValue::parse(trimmed)
        .map_err(|_| ())
        .and_then(|value| to_value(value).map_err(|_| ()))
    {
        values.push(value);
    }
    if is_list {
        let parts = trimmed
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        values.push(Value::Array(
            parts.map(|part| Value::String(part.to_owned())).collect(),
        ));
    } else {
        values.push(Value::String(text.to_owned()));
    }
    values
}
