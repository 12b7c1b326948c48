//! The data that a client sent in its handshake.

use crate::sync::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The handshake data of a client that are kept with its session. They are not validated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClientClaims {
    /// The type of the client: `sys.type`, for example `js-websocket`. (Pomelo)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Box<str>>,
    /// The version of the client: `sys.version` of Pomelo clients, `sys.clientVersion` of Pitaya clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    /// The platform of the client: `sys.platform`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Box<str>>,
    /// The version of the client library: `sys.libVersion`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<Box<str>>,
    /// The build of the client: `sys.clientBuildNumber`. (Pitaya)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Box<str>>,
    /// The value of `user`: JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
}

impl ClientClaims {
    /// `user` as a type of the application. Unknown members are ignored.
    ///
    /// # Errors
    /// The data do not match the type. Absent data, or data too long to be kept, count as `null`.
    pub fn user_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.user.as_deref().unwrap_or("null"))
    }
}

/// Claims that sessions of the same client type share: a session stores a number of one byte instead of a pointer.
///
/// The table contains the first 255 different claims, which stay: a public server sees a few dozen types of clients. When the table is
/// full, other claims cost memory of their own while the session lives.
#[derive(Default)]
pub(crate) struct KnownClaims(Mutex<Vec<Arc<ClientClaims>>>);

impl KnownClaims {
    /// The number of these claims: at least 1. `None`: the session must store them itself, because they are unique or the table is full.
    pub(crate) fn number_of(&self, claims: &ClientClaims) -> Option<u8> {
        if claims.user.is_some() {
            return None;
        }
        let mut known = self.0.lock();
        let place = known.iter().position(|known| **known == *claims);
        let number = u8::try_from(place.unwrap_or(known.len()) + 1).ok()?;
        if place.is_none() {
            known.push(Arc::new(claims.clone()));
        }
        Some(number)
    }

    /// The claims with this number; `None` for 0.
    pub(crate) fn get(&self, number: u8) -> Option<Arc<ClientClaims>> {
        let place = usize::from(number).checked_sub(1)?;
        self.0.lock().get(place).cloned()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn of_kind(kind: usize) -> ClientClaims {
        ClientClaims {
            kind: Some(kind.to_string().into()),
            ..ClientClaims::default()
        }
    }

    #[test]
    fn claims_of_a_kind_have_one_number() {
        let known = KnownClaims::default();
        for kind in 0..255 {
            let number = known.number_of(&of_kind(kind)).unwrap();
            assert_eq!(usize::from(number), kind + 1);
            assert_eq!(known.number_of(&of_kind(kind)), Some(number));
            assert_eq!(*known.get(number).unwrap(), of_kind(kind));
        }
        assert_eq!(known.number_of(&of_kind(255)), None, "the table is full");
        assert!(known.number_of(&of_kind(7)).is_some());
        assert!(known.get(0).is_none());
        let with_user = ClientClaims {
            user: Some("{}".into()),
            ..of_kind(7)
        };
        assert_eq!(
            known.number_of(&with_user),
            None,
            "it belongs to one client"
        );
    }
}
