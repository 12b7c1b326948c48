//! The settings of a session: reads, and writes that are atomic and bounded.

use super::Session;
use crate::error::SettingError;
use crate::{SessionState, Settings, Uid};
use serde_json::{Map, Value};

/// # Settings
impl Session {
    /// The current settings. Shares the memory.
    pub fn settings(&self) -> Settings {
        self.record.lock().settings.clone()
    }

    /// The user and the settings at one moment.
    pub fn uid_and_settings(&self) -> (Option<Uid>, Settings) {
        let record = self.record.lock();
        (record.uid.clone(), record.settings.clone())
    }

    /// The value of one setting.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.record.lock().settings.get(key).cloned()
    }

    /// Sets one setting.
    ///
    /// # Errors
    ///
    /// The session is closed, or has too many settings.
    pub fn set(&self, key: &str, value: impl Into<Value>) -> Result<(), SettingError> {
        self.set_all([(key.to_owned(), value.into())])
    }

    /// Sets every member of `values` and keeps the other settings. Atomic.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn set_all(
        &self,
        values: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<(), SettingError> {
        self.change_settings(values, &[])
    }

    /// Removes the settings `removed`, sets every member of `values`, and keeps the others. Atomic; only the result is checked against the
    /// limit.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn change_settings(
        &self,
        values: impl IntoIterator<Item = (String, Value)>,
        removed: &[String],
    ) -> Result<(), SettingError> {
        let values: Map<String, Value> = values.into_iter().collect();
        self.write_settings(
            values,
            |settings, values| settings.len_after(values, removed),
            |settings, values| {
                for key in removed {
                    settings.remove(key);
                }
                settings.set_all(values);
            },
        )
    }

    /// Replaces all settings. Atomic.
    ///
    /// # Errors
    ///
    /// The session is closed, or would have too many settings.
    pub fn replace_settings(&self, values: impl Into<Settings>) -> Result<(), SettingError> {
        let values = values.into();
        let put = |settings: &mut Settings, values| *settings = values;
        self.write_settings(values, |_, values| values.len(), put)
    }

    /// Performs a fallible write of settings: a check, then the change, under one lock. Both closures are internal.
    fn write_settings<T>(
        &self,
        values: T,
        len_after: impl FnOnce(&Settings, &T) -> usize,
        write: impl FnOnce(&mut Settings, T),
    ) -> Result<(), SettingError> {
        let limit = self.context.config.max_settings;
        let mut record = self.record.lock();
        if record.state == SessionState::Closed {
            return Err(SettingError::NoSuchSession { sid: self.id });
        }
        if len_after(&record.settings, &values) > limit {
            return Err(SettingError::TooMany { limit });
        }
        write(&mut record.settings, values);
        Ok(())
    }

    /// Removes one setting, and returns its value. (Pomelo deleted a member of the session object instead.)
    pub fn remove(&self, key: &str) -> Option<Value> {
        self.record.lock().settings.remove(key)
    }
}
