//! The listeners of an app.

use parking_lot::Mutex;
use shaddock_net::{Listener, Relayed};

/// The listeners of a running app, in the order of [`App::listen`](crate::App::listen).
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Listener>>);

impl Listeners {
    /// Looks at all listeners. The lock is held meanwhile.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Listener]) -> T) -> T {
        look(&self.0.lock())
    }

    pub(super) fn add(&self, listener: Listener) {
        let mut all = self.0.lock();
        all.push(listener);
    }

    /// Takes all listeners, to close them. A listener holds its app.
    pub(super) fn take(&self) -> Vec<Listener> {
        std::mem::take(&mut *self.0.lock())
    }

    /// The number of open connections, including those whose handshake is not complete.
    pub(crate) fn open_connections(&self) -> usize {
        self.look(|all| all.iter().map(Listener::open_connections).sum())
    }

    /// Continues a connection that another frontend has accepted. Returns false if this server no longer accepts connections.
    pub(crate) fn take_in(&self, relayed: Box<Relayed>) -> bool {
        self.look(|all| {
            let mut left = Some(relayed);
            for listener in all {
                left = left.and_then(|relayed| listener.take_in(relayed).err());
            }
            left.is_none()
        })
    }
}
