//! What an app has one of.

use std::panic::Location;

/// A hook of which there is one. A second one is refused when the app starts: that it replaces the first, or is passed over, would not be seen
/// before a client is let in that should not be.
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
    /// Sets the hook, or notes that there are two.
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

    /// Where the first and the second one were set, if there are two.
    pub(crate) fn both(&self) -> Option<[&'static Location<'static>; 2]> {
        let (_, first) = self.hook.as_ref()?;
        Some([first, self.second?])
    }
}
