//! Which of the two dialects a client speaks.

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

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The dialects a listener accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DialectChoice {
    /// Every connection is [`Dialect::Pomelo`].
    Pomelo,
    /// Every connection is [`Dialect::Pitaya`].
    Pitaya,
    /// The handshake tells: `sys` with `libVersion`, `clientBuildNumber`, `clientVersion` or `platform`, and no `type`, is
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
