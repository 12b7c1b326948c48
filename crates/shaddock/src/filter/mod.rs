//! Filters run before and after handlers; error handlers repair what failed.
//!
//! Order of work for one request, as in Pomelo:
//!
//! 1. [global](crate::App::global_filter) filters, before;
//! 2. is the route's server type that of this app? Otherwise the request is forwarded, and 3 to 6 happen there;
//! 3. the app's own [filters](crate::App::filter), before;
//! 4. the handler;
//! 5. the [error handler](crate::App::error_handler), if 3 or 4 failed;
//! 6. the app's own filters, after, the last one registered first;
//! 7. if 1 refused: the [global error handler](crate::App::global_error_handler). It does not see errors of 2 to 6, such as those that another
//!    server answered with;
//! 8. the answer is handed to the client's queue;
//! 9. global filters, after, the last one registered first: they see the outcome and cannot change it any more.
//!
//! So filters enclose the handler like brackets: the one that comes first before it comes last after it. A before-filter that refuses skips the
//! filters after it and the handler; all after-filters of its stage run.
//!
//! # Filters that wait
//!
//! A [`Filter`] must not block. One that has to wait, for a database say, is an [`AsyncFilter`], which may change the request when it has what it
//! waited for:
//!
//! ```
//! use shaddock::{filter::AsyncFilter, prelude::*, request::RequestContext};
//!
//! struct Player { name: String }
//! # async fn load(uid: &Uid) -> Result<Player, std::io::Error> { Ok(Player { name: uid.to_string() }) }
//!
//! struct LoadPlayer;
//!
//! impl AsyncFilter for LoadPlayer {
//!     async fn before(&self, request: &mut RequestContext) -> Result<(), HandlerError> {
//!         let Some(uid) = request.session().uid().cloned() else {
//!             return Err(HandlerError::new("LOGIN-1", "log in first"));
//!         };
//!         request.insert(load(&uid).await?);
//!         Ok(())
//!     }
//! }
//!
//! async fn who(Extension(player): Extension<Player>) -> Json<String> {
//!     Json(player.name.clone())
//! }
//!
//! let mut app = App::new("game", "game-1");
//! app.async_filter(LoadPlayer).handle("hero.who", who);
//! ```
//!
//! A filter that does not wait costs no allocation.
//!
//! An app may have several filters of one type. What a filter keeps for a request is its own: it is [held](RequestContext::hold) by the request,
//! not [left](RequestContext::insert) in it by its type.

mod limit;
mod list;
mod time;

use std::{future::Future, pin::Pin};

use shaddock_core::Sid;
pub use shaddock_net::MaybeReady;

pub(crate) use self::list::Filters;
pub use self::{
    limit::{RateLimitFilter, TooBusyFilter},
    time::{TimeFilter, TimeoutFilter},
};
use crate::{error::HandlerError, reply::Outcome, request::RequestContext};

/// What a filter decides before the handler.
#[must_use]
#[non_exhaustive]
pub enum BeforeFlow {
    /// Decided at once, or by a future: go on, or refuse with this error. The future owns what it needs; the request waits for it and can be
    /// changed only before.
    Decided(MaybeReady<Result<(), HandlerError>>),
    /// Decided by [`Filter::wait`], which may change the request.
    Wait,
}

impl BeforeFlow {
    /// Go on.
    pub const CONTINUE: Self = Self::Decided(MaybeReady::Now(Ok(())));

    /// Refuse with this error.
    pub const fn refuse(error: HandlerError) -> Self {
        Self::Decided(MaybeReady::Now(Err(error)))
    }

    /// Decided by this future.
    pub fn later(
        decision: impl Future<Output = Result<(), HandlerError>> + Send + 'static,
    ) -> Self {
        Self::Decided(MaybeReady::later(decision))
    }
}

impl From<Result<(), HandlerError>> for BeforeFlow {
    fn from(decision: Result<(), HandlerError>) -> Self {
        Self::Decided(MaybeReady::Now(decision))
    }
}

/// Work before and after every request.
///
/// A panic in a filter is answered as a panic in a handler.
pub trait Filter: Send + Sync + 'static {
    /// Runs before the handler. It may look at the request, change its session view, leave values in it, or refuse it.
    fn before(&self, request: &mut RequestContext) -> BeforeFlow {
        let _ = request;
        BeforeFlow::CONTINUE
    }

    /// Runs when [`before`](Self::before) returned [`BeforeFlow::Wait`]. It may take as long as the request may.
    fn wait<'a>(&'a self, request: &'a mut RequestContext) -> Wait<'a> {
        let _ = request;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Runs after the handler, also when a filter refused or the handler failed, but not when the request was dropped because its server stops.
    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        let _ = (request, outcome);
    }

    /// A session of this frontend is closed: what the filter remembers of it can go.
    fn session_closed(&self, sid: Sid) {
        let _ = sid;
    }
}

/// The future of a filter that has the request.
pub type Wait<'a> = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send + 'a>>;

/// A filter that may wait before the handler, and change the request afterwards. [`App::async_filter`](crate::App::async_filter) adds one; see the
/// [module](self) for an example.
///
/// It costs one allocation for each request. A wait longer than the request may take is answered with an error.
pub trait AsyncFilter: Send + Sync + 'static {
    /// Runs before the handler. It may look at the request, change its session view, leave values in it, or refuse it.
    ///
    /// # Errors
    /// Why the request is refused.
    fn before(
        &self,
        request: &mut RequestContext,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// As [`Filter::after`].
    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        let _ = (request, outcome);
    }

    /// As [`Filter::session_closed`].
    fn session_closed(&self, sid: Sid) {
        let _ = sid;
    }
}

/// An [`AsyncFilter`] as a [`Filter`].
pub(crate) struct Waiter<F>(pub(crate) F);

impl<F: AsyncFilter> Filter for Waiter<F> {
    fn before(&self, _request: &mut RequestContext) -> BeforeFlow {
        BeforeFlow::Wait
    }

    fn wait<'a>(&'a self, request: &'a mut RequestContext) -> Wait<'a> {
        Box::pin(self.0.before(request))
    }

    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        self.0.after(request, outcome);
    }

    fn session_closed(&self, sid: Sid) {
        self.0.session_closed(sid);
    }
}

/// Replaces the error of a request by another error or by a reply. A closure `Fn(&mut RequestContext, HandlerError) -> Outcome` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error handler",
    note = "an error handler is a closure `|request: &mut RequestContext, error: HandlerError| -> Outcome`, or a type that implements \
            `ErrorHandler`"
)]
pub trait ErrorHandler: Send + Sync + 'static {
    /// Answers the request instead of the error.
    fn handle(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome>;
}

#[diagnostic::do_not_recommend]
impl<F> ErrorHandler for F
where
    F: Fn(&mut RequestContext, HandlerError) -> Outcome + Send + Sync + 'static,
{
    fn handle(&self, request: &mut RequestContext, error: HandlerError) -> MaybeReady<Outcome> {
        MaybeReady::Now(self(request, error))
    }
}
