//! Routes: `serverType.handler.method`, and the shorter names of pushes.

use alloc::string::String;
use alloc::sync::Arc;
use bytes::Bytes;
use bytestring::ByteString;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::Utf8Error;

/// A route, cheap to clone: either shared text of the dictionary or a checked slice of the package that contained it.
///
/// Clients choose routes freely, so a route is only text with the positions of its dots. [`Route::parts`] returns the number of parts;
/// [`Route::server_type`], [`Route::handler`] and [`Route::method`] return `None` if a route with that number of parts has no such part.
/// Names like `constructor` or `__proto__` are not special here.
///
/// Two routes are equal if their texts are, and a `Route` hashes like its text, so a map keyed by `Route` can be queried with `&str`.
///
/// A route from a client keeps its received chunk in memory; call [`Route::detach`] before storing one for long.
#[derive(Clone)]
pub struct Route {
    text: Text,
    /// Positions of the first two dots; the length of the text if there are fewer.
    dots: [u32; 2],
    parts: u32,
}

#[derive(Clone)]
enum Text {
    Shared(Arc<str>),
    Wire(ByteString),
}

impl Route {
    /// Creates a route from text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self::with_text(Text::Shared(text.into()))
    }

    /// Creates a route from a slice of received bytes.
    pub(crate) fn from_wire(bytes: Bytes) -> Result<Self, Utf8Error> {
        ByteString::try_from(bytes).map(|text| Self::with_text(Text::Wire(text)))
    }

    fn with_text(text: Text) -> Self {
        let (dots, parts) = scan(text.as_str());
        Self { text, dots, parts }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// Number of parts between dots. The empty route has one, empty, part.
    pub const fn parts(&self) -> usize {
        self.parts as usize
    }

    /// The first of three parts.
    pub fn server_type(&self) -> Option<&str> {
        (self.parts == 3).then(|| self.part(0))
    }

    /// The second of three parts, or the first of two.
    pub fn handler(&self) -> Option<&str> {
        match self.parts {
            2 => Some(self.part(0)),
            3 => Some(self.part(1)),
            _ => None,
        }
    }

    /// The last of two or three parts.
    pub fn method(&self) -> Option<&str> {
        match self.parts {
            2 => Some(self.part(1)),
            3 => Some(self.part(2)),
            _ => None,
        }
    }

    /// Pitaya's short route: `handler.method`, without the server type.
    pub fn short(&self) -> Option<&str> {
        match self.parts {
            2 => Some(self.as_str()),
            3 => self.as_str().get(self.dots[0] as usize + 1..),
            _ => None,
        }
    }

    /// The same route with its own text, which does not keep received bytes in memory.
    #[must_use]
    pub fn detach(&self) -> Self {
        match &self.text {
            Text::Shared(_) => self.clone(),
            Text::Wire(text) => Self {
                text: Text::Shared(Arc::from(&**text)),
                ..*self
            },
        }
    }

    /// Part 0, 1 or 2 of a route, if it exists.
    fn part(&self, index: usize) -> &str {
        let text = self.as_str();
        let start = match index {
            0 => 0,
            later => self.dots[later - 1] as usize + 1,
        };
        let end = self.dots.get(index).map_or(text.len(), |&dot| dot as usize);
        text.get(start..end).unwrap_or_default()
    }
}

/// The positions of the first two dots, and the number of parts.
fn scan(text: &str) -> ([u32; 2], u32) {
    let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut dots = [end; 2];
    let mut count = 0_u32;
    for (place, byte) in (0_u32..).zip(text.bytes()) {
        if byte == b'.' {
            if let Some(dot) = dots.get_mut(count as usize) {
                *dot = place;
            }
            count += 1;
        }
    }
    (dots, count + 1)
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Shared(text) => text,
            Self::Wire(text) => text,
        }
    }
}

impl From<&str> for Route {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Route {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<Arc<str>> for Route {
    fn from(text: Arc<str>) -> Self {
        Self::new(text)
    }
}

impl AsRef<str> for Route {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Route {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Route {}

impl PartialEq<str> for Route {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Route {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Route {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Route {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::HashMap;

    #[test]
    fn parts_are_found_by_their_number() {
        for (text, parts, server_type, handler, method, short) in [
            ("a.bc.d", 3, Some("a"), Some("bc"), Some("d"), Some("bc.d")),
            ("..", 3, Some(""), Some(""), Some(""), Some(".")),
            (
                "聊天.处理.发送",
                3,
                Some("聊天"),
                Some("处理"),
                Some("发送"),
                Some("处理.发送"),
            ),
            ("a.b", 2, None, Some("a"), Some("b"), Some("a.b")),
            ("onChat", 1, None, None, None, None),
            ("", 1, None, None, None, None),
            ("a.b.c.d", 4, None, None, None, None),
        ] {
            let wire = Route::from_wire(Bytes::from(text)).unwrap();
            for route in [Route::from(text), wire.detach(), wire] {
                assert_eq!((route.as_str(), route.parts()), (text, parts));
                assert_eq!(
                    (route.server_type(), route.handler()),
                    (server_type, handler),
                    "{text}"
                );
                assert_eq!((route.method(), route.short()), (method, short), "{text}");
            }
        }
    }

    #[test]
    fn both_forms_are_the_same_key() {
        let wire = Route::from_wire(Bytes::from_static(b"a.b.c")).unwrap();
        let mut map = HashMap::new();
        map.insert(Route::from("a.b.c"), 1);
        assert_eq!(
            (map.get(&wire), map.get("a.b.c"), map.get("a.b.d")),
            (Some(&1), Some(&1), None)
        );
        assert_eq!(wire, *"a.b.c");
    }

    #[test]
    fn what_is_not_utf8_is_no_route() {
        assert!(Route::from_wire(Bytes::from_static(b"a.\xff.c")).is_err());
    }
}
