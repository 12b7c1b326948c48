//! A shared value that is replaced as a whole.

use std::sync::Arc;

use parking_lot::RwLock;

/// A shared value that is replaced as a whole, such as limits that are reloaded.
#[derive(Debug, Default)]
pub(crate) struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    pub(crate) const fn new(value: Arc<T>) -> Self {
        Self(RwLock::new(value))
    }

    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }

    pub(crate) fn set(&self, value: Arc<T>) {
        let old = std::mem::replace(&mut *self.0.write(), value);
        // Not under the lock.
        drop(old);
    }
}
