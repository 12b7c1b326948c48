//! Filters run before and after handlers; error handlers repair what failed.
//!
//! Order of work for one request, as in Pomelo:
//!
//! 1. [global](crate::App::global_filter) filters, before;
//! 2. is the route's server type that of this app? Otherwise the request is forwarded, and 3 to 6 happen there;
//! 3. the app's own [filters](crate::App::filter), before;
//! 4. the handler;
//! 5. the [error handler](crate::App::error_handler), if 3 or 4 failed;
//! 6. the app's own filters, after, in the order of registration;
//! 7. if 1 or 2 failed (no such server, or it cannot be reached): the [global error handler](crate::App::global_error_handler);
//! 8. the answer is handed to the client's queue;
//! 9. global filters, after: they see the outcome and cannot change it any more.
//!
//! A before-filter that refuses skips the filters after it and the handler. Filters must not block; one that has to wait returns
//! [`BeforeFlow::Later`]. One that does not wait costs no allocation.
//!
//! An app may have several filters of one type. What a filter keeps for a request is its own: it is [held](RequestContext::hold) by the request,
//! not [left](RequestContext::insert) in it by its type.

mod limit;
mod list;
mod time;

use shaddock_core::Sid;

pub(crate) use self::list::{FilterList, Filters, Step, Waiting};
pub use self::{
    limit::{RateLimitFilter, TooBusyFilter},
    time::{TimeFilter, TimeoutFilter},
};
use crate::{error::HandlerError, handler::BoxFuture, reply::Outcome, request::RequestContext};

/// What a filter decides before the handler.
#[must_use]
pub enum BeforeFlow {
    /// Decided at once: go on, or refuse with this error.
    Now(Result<(), HandlerError>),
    /// Decided by this future. It owns what it needs; the request waits for it and can be changed only before.
    Later(BoxFuture<Result<(), HandlerError>>),
}

impl BeforeFlow {
    /// Go on.
    pub const CONTINUE: Self = Self::Now(Ok(()));

    /// Refuse with this error.
    pub const fn refuse(error: HandlerError) -> Self {
        Self::Now(Err(error))
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

    /// Runs after the handler, also when a filter refused or the handler failed, but not when the request was dropped because its server stops.
    fn after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        let _ = (request, outcome);
    }

    /// A session of this frontend is closed: what the filter remembers of it can go.
    fn session_closed(&self, sid: Sid) {
        let _ = sid;
    }
}

/// What an error handler answers with.
#[must_use]
pub enum ErrorFlow {
    /// This outcome, at once.
    Now(Outcome),
    /// This outcome, later.
    Later(BoxFuture<Outcome>),
}

impl From<Outcome> for ErrorFlow {
    fn from(outcome: Outcome) -> Self {
        Self::Now(outcome)
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
    fn handle(&self, request: &mut RequestContext, error: HandlerError) -> ErrorFlow;
}

#[diagnostic::do_not_recommend]
impl<F> ErrorHandler for F
where
    F: Fn(&mut RequestContext, HandlerError) -> Outcome + Send + Sync + 'static,
{
    fn handle(&self, request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        ErrorFlow::Now(self(request, error))
    }
}
