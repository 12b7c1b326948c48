//! A mutex without poison.

use std::sync::PoisonError;

pub(crate) use std::sync::MutexGuard;

/// Code of the application never runs under a lock of this crate (except the check of [`Bound::keep`](crate::Bound::keep), which only reads), so
/// a panic cannot leave a partial change.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
