//! The description of a server.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The longest server id or type, in bytes.
const MAX_NAME: usize = 128;
/// Key of [`ServerInfo::metadata`] under which a shaddock server lists its extensions of Pitaya's protocol.
const CAPABILITIES: &str = "shaddock";
/// Key of [`ServerInfo::metadata`] with the concurrent routes: a JSON array of `handler.method`.
const CONCURRENT: &str = "shaddock.concurrent";
/// Key of [`ServerInfo::metadata`] with the timeouts of handlers: a JSON object from `handler.method` to milliseconds, and from the empty
/// text to those of all other routes. 0 means no timeout.
const TIMEOUTS: &str = "shaddock.timeouts";
/// How long frontends wait for a handler without a timeout.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Prefix of a frontend's start number, as a capability: it is part of the ids of its sessions.
const NODE: &str = "node:";

/// The id of a server, unique in its cluster.
///
/// It becomes part of etcd keys, routes and NATS subjects. It therefore has 1 to 128 bytes and contains no `/`, `.`, `*`, `>`, white space
/// or control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// Validates a text.
    ///
    /// # Errors
    /// [`InvalidServerId`] if the text violates a rule above.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidServerId> {
        let text = text.into();
        if is_name(&text) {
            Ok(Self(text))
        } else {
            Err(InvalidServerId(text))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text, for other types that hold one.
    pub fn as_shared(&self) -> &Arc<str> {
        &self.0
    }
}

/// Whether a text is a valid server id or type: it becomes part of keys, routes and subjects.
///
/// Checked for each request: a byte costs little, if it is one character.
pub(crate) fn is_name(text: &str) -> bool {
    let is_forbidden =
        |c: char| matches!(c, '/' | '.' | '*' | '>') || c.is_whitespace() || c.is_control();
    let is_plain =
        |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'.' | b'*' | b'>');
    !text.is_empty()
        && text.len() <= MAX_NAME
        && (text.as_bytes().iter().all(is_plain) || !text.contains(is_forbidden))
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ServerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ServerId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl TryFrom<&str> for ServerId {
    type Error = InvalidServerId;

    fn try_from(text: &str) -> Result<Self, InvalidServerId> {
        Self::new(text)
    }
}

/// A text that cannot be a server id or type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a server: 1 to {MAX_NAME} bytes without '/', '.', '*', '>', white space or control characters"
)]
pub struct InvalidServerId(Arc<str>);

/// The data about a server that all servers of the cluster have. Constant while the server is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The id, unique in the cluster.
    pub id: ServerId,
    /// The type of the server: the first part of its routes. The same rules as for an id.
    pub server_type: Arc<str>,
    /// True for a server that holds client connections.
    pub frontend: bool,
    /// For the application. A shaddock server lists its capabilities under the key `shaddock`.
    pub metadata: BTreeMap<String, String>,
    /// For people only.
    pub hostname: String,
    /// Parsed from the metadata on first use.
    pub(crate) announced: Announced,
}

/// Announcements of a server about its routes. Derived from the metadata, so not part of comparisons.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announced {
    concurrent: OnceLock<HashSet<Box<str>>>,
    timeouts: OnceLock<Timeouts>,
}

/// Timeouts of handlers, in milliseconds.
#[derive(Clone, Debug, Default)]
struct Timeouts {
    others: Option<u64>,
    routes: HashMap<Box<str>, u64>,
}

impl PartialEq for Announced {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Announced {}

impl ServerInfo {
    /// A server without metadata and host name.
    ///
    /// # Errors
    /// [`InvalidServerId`] if the id or the type cannot name a server.
    pub fn new(id: &str, server_type: &str, frontend: bool) -> Result<Self, InvalidServerId> {
        if !is_name(server_type) {
            return Err(InvalidServerId(server_type.into()));
        }
        Ok(Self {
            id: ServerId::new(id)?,
            server_type: server_type.into(),
            frontend,
            metadata: BTreeMap::new(),
            hostname: String::new(),
            announced: Announced::default(),
        })
    }

    /// Announces concurrent routes, `handler.method`: frontends that forward their requests do not block the session. Call it before the
    /// server joins.
    pub fn announce_concurrent<'a>(&mut self, routes: impl IntoIterator<Item = &'a str>) {
        let mut routes: Vec<&str> = routes.into_iter().collect();
        routes.sort_unstable();
        if routes.is_empty() {
            return;
        }
        // Texts always have a JSON form.
        let text = serde_json::to_string(&routes).unwrap_or_default();
        self.metadata.insert(CONCURRENT.to_owned(), text);
        self.announced = Announced::default();
    }

    /// Announces timeouts of handlers: `others`, and for each route in `routes`, `handler.method`, its own timeout. Zero means no timeout.
    /// Frontends that forward requests wait for that time. Call it before the server joins.
    pub fn announce_timeouts<'a>(
        &mut self,
        others: Duration,
        routes: impl IntoIterator<Item = (&'a str, Duration)>,
    ) {
        // A time below a millisecond must not become 0, which means no timeout.
        let millis = |time: Duration| match time.as_millis() {
            0 if !time.is_zero() => 1,
            millis => u64::try_from(millis).unwrap_or(u64::MAX),
        };
        let mut all: BTreeMap<&str, u64> = routes
            .into_iter()
            .map(|(route, time)| (route, millis(time)))
            .collect();
        all.insert("", millis(others));
        let text = serde_json::to_string(&all).unwrap_or_default();
        self.metadata.insert(TIMEOUTS.to_owned(), text);
        self.announced = Announced::default();
    }

    /// How long a frontend waits for the reply to a request of this route, `handler.method`: the announced timeout of its handler, at most
    /// an hour. `None` if nothing was announced, as by Pitaya servers.
    pub fn timeout_of(&self, short_route: &str) -> Option<Duration> {
        let times = self.announced.timeouts.get_or_init(|| {
            let text = self.metadata.get(TIMEOUTS);
            // Invalid metadata of another server announce nothing.
            let mut routes: HashMap<Box<str>, u64> = text
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            let others = routes.remove("");
            Timeouts { others, routes }
        });
        // Most servers have no route with its own timeout.
        let own = if times.routes.is_empty() {
            None
        } else {
            times.routes.get(short_route).copied()
        };
        own.or(times.others).map(wait_for)
    }

    /// Whether the server announced this route, `handler.method`, as concurrent.
    pub fn is_concurrent(&self, short_route: &str) -> bool {
        let routes = self.announced.concurrent.get_or_init(|| {
            let text = self.metadata.get(CONCURRENT);
            // Invalid metadata of another server announce nothing.
            text.and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default()
        });
        !routes.is_empty() && routes.contains(short_route)
    }

    /// Size of the metadata in bytes, which every server of the cluster stores.
    pub fn metadata_len(&self) -> usize {
        let pairs = self.metadata.iter();
        pairs.map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Whether the server announced an extension of the protocol, such as `mpush`.
    pub fn can(&self, flag: &str) -> bool {
        self.flags().any(|announced| announced == flag)
    }

    /// All announced extensions of Pitaya's protocol. A Pitaya server announces none.
    pub fn flags(&self) -> impl Iterator<Item = &str> {
        let flags = self.metadata.get(CAPABILITIES).map_or("", String::as_str);
        flags.split(' ').filter(|flag| !flag.is_empty())
    }

    /// Whether this frontend announces that its sessions have ids of this node.
    pub fn announces_node(&self, node: u16) -> bool {
        self.may_be_node(node) && !self.may_be_node(node ^ 1)
    }

    /// Whether this frontend says what node the ids of its sessions have: it is one of shaddock.
    pub fn announces_any_node(&self) -> bool {
        self.flags().any(|flag| flag.starts_with(NODE))
    }

    /// Whether sessions of this frontend may have ids of this node: its
    /// [start number](crate::Membership::start_number), or it does not tell its own.
    pub fn may_be_node(&self, node: u16) -> bool {
        let mut nodes = self
            .flags()
            .filter_map(|flag| flag.strip_prefix(NODE))
            .peekable();
        nodes.peek().is_none() || nodes.any(|own| own.parse() == Ok(node))
    }

    /// Announces the start number of a frontend.
    pub(crate) fn announce_node(&mut self, node: u16) {
        if self.frontend {
            self.announce(&format!("{NODE}{node}"));
        }
    }

    /// Announces an extension: a word without spaces. Call it before the server joins; later announcements have no effect.
    pub fn announce(&mut self, flag: &str) {
        if !self.can(flag) {
            let flags = self.metadata.entry(CAPABILITIES.to_owned()).or_default();
            if !flags.is_empty() {
                flags.push(' ');
            }
            flags.push_str(flag);
        }
    }
}

fn wait_for(millis: u64) -> Duration {
    match millis {
        0 => LONGEST_WAIT,
        millis => Duration::from_millis(millis).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_handlers_are_announced_by_name() {
        let mut info = ServerInfo::new("game-1", "game", false).unwrap();
        assert_eq!(info.timeout_of("h.a"), None);
        let second = Duration::from_secs(1);
        let routes = [
            ("h.short", second / 10),
            ("h.ever", Duration::ZERO),
            ("h.least", Duration::from_nanos(1)),
        ];
        info.announce_timeouts(second * 30, routes);
        assert_eq!(
            info.metadata["shaddock.timeouts"],
            r#"{"":30000,"h.ever":0,"h.least":1,"h.short":100}"#
        );
        assert_eq!(info.timeout_of("h.short"), Some(second / 10));
        assert_eq!(info.timeout_of("h.other"), Some(second * 30));
        assert_eq!(info.timeout_of("h.ever"), Some(LONGEST_WAIT));
        assert_eq!(info.timeout_of("h.least"), Some(second / 1000));
        info.announce_timeouts(Duration::MAX, []);
        assert_eq!(info.timeout_of("h.short"), Some(LONGEST_WAIT));
        for unreadable in ["", "{", "[1]", r#"{"":-1}"#, r#"{"":"1s"}"#] {
            let mut other = ServerInfo::new("game-2", "game", false).unwrap();
            let text = unreadable.to_owned();
            other.metadata.insert("shaddock.timeouts".to_owned(), text);
            assert_eq!(other.timeout_of("h.a"), None, "{unreadable:?}");
        }
    }

    #[test]
    fn a_frontend_announces_its_node() {
        let mut front = ServerInfo::new("connector-1", "connector", true).unwrap();
        assert!(front.may_be_node(471), "who does not tell must be asked");
        front.announce_node(4711);
        assert!(front.may_be_node(4711) && !front.may_be_node(471));
        let mut back = ServerInfo::new("chat-1", "chat", false).unwrap();
        back.announce_node(0);
        assert_eq!(back.flags().next(), None);
    }

    #[test]
    fn concurrent_routes_are_announced_by_name() {
        let mut info = ServerInfo::new("game-1", "game", false).unwrap();
        assert!(!info.is_concurrent("h.a"));
        info.announce_concurrent([]);
        assert!(info.metadata.is_empty());
        info.announce_concurrent(["net.ping", "odd, \"name\".x"]);
        assert_eq!(
            info.metadata["shaddock.concurrent"],
            r#"["net.ping","odd, \"name\".x"]"#
        );
        assert!(info.is_concurrent("net.ping") && info.is_concurrent("odd, \"name\".x"));
        assert!(!info.is_concurrent("net.pin") && !info.is_concurrent(""));
        for unreadable in ["", "net.ping", "[1]", "{"] {
            let mut other = ServerInfo::new("game-2", "game", false).unwrap();
            other
                .metadata
                .insert("shaddock.concurrent".to_owned(), unreadable.to_owned());
            assert!(!other.is_concurrent("net.ping"), "{unreadable:?}");
        }
    }

    #[test]
    fn names_that_would_break_subjects_are_refused() {
        for bad in [
            "",
            "a/b",
            "a.b",
            "*",
            "a>",
            "a b",
            "a\tb",
            "a\u{0}",
            &"x".repeat(129),
        ] {
            assert!(ServerId::new(bad).is_err(), "{bad:?}");
            assert!(ServerInfo::new("id", bad, false).is_err(), "{bad:?}");
        }
        assert_eq!(
            ServerId::new("connector-server-1").unwrap().as_str(),
            "connector-server-1"
        );
    }

    #[test]
    fn capabilities_are_whole_words() {
        let mut info = ServerInfo::new("a", "b", true).unwrap();
        info.announce("mpush");
        info.announce("bysid");
        info.announce("mpush");
        assert_eq!(info.metadata["shaddock"], "mpush bysid");
        assert!(info.can("mpush") && info.can("bysid") && !info.can("push"));
    }
}
