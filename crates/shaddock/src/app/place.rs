//! The source of the listeners' connections: the network, or a test.

use std::sync::Arc;

use shaddock_net::{ListenConfig, ListenError, Listener, Workers};

use super::{Server, StartError};
use crate::frontend::AppFrontend;

/// Where clients of servers in memory connect to, by server id.
#[cfg(feature = "testing")]
pub(crate) type Network = hashbrown::HashMap<String, shaddock_net::memory::Connector>;

/// The source of the listeners' connections.
pub(super) enum Place {
    /// The network, with this number of worker threads.
    Sockets(Option<usize>),
    /// A test.
    #[cfg(feature = "testing")]
    Memory(Network),
}

impl Place {
    pub(super) fn workers(&self) -> Result<Workers, StartError> {
        match self {
            Self::Sockets(count) => start_workers(*count),
            #[cfg(feature = "testing")]
            Self::Memory(_) => Ok(Workers::on_this_thread(2)),
        }
    }

    pub(super) fn listen(
        &mut self,
        workers: &Workers,
        config: ListenConfig,
        server: &Server,
    ) -> Result<Listener, ListenError> {
        let frontend = Arc::new(AppFrontend(server.clone()));
        match self {
            Self::Sockets(_) => Listener::start(workers, config, frontend),
            #[cfg(feature = "testing")]
            Self::Memory(network) => {
                let address = config.address;
                let (listener, connector) = Listener::in_memory(workers, config, frontend)
                    .map_err(|source| ListenError { address, source })?;
                // The first listener of a server is the one that tests connect to.
                network
                    .entry(server.app.id().to_owned())
                    .or_insert(connector);
                Ok(listener)
            }
        }
    }
}

/// Starts the IO workers.
fn start_workers(count: Option<usize>) -> Result<Workers, StartError> {
    count
        .map_or_else(Workers::per_core, Workers::start)
        .map_err(StartError::Workers)
}
