//! A hook that may be set at most once.

use std::panic::Location;

/// A hook that may be set at most once. With a second one the app does not start: if the second replaced the first, or was ignored, the
/// mistake would be noticed only after a client was accepted that should have been rejected.
#[derive(Clone, Copy)]
pub(crate) struct Single<T> {
    hook: Option<(T, &'static Location<'static>)>,
    second: Option<&'static Location<'static>>,
}

impl<T> Default for Single<T> {
    fn default() -> Self {
        Self {
            hook: None,
            second: None,
        }
    }
}

impl<T> Single<T> {
    /// Sets the hook, or records that there are two.
    pub(crate) fn set(&mut self, hook: T, at: &'static Location<'static>) {
        match &self.hook {
            None => self.hook = Some((hook, at)),
            Some(_) => {
                self.second.get_or_insert(at);
            }
        }
    }

    /// The hook.
    pub(crate) fn get(&self) -> Option<&T> {
        self.hook.as_ref().map(|(hook, _)| hook)
    }

    /// The places where the first and the second hook were set, if there are two.
    pub(crate) fn both(&self) -> Option<[&'static Location<'static>; 2]> {
        let (_, first) = self.hook.as_ref()?;
        Some([first, self.second?])
    }
}
