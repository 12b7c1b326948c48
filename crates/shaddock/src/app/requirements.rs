//! Requirements of handlers on the app that they are registered in, checked before it starts.

use std::any::{TypeId, type_name};

/// The requirements of a handler's arguments. Extractors add theirs in
/// [`FromParts::requirements`](crate::extract::FromParts::requirements).
#[derive(Debug, Default)]
pub struct Requirements {
    values: Vec<(TypeId, &'static str)>,
    frontend: Option<&'static str>,
    backend: Option<&'static str>,
    request: Option<&'static str>,
}

impl Requirements {
    /// Requires a `T` to be [set](crate::App::set) in the app.
    pub fn value<T: 'static>(&mut self) {
        self.values.push((TypeId::of::<T>(), type_name::<T>()));
    }

    /// Requires the app to be a frontend, because only frontends have `what`.
    pub fn frontend(&mut self, what: &'static str) {
        self.frontend = Some(what);
    }

    /// Requires the app not to be a frontend.
    pub fn backend(&mut self, what: &'static str) {
        self.backend = Some(what);
    }

    /// Requires a client's request, because `what` is part of it: remotes cannot take it.
    pub fn request(&mut self, what: &'static str) {
        self.request = Some(what);
    }

    /// The first requirement that is not met.
    pub(crate) fn missing(
        &self,
        is_remote: bool,
        is_frontend: bool,
        has: impl Fn(TypeId) -> bool,
    ) -> Option<String> {
        if let (true, Some(what)) = (is_remote, self.request) {
            return Some(format!(
                "it takes `{what}`, and a remote is called by servers, without a client's request"
            ));
        }
        if let Some((_, name)) = self.values.iter().find(|(key, _)| !has(*key)) {
            return Some(format!(
                "it takes `State<{name}>`, and no `{name}` is set in the app"
            ));
        }
        match (self.frontend, self.backend, is_frontend) {
            (Some(what), _, false) => Some(format!(
                "it takes `{what}`, and the app does not listen: use `SessionView`"
            )),
            (_, Some(what), true) => Some(format!(
                "it takes `{what}`, and the app listens: use `SessionView`"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        let mut needs = Requirements::default();
        needs.value::<u8>();
        needs.frontend("FrontendSession");
        assert!(
            needs
                .missing(false, true, |_| false)
                .unwrap()
                .contains("`u8`")
        );
        assert!(
            needs
                .missing(false, false, |_| true)
                .unwrap()
                .contains("FrontendSession")
        );
        assert!(needs.missing(false, true, |_| true).is_none());
        needs.request("SessionView");
        assert!(
            needs
                .missing(true, true, |_| true)
                .unwrap()
                .contains("SessionView")
        );
    }
}
