//! Prints the configuration as a commented file, and the reference of all keys.

use std::fmt::Write as _;

use toml::Value;

use super::{BackendSettings, Config, KeyInfo, Origin, section::Section};

const INTRODUCTION: &str = include_str!("introduction.md");

/// TOML text of a value on one line.
fn show(value: &Value) -> String {
    value.to_string()
}

impl Config {
    /// The effective configuration as a TOML file with comments: the meaning of each key, and the source of its value. Secrets are left
    /// out.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(
            "# The effective configuration. Lines that begin with `#` are defaults or explanations.\n",
        );
        for section in self.sections() {
            let _ = write!(out, "\n# {}\n[{}]\n", text(section.about()), section.name());
            for key in section.keys() {
                self.print_key(&mut out, &key, &key.path());
            }
        }
        for (server_type, section) in &self.backends {
            let _ = write!(
                out,
                "\n# {}\n[backends.{server_type}]\n",
                text(section.about())
            );
            for key in section.keys() {
                self.print_key(
                    &mut out,
                    &key,
                    &format!("backends.{server_type}.{}", key.name),
                );
            }
        }
        out.push_str("\n# Settings of the application, which checks them itself.\n[app]\n");
        out.push_str(&self.app.table().to_string());
        out
    }

    fn print_key(&self, out: &mut String, key: &KeyInfo, path: &str) {
        out.push('\n');
        for line in key.docs {
            let _ = writeln!(out, "# {}", line.trim());
        }
        let value = self
            .value(path)
            .map(|value| show(&value))
            .unwrap_or_default();
        // Writing to a String does not fail.
        let _ = match (self.origin(path), key.secret) {
            (Origin::Default, _) => writeln!(out, "# {} = {value}", key.name),
            (origin, true) => writeln!(out, "# {} = (hidden)  # {origin}", key.name),
            (origin, false) => writeln!(out, "{} = {value}  # {origin}", key.name),
        };
    }

    /// The text of `docs/configuration.md`.
    pub fn reference() -> String {
        let defaults = Self::default();
        let mut out = String::from(INTRODUCTION);
        let backend = BackendSettings::default();
        let several: [&dyn Section; 1] = [&backend];
        for section in defaults.sections().into_iter().chain(several) {
            let _ = write!(
                out,
                "\n### `[{}]`\n\n{}\n\n",
                section.name(),
                text(section.about())
            );
            out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
            for key in section.keys() {
                let default = section
                    .get(key.name)
                    .map(|value| show(&value))
                    .unwrap_or_default();
                let reload = if key.live { " *(live)*" } else { "" };
                let docs = text(key.docs).replace('|', "\\|");
                let _ = writeln!(
                    out,
                    "| `{}` | {} | `{default}` | {docs}{reload} |",
                    key.name, key.kind
                );
            }
        }
        out
    }
}

/// Lines of a doc comment as one paragraph.
pub(super) fn text(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}
