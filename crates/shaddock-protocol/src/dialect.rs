//! The two dialects of the client protocol.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The dialect of one connection. Fixed by the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Pomelo 2.2.7 and Pinus 1.7 clients; nano's browser client.
    #[default]
    Pomelo,
    /// Pitaya v3 clients (libpitaya, Go) and other nano clients.
    Pitaya,
}

impl Dialect {
    /// The name used in configuration, logs and metrics: `pomelo` or `pitaya`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pomelo => "pomelo",
            Self::Pitaya => "pitaya",
        }
    }
}

/// The encoding for one client: its dialect, and how it decodes text. Fixed by the handshake, and kept with the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// [`Dialect::Pomelo`], text in UTF-8.
    #[default]
    Pomelo,
    /// [`Dialect::Pomelo`] for Pomelo's browser client, which decodes one UTF-16 unit after another. In routes and in strings of schemas
    /// each half of a surrogate pair is encoded as three bytes (CESU-8), because that client misreads the four bytes of an emoji in UTF-8.
    /// (In JSON such characters are escaped for all clients.)
    Browser,
    /// [`Dialect::Pitaya`].
    Pitaya,
}

impl Variant {
    /// The dialect.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Pomelo | Self::Browser => Dialect::Pomelo,
            Self::Pitaya => Dialect::Pitaya,
        }
    }
}

impl From<Dialect> for Variant {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Pomelo => Self::Pomelo,
            Dialect::Pitaya => Self::Pitaya,
        }
    }
}

/// The client types (`sys.type` in the handshake) that use [`Variant::Browser`]. Default: `js-websocket`, Pomelo's browser client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserClients(pub Vec<String>);

impl Default for BrowserClients {
    fn default() -> Self {
        Self(alloc::vec!["js-websocket".to_owned()])
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The dialects a listener accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialectChoice {
    /// Every connection is [`Dialect::Pomelo`].
    Pomelo,
    /// Every connection is [`Dialect::Pitaya`].
    Pitaya,
    /// Detected by the handshake: `sys` with `libVersion`, `clientBuildNumber`, `clientVersion` or `platform`, and without `type`, is
    /// Pitaya. Anything else is Pomelo.
    #[default]
    Auto,
}

impl DialectChoice {
    /// The name used in configuration: `pomelo`, `pitaya` or `auto`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pomelo => "pomelo",
            Self::Pitaya => "pitaya",
            Self::Auto => "auto",
        }
    }

    /// The dialect, if it is known before the handshake.
    pub const fn fixed(self) -> Option<Dialect> {
        match self {
            Self::Pomelo => Some(Dialect::Pomelo),
            Self::Pitaya => Some(Dialect::Pitaya),
            Self::Auto => None,
        }
    }
}

impl fmt::Display for DialectChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
