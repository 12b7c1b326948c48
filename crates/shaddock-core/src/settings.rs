//! Settings of a session: a JSON object that is shared until one holder modifies its copy.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// The settings of a session or of a view: names and JSON values.
///
/// A clone shares the memory until one of the two is modified, so a view costs one pointer and can never change the session or another view
/// implicitly (in Pomelo nested objects were shared). Empty settings own no memory.
///
/// ```
/// use shaddock_core::Settings;
/// let mut of_session = Settings::default();
/// of_session.set("room", "lobby");
/// let mut of_view = of_session.clone();
/// of_view.set("room", "arena");
/// assert_eq!(of_session.get("room").unwrap(), "lobby");
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Settings(Option<Arc<Map<String, Value>>>);

impl Settings {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.as_ref()?.get(key)
    }

    /// Number of settings.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All settings, in the order in which their names were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0
            .iter()
            .flat_map(|map| map.iter())
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Sets one setting, and returns the previous value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.map_mut().insert(key.into(), value.into())
    }

    /// Sets every member of `values` and keeps the others.
    pub fn set_all(&mut self, values: impl IntoIterator<Item = (String, Value)>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_some() {
            self.map_mut().extend(values);
        }
    }

    /// Removes one setting, and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.get(key)?;
        let old = self.map_mut().shift_remove(key);
        if self.is_empty() {
            self.0 = None;
        }
        old
    }

    /// The number of settings after the removal of `removed` and then `set_all(values)`.
    pub(crate) fn len_after(&self, values: &Map<String, Value>, removed: &[String]) -> usize {
        let removed: HashSet<&str> = removed
            .iter()
            .map(String::as_str)
            .filter(|key| self.get(key).is_some())
            .collect();
        let stays = |key: &str| self.get(key).is_some() && !removed.contains(key);
        let added = values.keys().filter(|key| !stays(key)).count();
        self.len() - removed.len() + added
    }

    /// A JSON object with all settings.
    pub fn to_map(&self) -> Map<String, Value> {
        self.0.as_deref().cloned().unwrap_or_default()
    }

    /// The object behind the settings, shared; `None` if there are no settings.
    pub fn shared(&self) -> Option<Arc<Map<String, Value>>> {
        self.0.clone()
    }

    fn map_mut(&mut self) -> &mut Map<String, Value> {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl From<Map<String, Value>> for Settings {
    fn from(map: Map<String, Value>) -> Self {
        Self((!map.is_empty()).then(|| Arc::new(map)))
    }
}

impl From<Arc<Map<String, Value>>> for Settings {
    fn from(map: Arc<Map<String, Value>>) -> Self {
        Self((!map.is_empty()).then_some(map))
    }
}

impl FromIterator<(String, Value)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        values.into_iter().collect::<Map<_, _>>().into()
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_settings_own_nothing() {
        let mut settings = Settings::default();
        settings.set_all([]);
        assert!(settings.0.is_none());
        settings.set("a", 1);
        assert_eq!(settings.remove("a"), Some(json!(1)));
        assert!(settings.0.is_none());
        assert_eq!(settings.remove("a"), None);
    }

    #[test]
    fn removal_keeps_the_order() {
        let mut settings: Settings = serde_json::from_str(r#"{"c":1,"b":2,"a":3}"#).unwrap();
        settings.remove("c");
        settings.set("d", json!(null));
        assert_eq!(
            serde_json::to_string(&settings).unwrap(),
            r#"{"b":2,"a":3,"d":null}"#
        );
        assert!(serde_json::from_str::<Settings>("[1]").is_err());
    }

    #[test]
    fn nested_values_are_not_shared() {
        let mut first = Settings::default();
        first.set("bag", json!({"gold": 1}));
        let mut second = first.clone();
        let mut bag = second.get("bag").unwrap().clone();
        bag["gold"] = json!(2);
        second.set("bag", bag);
        assert_eq!(first.get("bag").unwrap()["gold"], 1);
        assert_eq!(second.get("bag").unwrap()["gold"], 2);
    }
}
