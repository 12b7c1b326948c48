//! A map of values by type, for `app.set` and `app.get`.

use std::{
    any::{Any, TypeId},
    sync::Arc,
};

use hashbrown::HashMap;
use parking_lot::RwLock;

/// One value of each type.
#[derive(Default)]
pub(crate) struct TypeMap {
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl TypeMap {
    /// Returns the previous value, so that the caller can drop it, which runs application code, without the lock.
    pub(crate) fn set<T: Send + Sync + 'static>(
        &mut self,
        value: Arc<T>,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        self.values.insert(TypeId::of::<T>(), value)
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.values.get(&TypeId::of::<T>())?)
            .downcast()
            .ok()
    }

    pub(crate) fn contains(&self, key: TypeId) -> bool {
        self.values.contains_key(&key)
    }
}

impl std::fmt::Debug for TypeMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TypeMap")
            .field("values", &self.values.len())
            .finish()
    }
}

/// The context of a running app. Values may be set at any time; reads are far more frequent.
#[derive(Default, Debug)]
pub(crate) struct Shared(RwLock<TypeMap>);

impl Shared {
    pub(crate) fn new(values: TypeMap) -> Self {
        Self(RwLock::new(values))
    }

    pub(crate) fn set<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        let mut values = self.0.write();
        let old = values.set(value);
        drop(values);
        drop(old);
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.read().get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the context when it is dropped.
    struct Looks(std::sync::Weak<Shared>);

    impl Drop for Looks {
        fn drop(&mut self) {
            if let Some(shared) = self.0.upgrade() {
                shared.set(Arc::new("seen"));
            }
        }
    }

    #[test]
    fn a_value_that_is_replaced_may_use_the_context() {
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let shared = Arc::new(Shared::default());
            shared.set(Arc::new(Looks(Arc::downgrade(&shared))));
            shared.set(Arc::new(Looks(std::sync::Weak::new())));
            let _ = done.send(shared.get::<&str>().map(|seen| *seen));
        });
        let seen = finished.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(seen, Ok(Some("seen")), "no deadlock");
    }
}
