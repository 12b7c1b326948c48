//! Values by their type: what `app.set` and `app.get` work on.

use std::{
    any::{Any, TypeId},
    sync::{Arc, PoisonError, RwLock},
};

use hashbrown::HashMap;

/// One value of each type.
#[derive(Default)]
pub(crate) struct TypeMap {
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl TypeMap {
    pub(crate) fn set<T: Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.values.insert(TypeId::of::<T>(), value);
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

/// The context of a running app. Values may be set at any time; they are read far more often.
#[derive(Default, Debug)]
pub(crate) struct Shared(RwLock<TypeMap>);

impl Shared {
    pub(crate) fn new(values: TypeMap) -> Self {
        Self(RwLock::new(values))
    }

    pub(crate) fn set<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .set(value);
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get()
    }
}
