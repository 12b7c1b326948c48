//! A bind that is registered in the cluster.

/// A bind that is already registered in the cluster. Dropping it reverts the changes of this bind, and nothing else: another bind of the
/// same session stays.
#[must_use]
pub struct Bound(Option<End>);

type End = Box<dyn FnOnce(Option<&dyn Fn() -> bool>) -> bool + Send>;

impl Bound {
    /// `end` is called once: with a check when the bind is kept, and without one when it is reverted. It returns whether the user still
    /// belongs to this frontend.
    pub fn new(end: impl FnOnce(Option<&dyn Fn() -> bool>) -> bool + Send + 'static) -> Self {
        Self(Some(Box::new(end)))
    }

    /// Keeps the bind if the session is bound to the user at this moment; it may have closed since. The check runs under a lock and only
    /// inspects the session. Returns false if another frontend has claimed the user since the bind: the session must then be closed.
    pub fn keep(mut self, is_bound: impl Fn() -> bool) -> bool {
        self.0.take().is_some_and(|end| end(Some(&is_bound)))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end(None);
        }
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}
