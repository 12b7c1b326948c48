//! The values of the section `[app]`.

use std::collections::HashMap;

use toml::{Table, Value};

use super::source::{self, Given};

/// The name of the section of the application, which may contain any key.
pub(super) const APPLICATION: &str = "app";

/// The values of the section.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AppSection {
    /// All values; text that is valid TOML is parsed.
    pub(super) table: Table,
    /// The values that were given as text, by key.
    pub(super) texts: HashMap<String, String>,
    /// The variables that begin with the section's name, also those that are no values, such as `SHADDOCK_APP_ROOM_SIZE`.
    pub(super) variables: Vec<String>,
}

impl AppSection {
    /// Keeps the variables that could be meant for a field: the fields are known when the section is deserialized.
    pub(super) fn keep_names<'a>(&mut self, variables: impl Iterator<Item = (&'a str, &'a str)>) {
        let meant = variables.filter(|(name, value)| {
            let rest = name.strip_prefix(source::APPLICATION_PREFIX);
            // Kubernetes sets `SHADDOCK_APP_PORT` for a service called `shaddock-app`.
            let is_link = value.starts_with("tcp://") || value.starts_with("udp://");
            rest.is_some_and(|rest| rest.starts_with('_') || !is_link)
        });
        self.variables = meant.map(|(name, _)| name.to_owned()).collect();
        // The order of the environment is arbitrary.
        self.variables.sort_unstable();
    }

    /// Inserts a value. Returns the reason if the key cannot hold it.
    pub(super) fn put(&mut self, path: &[String], given: &Given) -> Result<(), &'static str> {
        let key = path.join(".");
        let Some((last, inner)) = path[1..].split_last() else {
            return Err("this is a section; write `[app]` and the keys below it");
        };
        let mut table = &mut self.table;
        for name in inner {
            let next = table
                .entry(name.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            table = next.as_table_mut().ok_or("the key above is not a table")?;
        }
        let below = format!("{key}.");
        self.texts
            .retain(|other, _| *other != key && !other.starts_with(&below));
        let value = match given {
            Given::Toml(value) => value.clone(),
            Given::Text(text) => {
                self.texts.insert(key, text.clone());
                source::candidates(text, false).swap_remove(0)
            }
        };
        table.insert(last.clone(), value);
        Ok(())
    }

    /// The section as TOML.
    pub(super) const fn table(&self) -> &Table {
        &self.table
    }

    /// The keys directly below the section whose values differ.
    pub(super) fn changed(&self, newer: &Self) -> Vec<String> {
        let keys = self.table.keys().chain(newer.table.keys());
        let mut keys: Vec<_> = keys
            .filter(|key| self.table.get(*key) != newer.table.get(*key))
            .map(|key| format!("{APPLICATION}.{key}"))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
