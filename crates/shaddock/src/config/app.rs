//! The section `[app]`, read into a type of the application.
//!
//! Values of the environment and of flags are text, and only the type of the field determines their meaning: `SHADDOCK_APP__NAME=123` is
//! text for a `String` and a number for a `u32`. Errors name the field and the source of its value.

use std::{collections::HashMap, fmt};

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        Visitor, value::StringDeserializer,
    },
};
use toml::{Value, map::Iter};

use super::{Config, ConfigError, Origin, Problem, app_section::APPLICATION, source};

impl Config {
    /// Deserializes the application's section `[app]` into a type of the application.
    ///
    /// Variables (`SHADDOCK_APP__ROOM_SIZE=8`) and flags (`--set app.room_size=8`) are read as the type of the field: text, number, or list
    /// with commas.
    ///
    /// ```
    /// # use shaddock::config::{Config, Sources};
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     room_size: usize,
    ///     secret: String,
    ///     maps: Vec<String>,
    /// }
    ///
    /// let sources = Sources::default()
    ///     .variable("SHADDOCK_APP__ROOM_SIZE", "8")
    ///     .variable("SHADDOCK_APP__SECRET", "0042")
    ///     .variable("SHADDOCK_APP__MAPS", "desert, forest");
    /// let settings: Settings = Config::load(&sources)?.app()?;
    /// assert_eq!((settings.room_size, &*settings.secret), (8, "0042"));
    /// assert_eq!(settings.maps, ["desert", "forest"]);
    /// # Ok::<(), shaddock::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// The section does not fit the type: the error names the field, and the file and line, variable or flag that its value comes from. A variable
    /// that differs from a field's only in its underscores (`SHADDOCK_APP_ROOM_SIZE`, `SHADDOCK_APP__ROOMSIZE`) is an error too, because it would have
    /// no effect.
    pub fn app<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let whole = Value::Table(self.app.table.clone());
        let field = Field {
            value: &whole,
            key: APPLICATION.to_owned(),
            texts: &self.app.texts,
            variables: &self.app.variables,
        };
        T::deserialize(field).map_err(|error| {
            let key = error.key.unwrap_or_else(|| APPLICATION.to_owned());
            let variable = error
                .variable
                .map(|variable| Origin::Environment { variable });
            // The source of a value inside a table or list is the source of the whole.
            let mut place = key.as_str();
            let origin = loop {
                match (self.origins.get(place), place.rfind(['.', '['])) {
                    (Some(origin), _) => break origin,
                    (None, Some(end)) => place = &place[..end],
                    (None, None) => break &Origin::Default,
                }
            };
            ConfigError::Problems(vec![Problem {
                origin: variable.unwrap_or_else(|| origin.clone()),
                key,
                message: error.message,
            }])
        })
    }
}

/// A value that is deserialized into a field.
struct Field<'a> {
    value: &'a Value,
    key: String,
    texts: &'a HashMap<String, String>,
    variables: &'a [String],
}

/// The reason why a value does not fit its field.
#[derive(Debug)]
struct Misfit {
    /// The innermost field.
    key: Option<String>,
    /// The variable that it is about, if it is not about the value of the field.
    variable: Option<String>,
    message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

impl serde::de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            key: None,
            variable: None,
            message: message.to_string(),
        }
    }
}

impl From<toml::de::Error> for Misfit {
    fn from(error: toml::de::Error) -> Self {
        Self::custom(error.message())
    }
}

impl Misfit {
    fn at(mut self, key: &str) -> Self {
        self.key.get_or_insert_with(|| key.to_owned());
        self
    }
}

impl<'a> Field<'a> {
    fn text(&self) -> Option<&'a str> {
        self.texts.get(&self.key).map(String::as_str)
    }

    /// A variable that was meant for one of these fields, and has no effect: it differs from that of the field only in underscores.
    fn misspelt(&self, fields: &[&str]) -> Result<(), Misfit> {
        let plain = |text: &str| text.replace('_', "");
        let own = source::variable(&format!("{}.", self.key));
        // Whether it is the variable of a field, or of something in it.
        let has_effect = |variable: &str| {
            let name = variable
                .strip_prefix(&*own)
                .and_then(|rest| rest.split("__").next());
            name.is_some_and(|name| fields.iter().any(|field| field.to_uppercase() == name))
        };
        for name in fields {
            let key = format!("{}.{name}", self.key);
            let right = source::variable(&key);
            let misspelt = |one: &&String| plain(one) == plain(&right) && !has_effect(one);
            if let Some(variable) = self.variables.iter().find(misspelt) {
                return Err(Misfit {
                    key: Some(key),
                    variable: Some(variable.clone()),
                    message: source::write_instead(variable, &right),
                });
            }
        }
        Ok(())
    }
}

/// Methods that a TOML value implements.
macro_rules! as_toml {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let read: Result<V::Value, toml::de::Error> = self.value.clone().$method(visitor);
            read.map_err(|error| Misfit::from(error).at(&self.key))
        }
    )*};
}

/// Methods for values that may be text.
macro_rules! as_text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let read = match self.text() {
                Some(text) => visitor.visit_str(text),
                None => self.value.clone().$method(visitor).map_err(Misfit::from),
            };
            read.map_err(|error: Misfit| error.at(&self.key))
        }
    )*};
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = Misfit;

    as_toml! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_unit deserialize_bytes deserialize_byte_buf
    }

    as_text! { deserialize_str deserialize_string deserialize_char deserialize_identifier }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Table(_) => self.deserialize_map(visitor),
            Value::Array(_) => self.deserialize_seq(visitor),
            other => {
                let read = other.clone().deserialize_any(visitor);
                read.map_err(|error| Misfit::from(error).at(&self.key))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let key = self.key.clone();
        let parts = match (self.value, self.text()) {
            (Value::Array(all), _) => all.clone(),
            (_, Some(text)) => source::candidates(text, true)
                .pop()
                .map_or_else(Vec::new, |list| match list {
                    Value::Array(all) => all,
                    other => vec![other],
                }),
            (other, None) => {
                let read = other.clone().deserialize_seq(visitor);
                return read.map_err(|error| Misfit::from(error).at(&key));
            }
        };
        let from_text = self.text().is_some() && !matches!(self.value, Value::Array(_));
        let elements = Elements {
            parts: parts.into_iter().enumerate(),
            field: self,
            from_text,
        };
        visitor.visit_seq(elements).map_err(|error| error.at(&key))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let key = self.key.clone();
        let Value::Table(table) = self.value else {
            let read = self.value.clone().deserialize_map(visitor);
            return read.map_err(|error| Misfit::from(error).at(&key));
        };
        let members = Members {
            rest: table.iter(),
            value: None,
            field: self,
        };
        visitor.visit_map(members).map_err(|error| error.at(&key))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.misspelt(fields)?;
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let read = match self.text() {
            Some(text) if !matches!(self.value, Value::Table(_)) => {
                let text: StringDeserializer<Misfit> = text.to_owned().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => {
                let read = self.value.clone().deserialize_enum(name, variants, visitor);
                read.map_err(Misfit::from)
            }
        };
        read.map_err(|error| error.at(&self.key))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }
}

/// The fields of a table.
struct Members<'a> {
    rest: Iter<'a, String, Value>,
    value: Option<(&'a String, &'a Value)>,
    field: Field<'a>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Misfit> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some((name, value));
        let key: StringDeserializer<Misfit> = name.clone().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some((name, value)) = self.value.take() else {
            return Err(Misfit::custom("a value without a name"));
        };
        let key = format!("{}.{name}", self.field.key);
        let field = Field {
            value,
            key: key.clone(),
            texts: self.field.texts,
            variables: self.field.variables,
        };
        seed.deserialize(field).map_err(|error| error.at(&key))
    }
}

/// The elements of a list.
struct Elements<'a> {
    parts: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    field: Field<'a>,
    /// Whether each element is text whose meaning the field's type determines.
    from_text: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Misfit> {
        let Some((index, part)) = self.parts.next() else {
            return Ok(None);
        };
        let key = format!("{}[{index}]", self.field.key);
        let mut texts = HashMap::new();
        let value = match &part {
            Value::String(text) if self.from_text => {
                texts.insert(key.clone(), text.clone());
                source::candidates(text, false).swap_remove(0)
            }
            _ => part,
        };
        let field = Field {
            value: &value,
            key,
            texts: &texts,
            variables: &[],
        };
        seed.deserialize(field).map(Some)
    }
}
