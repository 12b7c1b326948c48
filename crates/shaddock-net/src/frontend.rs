//! What a connector needs of the layer above it.

use std::{
    any::Any, future::Future, net::SocketAddr, num::NonZeroU64, pin::Pin, sync::Arc, time::Duration,
};

use shaddock_core::{CloseReason, ComingBack, ResumeRefusal, ResumeSecret, Session, TransportKind};
use shaddock_protocol::{
    Codec, Dialect, HandshakeRequest, Inbound, RefuseReason, RejectCode, Route,
};

use crate::pipe::Pipe;

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

/// What the layer above leaves with a connection between its answer to the handshake and the session.
pub type Carried = Box<dyn Any + Send>;

/// The framework's answer to a handshake.
#[derive(Debug)]
pub enum Verdict {
    /// 200, with the application's data for the client, if any.
    Accept(Option<serde_json::Value>),
    /// The same, with something for [`Frontend::begin`].
    AcceptWith(Option<serde_json::Value>, Carried),
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

/// What a client that wants a session which outlives its socket is granted.
#[derive(Debug, Clone)]
pub struct ResumeTerms {
    /// How long the session waits for its client, as the client is told.
    pub window: Duration,
    /// After so many packages an end acknowledges.
    pub ack: u8,
    /// Where the client comes back to first.
    pub address: Option<Arc<str>>,
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
    /// Its session can be resumed, with the token of this secret
    /// ([`create_resumable`](shaddock_core::SessionService::create_resumable)).
    pub resume: Option<ResumeSecret>,
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

    /// What a client that asks for a session which outlives its socket is granted. `None`, the default: nothing, its connection is one as ever.
    fn resume_terms(&self, peer: &Peer, request: &HandshakeRequest) -> Option<ResumeTerms> {
        let _ = (peer, request);
        None
    }

    /// How long a session that has lost its connection waits for its client.
    fn resume_window(&self) -> Duration {
        Duration::ZERO
    }

    /// The session that a client comes back to.
    ///
    /// # Errors
    /// Why it does not get it. It gets a new one, and is told so.
    fn find_resumable(
        &self,
        peer: &Peer,
        back: &ComingBack,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        let _ = (peer, back, dialect);
        Err(ResumeRefusal::Unknown)
    }

    /// Asks the frontend that has the session of a client which comes back, if it is another one, to go on with it over this connection. The answer
    /// is where the client's packages go and come from ([`Listener::take_in`](crate::Listener::take_in) has the other end). Without a pipe the
    /// connection is cut: its client has come back on a later one.
    ///
    /// `None`, the default: it is here, or nowhere.
    fn find_elsewhere(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        user: Option<&serde_json::Value>,
    ) -> Option<BoxFuture<Result<Option<Pipe>, ResumeRefusal>>> {
        let _ = (peer, request, user);
        None
    }

    /// Judges whether the client may go on with its session, after all else has been looked at.
    fn before_resume(
        &self,
        session: &Arc<Session>,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
    ) -> Handled<Result<(), ResumeRefusal>> {
        let _ = (session, peer, request);
        Handled::Now(Ok(()))
    }

    /// A client that was [found](Self::find_resumable) a session does not get it all the same.
    fn resume_refused(&self, why: ResumeRefusal) {
        let _ = why;
    }

    /// A session has begun whose handshake was accepted with `carried`. What is returned comes before its first message.
    fn begin(&self, session: &Arc<Session>, carried: Carried) -> Flow {
        let _ = (session, carried);
        Flow::Done
    }

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
