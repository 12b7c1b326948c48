//! The macro that gives configuration structs their setters.

/// Gives a configuration struct one setter for each field, named like the field: `Limits::default().idle_timeout(..)`.
///
/// For the crates of shaddock: their configuration structs are `#[non_exhaustive]`, so that a field can be added without breaking
/// applications, which could then not be written as a struct expression. The list must be complete: a field that is missing in it does not
/// compile. An optional field is listed as `impl Into<Option<..>>`, so that its value needs no `Some`.
///
/// ```
/// #[derive(Debug, Default, PartialEq)]
/// #[non_exhaustive]
/// pub struct Size {
///     /// Metres.
///     pub width: u32,
///     /// A name, if there is one.
///     pub name: Option<String>,
/// }
///
/// shaddock_protocol::setters!(Size {
///     width: u32,
///     name: impl Into<Option<String>>,
/// });
///
/// let size = Size::default().width(3).name("door".to_owned());
/// assert_eq!(size, Size { width: 3, name: Some("door".to_owned()) });
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($config:ident { $($field:ident: $value:ty),+ $(,)? }) => {
        /// Setters, one for each field.
        impl $config {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                #[allow(clippy::useless_conversion, clippy::missing_const_for_fn, reason = "most fields are set as they are")]
                pub fn $field(mut self, $field: $value) -> Self {
                    self.$field = $field.into();
                    self
                }
            )+
        }

        const _: fn($config) = |config| {
            let $config { $($field: _),+ } = config;
        };
    };
}
