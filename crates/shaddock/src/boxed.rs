//! The future on the heap that hooks, handlers and filters return.

pub use shaddock_net::BoxFuture;
