//! Settings with a type.

use serde::{Serialize, de::DeserializeOwned};

use super::{SessionError, SessionView, WrongSetting};

/// A setting of sessions that has a type, and its name in one place.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use shaddock::{prelude::*, session::Setting};
///
/// #[derive(Serialize, Deserialize)]
/// struct Level(u32);
///
/// impl Setting for Level {
///     const KEY: &'static str = "level";
/// }
///
/// async fn level_up(mut session: SessionView) -> Result<Json<u32>, HandlerError> {
///     let Level(level) = session.setting()?.unwrap_or(Level(0));
///     session.save_setting(&Level(level + 1)).await?;
///     Ok(Json(level + 1))
/// }
/// # App::new("connector", "connector-1").handle("user.levelUp", level_up);
/// ```
pub trait Setting: Serialize + DeserializeOwned {
    /// The name that it has among the settings: what servers in other languages read and write.
    const KEY: &'static str;
}

impl SessionView {
    /// A setting of the view; `None` if it is not there.
    ///
    /// # Errors
    /// It is something else.
    pub fn setting<S: Setting>(&self) -> Result<Option<S>, WrongSetting> {
        let Some(value) = self.get(S::KEY) else {
            return Ok(None);
        };
        let read = S::deserialize(value);
        read.map(Some).map_err(|source| WrongSetting {
            key: S::KEY,
            source,
        })
    }

    /// Sets it in the view only, as [`set`](Self::set).
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn set_setting<S: Setting>(&mut self, setting: &S) -> Result<(), WrongSetting> {
        let value = serde_json::to_value(setting).map_err(|source| WrongSetting {
            key: S::KEY,
            source,
        })?;
        self.set(S::KEY, value);
        Ok(())
    }

    /// Sets it in the view and writes it to the session.
    ///
    /// # Errors
    /// [`SessionError`], as [`save`](Self::save), or it cannot be written as JSON.
    pub async fn save_setting<S: Setting>(&mut self, setting: &S) -> Result<(), SessionError> {
        self.set_setting(setting)?;
        self.save(S::KEY).await
    }
}
