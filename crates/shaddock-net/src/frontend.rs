//! The interface of a connector to the layer above it.

use std::{any::Any, net::SocketAddr, num::NonZeroU64, sync::Arc, time::Duration};

use shaddock_core::{
    CloseReason, Credentials, ResumeRefusal, ResumeSecret, Session, TransportKind,
};
use shaddock_protocol::{
    Codec, Dialect, HandshakeRequest, Inbound, RefuseReason, RejectCode, Route,
};

use crate::{
    pipe::Pipe,
    ready::{BoxFuture, MaybeReady},
};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's address; behind a trusted proxy the one that the proxy sent.
    pub address: SocketAddr,
    /// The transport of the connection.
    pub transport: TransportKind,
}

/// State that the layer above keeps with a connection between its response to the handshake and the session.
pub type Carried = Box<dyn Any + Send>;

/// The framework's decision on a handshake.
#[derive(Debug)]
pub enum Verdict {
    /// 200, with the application's data for the client, if any.
    Accept(Option<serde_json::Value>),
    /// The same, with state for [`Frontend::begin`].
    AcceptWith(Option<serde_json::Value>, Carried),
    /// An error code; the connection is closed.
    Reject(RejectCode),
}

/// The terms of a resumable session.
#[derive(Debug, Clone)]
pub struct ResumeTerms {
    /// How long the session waits for its client, as announced to the client.
    pub window: Duration,
    /// Number of packages after which an end acknowledges.
    pub ack: u8,
    /// The address that the client tries first when it resumes.
    pub address: Option<Arc<str>>,
}

/// A client with a complete handshake.
#[derive(Debug)]
pub struct Opened {
    /// The other end.
    pub peer: Peer,
    /// The dialect of the client.
    pub dialect: Dialect,
    /// The client's handshake.
    pub handshake: Arc<HandshakeRequest>,
    /// Its session can be resumed, with the token of this secret
    /// ([`create_resumable`](shaddock_core::SessionService::create_resumable)).
    pub resume: Option<ResumeSecret>,
}

/// The frontend server behind a listener. Called on IO workers: no method may block.
pub trait Frontend: Send + Sync + 'static {
    /// Returns the same frontend for one more worker, if it has state (such as a reference count) that workers should not share. Called
    /// once per worker when the listener starts; `None`: all workers use this one.
    fn for_worker(&self) -> Option<Arc<dyn Frontend>> {
        None
    }

    /// Dictionary, schemas, limits and responses for new connections.
    fn codec(&self) -> Arc<Codec>;

    /// Decides on a handshake. A decision that comes later is dropped if the client disconnects first.
    fn handshake(&self, peer: &Peer, request: &Arc<HandshakeRequest>) -> MaybeReady<Verdict>;

    /// Creates the session of a client that has acknowledged the handshake.
    ///
    /// # Errors
    /// The reason for which the connection is closed instead.
    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason>;

    /// The terms for a client that requests a resumable session. `None`, the default: resumption is not granted.
    fn resume_terms(&self, peer: &Peer, request: &HandshakeRequest) -> Option<ResumeTerms> {
        let _ = (peer, request);
        None
    }

    /// How long a session waits for its client after its connection was lost.
    fn resume_window(&self) -> Duration {
        Duration::ZERO
    }

    /// The number of a client's claim to a session, asked for when its handshake arrives, before anything that may take time: numbers increase,
    /// and of two connections the one with the higher number receives the session
    /// ([`SessionService::next_claim`](shaddock_core::SessionService::next_claim)).
    fn next_claim(&self) -> u64 {
        0
    }

    /// Finds the session that a client resumes.
    ///
    /// # Errors
    /// Why the client cannot resume it. The client receives a new session and this reason.
    fn find_resumable(
        &self,
        peer: &Peer,
        shown: &Credentials,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        let _ = (peer, shown, dialect);
        Err(ResumeRefusal::Unknown)
    }

    /// If another frontend has the session of a resuming client, asks it to continue the session over this connection. The result contains
    /// the pipe for the client's packages ([`Listener::take_in`](crate::Listener::take_in) has the other end). Without a pipe the
    /// connection is cut, because its client has returned on a later one.
    ///
    /// `user` and `carried` are of the answer to its handshake, and belong to the connection there ([`Relayed`](crate::Relayed)).
    ///
    /// `None`, the default: the session is here, or does not exist.
    fn find_elsewhere(
        &self,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        user: Option<&serde_json::Value>,
        carried: Option<&Carried>,
    ) -> Option<BoxFuture<Result<Option<Pipe>, ResumeRefusal>>> {
        let _ = (peer, request, user, carried);
        None
    }

    /// Decides whether the client may resume its session, after all other checks. `carried` is of the response to the handshake with
    /// which it returns; if it may not resume, that is for its new session. A decision that comes later is dropped if the client
    /// disconnects first.
    fn before_resume(
        &self,
        session: &Arc<Session>,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        carried: Option<&Carried>,
    ) -> MaybeReady<Result<(), ResumeRefusal>> {
        let _ = (session, peer, request, carried);
        MaybeReady::Now(Ok(()))
    }

    /// A session continues on a connection whose handshake was accepted with `carried`.
    fn session_resumed(&self, session: &Arc<Session>, carried: Carried) {
        let _ = (session, carried);
    }

    /// A client whose session was [found](Self::find_resumable) could not resume it.
    fn resume_refused(&self, why: ResumeRefusal) {
        let _ = why;
    }

    /// A session has begun whose handshake was accepted with `carried`. The returned work runs before its first message, as a handler
    /// of [`message`](Self::message) does.
    fn begin(&self, session: &Arc<Session>, carried: Carried) -> MaybeReady<()> {
        let _ = (session, carried);
        MaybeReady::Now(())
    }

    /// Serves a message. Responses go to the session's outbox.
    ///
    /// `Now`: the message is finished, or another task has taken it over; the session's next message may start. `Later`: a handler is
    /// running. The connection polls it immediately and until it completes, and then starts the session's next message. If the client
    /// disconnects, it is still polled to completion.
    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()>;

    /// Wraps a handler whose client has disconnected. It still runs to completion; the returned future is polled in its place, and can
    /// count it.
    fn outlives_client(&self, handler: BoxFuture<()>) -> BoxFuture<()> {
        handler
    }

    /// Responds to a request that cannot be served.
    fn refused(
        &self,
        session: &Arc<Session>,
        id: NonZeroU64,
        route: Option<Route>,
        reason: RefuseReason,
    );
}
