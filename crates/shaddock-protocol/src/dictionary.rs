//! The route dictionary: 2-byte codes that stand for routes.

use crate::Route;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::cmp::Ordering;
use core::fmt::Write as _;
use hashbrown::HashMap;
use md5::{Digest as _, Md5};

/// Routes and their codes, fixed at start-up. (Pomelo `components/dictionary`.)
///
/// Codes of handlers and of the user's list count up from 1. A route that occurs twice has two codes: the last one is written, both are
/// accepted.
#[derive(Clone, Debug, Default)]
pub struct Dictionary {
    /// Index is the code; 0 is never assigned by [`Dictionary::build`].
    routes: Vec<Option<Route>>,
    codes: HashMap<Arc<str>, u16>,
    json: String,
    code_json: String,
    version: String,
}

/// A list of routes that cannot receive codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DictionaryError {
    /// More routes than 2-byte codes.
    #[error("{0} routes, at most 65535 have a code")]
    TooMany(usize),
    /// [`Dictionary::with_codes`]: the route or the code occurs twice.
    #[error("duplicated route (route: {route}, code: {code})")]
    Duplicate {
        /// The route of the second entry.
        route: String,
        /// The code of the second entry.
        code: u16,
    },
}

impl Dictionary {
    /// Assigns codes as Pomelo does: `handlers` (`type.handler.method`), sorted by UTF-16 code units, then `user` in its own order.
    /// `handlers` may be in any order; duplicates count once.
    ///
    /// # Errors
    ///
    /// More than 65,535 entries.
    pub fn build<H, U>(handlers: H, user: U) -> Result<Self, DictionaryError>
    where
        H: IntoIterator<Item: AsRef<str>>,
        U: IntoIterator<Item: AsRef<str>>,
    {
        let mut routes: Vec<Arc<str>> = handlers
            .into_iter()
            .map(|route| Arc::from(route.as_ref()))
            .collect();
        routes.sort_unstable_by(|a, b| utf16_order(a, b));
        routes.dedup();
        routes.extend(user.into_iter().map(|route| Arc::from(route.as_ref())));
        let count = routes.len();
        let entries: Vec<_> = (1..=u16::MAX).zip(routes).map(|(c, r)| (r, c)).collect();
        if entries.len() < count {
            return Err(DictionaryError::TooMany(count));
        }
        Ok(Self::from_entries(&entries))
    }

    /// A dictionary with given codes: those of a Pitaya application, or of the server that a client is connected to.
    ///
    /// # Errors
    ///
    /// A route or a code occurs twice.
    pub fn with_codes<R: AsRef<str>>(
        entries: impl IntoIterator<Item = (R, u16)>,
    ) -> Result<Self, DictionaryError> {
        let mut seen: HashMap<Arc<str>, ()> = HashMap::new();
        let mut used: HashMap<u16, ()> = HashMap::new();
        let mut list = Vec::new();
        for (route, code) in entries {
            let route: Arc<str> = Arc::from(route.as_ref());
            let twice = seen.insert(route.clone(), ()).is_some();
            if twice | used.insert(code, ()).is_some() {
                return Err(DictionaryError::Duplicate {
                    route: String::from(&*route),
                    code,
                });
            }
            list.push((route, code));
        }
        Ok(Self::from_entries(&list))
    }

    /// A dictionary without routes. Unlike an absent dictionary, it is announced to clients.
    pub fn empty() -> Self {
        Self::from_entries(&[])
    }

    fn from_entries(entries: &[(Arc<str>, u16)]) -> Self {
        let mut routes = Vec::new();
        let mut codes: HashMap<Arc<str>, u16> = HashMap::with_capacity(entries.len());
        let mut order: Vec<Arc<str>> = Vec::with_capacity(entries.len());
        for (text, code) in entries {
            let index = usize::from(*code);
            if routes.len() <= index {
                routes.resize(index + 1, None);
            }
            routes[index] = Some(Route::new(text.clone()));
            if codes.insert(text.clone(), *code).is_none() {
                order.push(text.clone());
            }
        }
        // JavaScript puts integer-like keys first.
        order.sort_by_key(|route| array_index(route).map_or(u64::MAX, u64::from));
        let json = object(order.iter().map(|route| (&**route, codes[route])));
        let code_json = code_object(&routes);
        let version = STANDARD.encode(Md5::digest(&json));
        Self {
            routes,
            codes,
            json,
            code_json,
            version,
        }
    }

    /// The code that is written for `route`.
    pub fn code(&self, route: &str) -> Option<u16> {
        self.codes.get(route).copied()
    }

    /// The route that `code` stands for.
    pub fn route(&self, code: u16) -> Option<&Route> {
        self.routes.get(usize::from(code))?.as_ref()
    }

    /// Base64 of the MD5 of [`Dictionary::json`]. Clients cache a dictionary under this version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The route → code object as compact JSON, in the order from which the version is computed.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The code → route object as compact JSON, ascending.
    pub fn code_json(&self) -> &str {
        &self.code_json
    }

    /// The route → code object as compact JSON with sorted keys, as Pitaya writes it.
    pub(crate) fn sorted_json(&self) -> String {
        let mut entries: Vec<_> = self.codes.iter().map(|(r, c)| (&**r, *c)).collect();
        entries.sort_unstable();
        object(entries.into_iter())
    }

    /// Every code with its route, ascending by code.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Route)> {
        (0..=u16::MAX)
            .zip(&self.routes)
            .filter_map(|(code, route)| Some((code, route.as_ref()?)))
    }

    /// Number of routes, counting each text once.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
}

fn utf16_order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// The number as which JavaScript treats an object key, if it does: decimal, no leading zeros, below 2^32 - 1.
fn array_index(key: &str) -> Option<u32> {
    let canonical = key == "0"
        || key
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_digit() && b != b'0');
    if !canonical {
        return None;
    }
    key.parse().ok().filter(|&index| index != u32::MAX)
}

fn object<'a>(entries: impl Iterator<Item = (&'a str, u16)>) -> String {
    let mut text = String::from("{");
    for (index, (route, code)) in entries.enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        push_json_string(route, &mut text);
        // Writing to a String does not fail.
        let _ = write!(text, ":{code}");
    }
    text.push('}');
    text
}

fn code_object(routes: &[Option<Route>]) -> String {
    let mut text = String::from("{");
    for (code, route) in routes.iter().enumerate() {
        if let Some(route) = route {
            text.push_str(if text.len() == 1 { "" } else { "," });
            let _ = write!(text, "\"{code}\":");
            push_json_string(route.as_str(), &mut text);
        }
    }
    text.push('}');
    text
}

/// Only `"`, `\` and control characters are escaped, as JavaScript does.
pub(crate) fn push_json_string(value: &str, text: &mut String) {
    // A string always serialises.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn no_more_routes_than_codes() {
        let routes: Vec<String> = (0..=65_535).map(|n| format!("r{n}")).collect();
        let full = Dictionary::build([""; 0], &routes[1..]).unwrap();
        assert_eq!(full.code("r65535"), Some(65_535));
        assert_eq!(full.route(65_535).unwrap(), "r65535");
        let error = Dictionary::build([""; 0], &routes).unwrap_err();
        assert_eq!(error, DictionaryError::TooMany(65_536));
    }

    #[test]
    fn nothing_has_no_code() {
        let empty = Dictionary::empty();
        assert_eq!((empty.json(), empty.code_json()), ("{}", "{}"));
        assert_eq!(empty.version(), "mZFLkyvTelC5g8XnyQrpOw==");
        assert!(empty.is_empty() && empty.route(0).is_none() && empty.code("").is_none());
    }

    #[test]
    fn prototype_names_are_routes_like_any_other() {
        let dictionary = Dictionary::build(["a.b.c"], ["__proto__", "constructor"]).unwrap();
        assert_eq!(dictionary.code("__proto__"), Some(2));
        assert_eq!(dictionary.code("toString"), None);
        assert_eq!(
            dictionary.json(),
            r#"{"a.b.c":1,"__proto__":2,"constructor":3}"#
        );
    }

    #[test]
    fn integer_like_keys_are_those_of_javascript() {
        for (key, index) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("4294967294", Some(4_294_967_294)),
            ("4294967295", None),
            ("01", None),
            ("+1", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("1a", None),
        ] {
            assert_eq!(array_index(key), index, "{key}");
        }
    }

    #[test]
    fn a_handler_listed_twice_has_one_code() {
        let dictionary = Dictionary::build(["b", "a", "b"], ["a"]).unwrap();
        let codes: Vec<_> = dictionary.iter().map(|(c, r)| (c, r.as_str())).collect();
        assert_eq!(codes, [(1, "a"), (2, "b"), (3, "a")]);
    }

    #[test]
    fn codes_chosen_elsewhere() {
        let dictionary = Dictionary::with_codes([("b", 9), ("a", 4)]).unwrap();
        assert_eq!((dictionary.len(), dictionary.iter().count()), (2, 2));
        assert_eq!(dictionary.route(9).unwrap(), "b");
        assert_eq!(dictionary.route(5), None);
        assert_eq!(dictionary.json(), r#"{"b":9,"a":4}"#);
        assert_eq!(dictionary.sorted_json(), r#"{"a":4,"b":9}"#);
        assert_eq!(dictionary.code_json(), r#"{"4":"a","9":"b"}"#);
        for twice in [[("a", 1), ("a", 2)], [("a", 1), ("b", 1)]] {
            assert!(Dictionary::with_codes(twice).is_err());
        }
    }
}
