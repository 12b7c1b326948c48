//! Sets the hooks and listeners of an app.

use std::{future::Future, panic::Location, sync::Arc};

use shaddock_cluster::Interest;

use super::{
    App, AppHandle,
    hooks::{BindHook, HandshakeHook, ResumeHook},
};
use crate::{
    boxed::BoxFuture,
    channel::MemberEvent,
    error::IntoHandlerError,
    handshake::{HandshakeInfo, HandshakeReject, IntoAccept},
    session::{ClusterSessionEvent, EventHook, EventKind, FrontendSession, SessionEvent, Uid},
};

/// # Hooks and listeners
impl App {
    /// Requires clients to be logged in: until its session is bound to a user, a client's requests receive
    /// [`codes::NO_USER`](crate::error::codes::NO_USER). Set it on frontends, where it also applies to forwarded requests. The result takes
    /// exceptions, such as the route of the login.
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// # async fn login() {}
    /// # let mut app = App::new("connector", "connector-1");
    /// app.require_user().except("entryHandler.login").except("news.board.read");
    /// # app.handle("entryHandler.login", login);
    /// ```
    pub fn require_user(&mut self) -> UserRequired<'_> {
        let own = self.info.server_type.to_string();
        UserRequired {
            own,
            exceptions: self.hooks.users_only.get_or_insert_default(),
        }
    }

    /// Checks clients by kind and version (`sys.type`, `sys.version`), before [`on_handshake`](Self::on_handshake). Rejected clients
    /// receive 501. At most one check may be set: with a second one the app does not start.
    #[track_caller]
    pub fn check_client<F>(&mut self, check: F) -> &mut Self
    where
        F: Fn(Option<&str>, Option<&str>) -> bool + Send + Sync + 'static,
    {
        self.hooks
            .client_check
            .set(Arc::new(check), Location::caller());
        self
    }

    /// Sets the handshake hook: it determines the client's identity ([`Accept`](crate::handshake::Accept)), or returns data for the client,
    /// which receives it under `user`. If the response is longer than a package (16 MiB), the client is rejected with 500, and an error is
    /// logged. At most one hook may be set: with a second one the app does not start.
    #[track_caller]
    pub fn on_handshake<F, Fut, A>(&mut self, hook: F) -> &mut Self
    where
        F: Fn(HandshakeInfo) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, HandshakeReject>> + Send + 'static,
        A: IntoAccept,
    {
        let hook: HandshakeHook = Arc::new(move |info| {
            let judged = hook(info);
            Box::pin(async move { judged.await.map(IntoAccept::into_accept) })
        });
        self.hooks.handshake.set(hook, Location::caller());
        self
    }

    /// Runs before a session of this frontend is bound to a user, and may reject the bind, which then fails with the hook's error and
    /// changes nothing. At most one hook may be set: with a second one the app does not start.
    #[track_caller]
    pub fn before_bind<F, Fut, E>(&mut self, hook: F) -> &mut Self
    where
        F: Fn(AppHandle, FrontendSession, Uid) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: IntoHandlerError,
    {
        let hook: BindHook = Arc::new(move |app, session, uid| {
            let decision = hook(app, session, uid);
            Box::pin(async move { decision.await.map_err(IntoHandlerError::into_handler_error) })
        });
        self.hooks.before_bind.set(hook, Location::caller());
        self
    }

    /// Runs before a client resumes its session, after the handshake hook and the check of its token, and may reject the client (banned
    /// meanwhile, version too old): the client then gets a new session, and the old one keeps waiting. No configuration skips it. At most
    /// one hook may be set: with a second one the app does not start.
    #[track_caller]
    pub fn before_resume<F, Fut>(&mut self, hook: F) -> &mut Self
    where
        F: Fn(AppHandle, FrontendSession, HandshakeInfo) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandshakeReject>> + Send + 'static,
    {
        let hook: ResumeHook =
            Arc::new(move |app, session, info| Box::pin(hook(app, session, info)));
        self.hooks.before_resume.set(hook, Location::caller());
        self
    }

    /// Runs after a session of this frontend was bound to a user.
    ///
    /// Listeners of one session run one after the other, in the order of the events, on the runtime that started the app and never on the
    /// thread that reads the client's data. A listener that panics or is slow delays only the events of its own session.
    pub fn on_session_bound<F, Fut>(&mut self, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to(EventKind::Bound, listener)
    }

    /// Runs after the user was unbound from a session that stays open. As [`on_session_bound`](Self::on_session_bound).
    pub fn on_session_unbound<F, Fut>(&mut self, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to(EventKind::Unbound, listener)
    }

    /// Runs after a session of this frontend was closed; the event contains its last user and settings. As
    /// [`on_session_bound`](Self::on_session_bound).
    pub fn on_session_closed<F, Fut>(&mut self, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to(EventKind::Closed, listener)
    }

    /// Runs after a user has joined or left a topic whose name starts with `prefix`, on any frontend and through any server. The event
    /// contains the kind of change ([`MemberEvent::departure`]), the topic, the user and the frontend.
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// let mut app = App::new("chat", "chat-1");
    /// app.on_topic("room/", async |app: AppHandle, event: MemberEvent| {
    ///     let route = if event.departure().is_some() { "onLeave" } else { "onAdd" };
    ///     let told = app.topic(event.name()).push(route, event.uid()).await;
    ///     if let Err(error) = told {
    ///         eprintln!("the room was not told: {error}");
    ///     }
    /// });
    /// ```
    ///
    /// - **One server runs it.** If several servers of this type listen, the topic's name selects one of them, so each event is handled
    ///   once.
    /// - **Order.** Events of one user on one frontend are handled in order, one after the other, on the runtime that started the app.
    /// - **At the start** existing members are not reported.
    /// - **When a frontend dies**, its members are reported as gone after its lease has expired.
    pub fn on_topic<F, Fut>(&mut self, prefix: &str, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, MemberEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to_members(true, prefix, listener)
    }

    /// Runs after a user has joined or left a channel of this app whose name starts with `prefix`. As [`on_topic`](Self::on_topic).
    pub fn on_channel<F, Fut>(&mut self, prefix: &str, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, MemberEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to_members(false, prefix, listener)
    }

    /// Runs after a session of a frontend of the cluster was bound, unbound or closed, if `interest` selects the event. Frontends send such
    /// events only to servers that subscribe to them.
    ///
    /// Events of one session come in their order. Listeners run one after the other, on the runtime that started the app. NATS may lose an
    /// event, and a frontend that is killed sends none: what must be right is asked for ([`BackendSessions`](crate::session::BackendSessions)).
    pub fn on_cluster_session<F, Fut>(&mut self, interest: Interest, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, ClusterSessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let hook = Arc::new(move |app, event| -> BoxFuture<()> { Box::pin(listener(app, event)) });
        self.hooks.cluster_events.add(interest, hook);
        self
    }

    fn listen_to_members<F, Fut>(&mut self, is_topic: bool, prefix: &str, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, MemberEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let hook = Arc::new(move |app, event| -> BoxFuture<()> { Box::pin(listener(app, event)) });
        self.hooks.members.add(is_topic, prefix, hook);
        self
    }

    /// Runs after a session of this frontend has lost its connection and waits for its client. Everything else of the session continues. As
    /// [`on_session_bound`](Self::on_session_bound).
    pub fn on_session_suspended<F, Fut>(&mut self, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to(EventKind::Suspended, listener)
    }

    /// Runs after the client has resumed its suspended session. As [`on_session_bound`](Self::on_session_bound).
    pub fn on_session_resumed<F, Fut>(&mut self, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.listen_to(EventKind::Resumed, listener)
    }

    fn listen_to<F, Fut>(&mut self, kind: EventKind, listener: F) -> &mut Self
    where
        F: Fn(AppHandle, SessionEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let hook: EventHook = Arc::new(move |app, event| Box::pin(listener(app, event)));
        self.hooks.events.add(kind, hook);
        self
    }
}

/// Adds exceptions to [`App::require_user`].
#[derive(Debug)]
pub struct UserRequired<'a> {
    own: String,
    exceptions: &'a mut Vec<String>,
}

impl UserRequired<'_> {
    /// Allows sessions without a user to call this route: `handler.method` of this server, or `type.handler.method`.
    pub fn except(&mut self, route: &str) -> &mut Self {
        let whole = match route.split('.').count() {
            2 => format!("{}.{route}", self.own),
            _ => route.to_owned(),
        };
        self.exceptions.push(whole);
        self
    }
}
