//! The types of values, and how they are written in a file, in the environment and in a flag.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use shaddock_cluster::{Address, Secret};

/// A number of bytes: an integer, or text such as `64 KiB` or `1 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// A time span: text such as `250ms`, `10s`, `1m30s`, `2h`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A network in CIDR form, `10.0.0.0/8`; a single address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub shaddock_net::Network);

const UNITS: [(&str, usize); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Size {
    /// Creates a size from a number of KiB (1,024 bytes).
    pub const fn kib(n: usize) -> Self {
        Self(n * 1024)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit) && *unit > 1)
        {
            Some((name, unit)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is not a size; write a number of bytes, or \"64 KiB\", \"1 MiB\"")
        };
        let text_end = text.trim_end();
        let digits = text_end.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text_end[digits.len()..].trim();
        let number: usize = digits.trim().parse().map_err(|_| wrong())?;
        let factor = match unit {
            "" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                    .ok_or_else(wrong)?
                    .1
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl Time {
    /// Creates a time span from a number of seconds.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// Creates a time span from a number of milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
}

const SPANS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in SPANS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is not a time span; write \"250ms\", \"10s\", \"1m30s\", \"2h\"")
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        if let Ok(seconds) = rest.parse::<u64>() {
            return Ok(Self::secs(seconds));
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let letters = after.len()
                - after
                    .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                    .len();
            let (unit, after) = after.split_at(letters);
            let (_, factor) = SPANS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            total = number
                .checked_mul(*factor)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(wrong)?;
            rest = after.trim_start();
        }
        Ok(Self::millis(total))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: shaddock_net::NetworkError| error.to_string())
    }
}

/// A text or a list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Texts(pub Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected text, or a list of texts")]
        enum Given {
            One(String),
            Several(Vec<String>),
        }
        Ok(Self(match Given::deserialize(deserializer)? {
            Given::One(text) => vec![text],
            Given::Several(texts) => texts,
        }))
    }
}

/// A secret or a list of secrets, each as text or as the name of an environment variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SecretTexts(pub Vec<Secret>);

impl<'de> Deserialize<'de> for SecretTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected text, { env = \"NAME\" }, or a list of them"
        )]
        enum Given {
            One(SecretText),
            Several(Vec<SecretText>),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum SecretText {
            Text(Secret),
            // Not a struct: serde would also read one from a list, and treat the secret as a variable's name, which errors print.
            Variable(BTreeMap<VariableKey, String>),
        }
        #[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
        #[serde(rename_all = "lowercase")]
        enum VariableKey {
            Env,
        }
        let given = match Given::deserialize(deserializer)? {
            Given::One(one) => vec![one],
            Given::Several(several) => several,
        };
        let read = |one| match one {
            SecretText::Text(secret) => Ok(secret),
            SecretText::Variable(named) => {
                let name = named.into_values().next().unwrap_or_default();
                let value = std::env::var(&name).map(Secret::from);
                value.map_err(|_| serde::de::Error::custom(no_variable(&name)))
            }
        };
        given
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The error for a variable that is not set. Unless the name looks like a variable's, it is not printed, because it may be the secret
/// itself.
fn no_variable(name: &str) -> String {
    let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.bytes().all(is_name) {
        format!("the variable `{name}` is not set, or is not UTF-8")
    } else {
        "`env` names a variable that is not set, or is not UTF-8; the secret itself is written without `env`".to_owned()
    }
}

/// An integer, or text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or text")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => usize::try_from(n)
                .map(Self)
                .map_err(serde::de::Error::custom),
            NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(seconds) => Ok(Self::secs(seconds)),
            NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! serialize_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

serialize_as_text!(Size, Time, Network);

/// A type of a key's value.
pub(super) trait Setting: Serialize + DeserializeOwned {
    /// The name of the type, in words.
    const KIND: &'static str;
    /// Whether commas separate several values in the environment and in flags.
    const IS_LIST: bool = false;
    /// Whether the value is never printed.
    const IS_SECRET: bool = false;
}

macro_rules! settings_of {
    ($($type:ty => $kind:literal),* $(,)?) => {$(
        impl Setting for $type {
            const KIND: &'static str = $kind;
        }
    )*};
}

settings_of! {
    bool => "true or false",
    u16 => "a number",
    u32 => "a number",
    usize => "a number",
    f64 => "a number",
    String => "text",
    PathBuf => "a file name",
    Size => "a size",
    Time => "a time span",
}

impl Setting for Vec<Network> {
    const KIND: &'static str = "a list of networks";
    const IS_LIST: bool = true;
}

impl Setting for Vec<String> {
    const KIND: &'static str = "a list of texts";
    const IS_LIST: bool = true;
}

impl Setting for Vec<Address> {
    const KIND: &'static str = "a list of addresses";
    const IS_LIST: bool = true;
}

impl Setting for Texts {
    const KIND: &'static str = "text, or a list of texts";
    const IS_LIST: bool = true;
}

impl Setting for SecretTexts {
    const KIND: &'static str = "text, `{ env = \"NAME\" }`, or a list of them";
    const IS_LIST: bool = true;
    const IS_SECRET: bool = true;
}

impl Setting for Secret {
    const KIND: &'static str = "text";
    const IS_SECRET: bool = true;
}

/// Declares an enum whose values are written as names.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$value_meta:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$value_meta])* #[serde(rename = $word)] $value,)*
        }

        impl $crate::config::value::Setting for $name {
            const KIND: &'static str = super::value::words!($($word)*);
        }
    };
}

/// Joins the names as `"a", "b"`.
macro_rules! words {
    ($first:literal $($word:literal)*) => {
        concat!("`", $first, "`" $(, ", `", $word, "`")*)
    };
}

pub(super) use {choice, words};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("64 KiB", 65_536),
            ("64kib", 65_536),
            ("2MiB", 2 << 20),
            ("7 B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "1.5 KiB",
            "12 parsecs",
            "99999999999 GiB",
            "1 k",
        ] {
            assert!(
                text.parse::<Size>().unwrap_err().contains("64 KiB"),
                "{text}"
            );
        }
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (65_536, "64 KiB"),
            (1 << 20, "1 MiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn times() {
        for (text, millis) in [
            ("0", 0),
            ("10", 10_000),
            ("250ms", 250),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h 5ms", 3_600_005),
        ] {
            assert_eq!(text.parse(), Ok(Time::millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "3 fortnights",
            "99999999999999999999s",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
        ] {
            assert_eq!(Time::millis(millis).to_string(), text);
        }
    }

    #[test]
    fn networks() {
        assert_eq!(
            "10.0.0.0/8".parse::<Network>().unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!("::1".parse::<Network>().unwrap().to_string(), "::1/128");
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }
}
