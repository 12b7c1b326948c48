//! The future on the heap that hooks, handlers and filters return.

use std::{future::Future, pin::Pin};

/// A future on the heap, as the framework passes them on.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;
