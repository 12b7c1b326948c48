//! The handlers, filters and hooks that the application has registered, and the app together with them.
//!
//! Handlers, filters and hooks take an [`AppHandle`], so they are not a part of its state: code that serves (connectors, the cluster's node, the
//! events of sessions) holds a [`Server`]. Code that has only a handle runs the application's through
//! [`Application`](super::handle::Application).

use std::sync::{Arc, Weak};

use super::{AppHandle, AppInner, Hooks};
use crate::{filter::Filters, handler::HandlerTable};

/// The handlers, remotes, filters and hooks of the application.
pub(crate) struct Registrations {
    /// Apart from the rest, because the future of each request holds them.
    filters: Arc<Filters>,
    tables: Arc<Tables>,
}

struct Tables {
    handlers: HandlerTable,
    remotes: HandlerTable,
    hooks: Hooks,
}

impl Registrations {
    pub(super) fn new(
        handlers: HandlerTable,
        remotes: HandlerTable,
        filters: Filters,
        hooks: Hooks,
    ) -> Self {
        Self {
            filters: Arc::new(filters),
            tables: Arc::new(Tables {
                handlers,
                remotes,
                hooks,
            }),
        }
    }

    /// The same, with a reference count of its own for the filters.
    fn counted_apart(&self) -> Self {
        Self {
            filters: Arc::new(Filters::clone(&self.filters)),
            tables: Arc::clone(&self.tables),
        }
    }

    pub(crate) fn handlers(&self) -> &HandlerTable {
        &self.tables.handlers
    }

    pub(crate) fn remotes(&self) -> &HandlerTable {
        &self.tables.remotes
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.tables.hooks
    }

    pub(crate) const fn filters(&self) -> &Arc<Filters> {
        &self.filters
    }
}

/// A running app with what the application has registered in it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) app: AppHandle,
    pub(crate) registered: Arc<Registrations>,
}

impl Server {
    /// Returns the same server with reference counts of its own: each IO worker has one.
    pub(crate) fn counted_apart(&self) -> Self {
        Self {
            app: self.app.counted_apart(),
            registered: Arc::new(self.registered.counted_apart()),
        }
    }

    pub(crate) fn downgrade(&self) -> WeakServer {
        WeakServer {
            app: self.app.downgrade(),
            registered: Arc::downgrade(&self.registered),
        }
    }
}

/// A server, for holders that the app owns. The registrations live as long as the app.
pub(crate) struct WeakServer {
    app: Weak<AppInner>,
    registered: Weak<Registrations>,
}

impl WeakServer {
    pub(crate) fn app(&self) -> Option<AppHandle> {
        self.app.upgrade().map(AppHandle::from_inner)
    }

    pub(crate) fn upgrade(&self) -> Option<Server> {
        Some(Server {
            app: self.app()?,
            registered: self.registered.upgrade()?,
        })
    }
}
