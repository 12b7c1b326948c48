//! What a connector needs of the layer above it.

use std::{future::Future, net::SocketAddr, num::NonZeroU64, pin::Pin, sync::Arc};

use shaddock_core::{CloseReason, Session, TransportKind};
use shaddock_protocol::{
    Codec, Dialect, HandshakeRequest, Inbound, RefuseReason, RejectCode, Route,
};

/// A future that a connection polls on its worker.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's address; behind a trusted proxy the one that the proxy told.
    pub address: SocketAddr,
    /// How it is connected.
    pub transport: TransportKind,
}

/// A result that is there, or one that takes a while.
pub enum Handled<T> {
    /// There it is.
    Now(T),
    /// To be polled. Dropped if the client leaves first.
    Later(BoxFuture<T>),
}

/// The framework's answer to a handshake.
#[derive(Debug)]
pub enum Verdict {
    /// 200, with the application's data for the client, if any.
    Accept(Option<serde_json::Value>),
    /// An error code; the connection is closed.
    Reject(RejectCode),
}

/// What became of a message.
pub enum Flow {
    /// It is done, or taken over; the session's next message may start.
    Done,
    /// A handler runs: the connection polls it at once and until it is done, and starts the session's next message then. When
    /// the client leaves, it is polled to its end all the same.
    Later(BoxFuture<()>),
}

/// A client that has completed its handshake.
#[derive(Debug)]
pub struct Opened {
    /// The other end.
    pub peer: Peer,
    /// How it speaks.
    pub dialect: Dialect,
    /// What it said in its handshake.
    pub handshake: Arc<HandshakeRequest>,
}

/// The frontend server behind a listener. Called on IO workers: no method may block.
pub trait Frontend: Send + Sync + 'static {
    /// The same frontend for one more worker, if it has anything (a reference count, say) that workers had better not share. Called once for
    /// each worker when the listener starts; `None`: all workers use this one.
    fn for_worker(&self) -> Option<Arc<dyn Frontend>> {
        None
    }

    /// Dictionary, schemas, limits and answers for connections to come.
    fn codec(&self) -> Arc<Codec>;

    /// Judges a handshake.
    fn handshake(&self, peer: &Peer, request: &Arc<HandshakeRequest>) -> Handled<Verdict>;

    /// Makes the session of a client that has acknowledged the handshake.
    ///
    /// # Errors
    /// The reason for which the connection is closed instead.
    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason>;

    /// Serves a message. Answers go to the session's outbox.
    fn message(&self, session: &Arc<Session>, message: Inbound) -> Flow;

    /// A handler whose client has left. It runs to its end all the same; what is returned is polled in its place, and can count it.
    fn outlives_client(&self, handler: BoxFuture<()>) -> BoxFuture<()> {
        handler
    }

    /// Answers a request that cannot be served as it came.
    fn refused(
        &self,
        session: &Arc<Session>,
        id: NonZeroU64,
        route: Option<Route>,
        reason: RefuseReason,
    );
}
