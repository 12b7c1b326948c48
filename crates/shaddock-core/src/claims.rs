//! What a client said of itself in its handshake.

use serde::{Deserialize, Serialize};

/// What a client said of itself in its handshake, as far as it is kept with its session. Nothing of it was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClientClaims {
    /// Its kind: `sys.type`, for example `js-websocket`. (Pomelo)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Box<str>>,
    /// Its version: `sys.version` of Pomelo clients, `sys.clientVersion` of Pitaya clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    /// What it runs on: `sys.platform`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Box<str>>,
    /// The version of its library: `sys.libVersion`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<Box<str>>,
    /// Its build: `sys.clientBuildNumber`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Box<str>>,
    /// What it sent under `user`: JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
}

impl ClientClaims {
    /// Whether it said nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `user` as a type of the application. What the type does not ask for is passed over.
    ///
    /// # Errors
    /// It is something else; it counts as `null` if the client sent none, or it was too long to be kept.
    pub fn user_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.user.as_deref().unwrap_or("null"))
    }
}
