//! Declares a section of the configuration as a struct with documented fields.

use toml::Value;

use super::value::Setting;

/// The description of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyInfo {
    /// `session`
    pub section: &'static str,
    /// `single_session`
    pub name: &'static str,
    /// The type of the value, in words.
    pub kind: &'static str,
    /// The documentation, one entry per line.
    pub docs: &'static [&'static str],
    /// Whether SIGHUP applies a change; otherwise it waits for a restart.
    pub live: bool,
    /// Whether the value is never printed.
    pub secret: bool,
    /// Whether commas separate several values in the environment and in flags.
    pub(super) is_list: bool,
}

impl KeyInfo {
    /// `session.single_session`
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `SHADDOCK_SESSION__SINGLE_SESSION`
    pub fn variable(&self) -> String {
        let section = self.section.replace('.', "__");
        format!("SHADDOCK_{section}__{}", self.name).to_uppercase()
    }
}

/// A section with its keys.
pub(super) trait Section {
    /// The name of the section in the file.
    fn name(&self) -> &'static str;
    /// The description of the section, one entry per line.
    fn about(&self) -> &'static [&'static str];
    /// Its keys in the order of the documentation.
    fn keys(&self) -> Vec<KeyInfo>;
    /// The value of a key.
    fn get(&self, key: &str) -> Option<Value>;
    /// Sets a key. On error nothing changes.
    fn put(&mut self, key: &str, value: Value) -> Result<(), String>;
}

/// Whether a change of a key takes effect without a restart (`live` or `restart` in [`section!`]).
macro_rules! is_live {
    (live) => {
        true
    };
    (restart) => {
        false
    };
}

/// Declares a section: `key: Type = default;` preceded by `live` or `restart`, and optionally followed by `, check function`.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $type:ident in $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $reload:ident $key:ident: $value:ty = $default:expr $(, check $check:expr)?;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct $type {
            $($(#[doc = $doc])* pub $key: $value,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $crate::config::section::Section for $type {
            fn name(&self) -> &'static str {
                $section
            }

            fn about(&self) -> &'static [&'static str] {
                &[$($about),*]
            }

            fn keys(&self) -> Vec<$crate::config::section::KeyInfo> {
                vec![$(
                    $crate::config::section::KeyInfo {
                        section: $section,
                        name: stringify!($key),
                        kind: <$value as $crate::config::value::Setting>::KIND,
                        docs: &[$($doc),*],
                        live: $crate::config::section::is_live!($reload),
                        secret: <$value as $crate::config::value::Setting>::IS_SECRET,
                        is_list: <$value as $crate::config::value::Setting>::IS_LIST,
                    },
                )*]
            }

            fn get(&self, key: &str) -> Option<toml::Value> {
                match key {
                    $(stringify!($key) => toml::Value::try_from(&self.$key).ok(),)*
                    _ => None,
                }
            }

            fn put(&mut self, key: &str, value: toml::Value) -> Result<(), String> {
                match key {
                    $(stringify!($key) => {
                        let value: $value = $crate::config::section::typed(value)?;
                        $($crate::config::section::checked(&value, $check)?;)?
                        self.$key = value;
                        Ok(())
                    })*
                    _ => Err("unknown key".to_owned()),
                }
            }
        }
    };
}

pub(super) fn typed<T: Setting>(value: Value) -> Result<T, String> {
    let found = value.type_str();
    value.try_into().map_err(|error: toml::de::Error| {
        let message = error.message();
        // Errors of serde about a wrong type name Rust types.
        let of_type = message.starts_with("invalid type") || message.starts_with("expected");
        if of_type {
            format!("expected {}, found a TOML {found}", T::KIND)
        } else {
            message.to_owned()
        }
    })
}

pub(super) fn checked<T>(
    value: &T,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<(), String> {
    check(value)
}

/// Checks that a value lies in a range; both ends are included.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    low: T,
    high: T,
) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if *value >= low && *value <= high {
            return Ok(());
        }
        Err(format!("{value} is outside of the range {low} to {high}"))
    }
}

pub(super) use {is_live, section};
