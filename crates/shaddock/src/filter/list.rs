//! The filters of an app, in their order, with panics caught.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use shaddock_core::Sid;

use super::{BeforeFlow, ErrorFlow, ErrorHandler, Filter};
use crate::{
    error::HandlerError,
    handler::{BoxFuture, panicked},
    reply::Outcome,
    request::RequestContext,
};

/// Where the before-filters stand.
pub(crate) enum Step {
    /// All let the request through.
    Through,
    /// One refused.
    Refused(HandlerError),
    /// One waits; go on at `next` when it let the request through.
    Wait {
        future: BoxFuture<Result<(), HandlerError>>,
        next: usize,
    },
}

/// Filters and error handler of one stage: global, or the app's own.
#[derive(Default)]
pub(crate) struct FilterList {
    pub(crate) filters: Vec<Arc<dyn Filter>>,
    pub(crate) error_handler: Option<Arc<dyn ErrorHandler>>,
}

/// Both stages.
#[derive(Default)]
pub(crate) struct Filters {
    pub(crate) global: FilterList,
    pub(crate) own: FilterList,
}

impl Filters {
    /// After-filters of the app's own stage.
    pub(crate) fn run_after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        self.own.run_after(request, outcome);
    }

    /// The error handler of the app's own stage.
    pub(crate) fn recover(&self, request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        self.own.recover(request, error)
    }

    /// Tells all filters that a session is gone.
    pub(crate) fn session_closed(&self, sid: Sid) {
        for filter in self.global.filters.iter().chain(&self.own.filters) {
            if catch_unwind(AssertUnwindSafe(|| filter.session_closed(sid))).is_err() {
                tracing::error!(%sid, "a filter panicked at the close of a session");
            }
        }
    }
}

impl FilterList {
    pub(crate) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Runs the before-filters from number `first` on, until one refuses or has to wait.
    pub(crate) fn run_before(&self, request: &mut RequestContext, first: usize) -> Step {
        for (index, filter) in self.filters.iter().enumerate().skip(first) {
            let flow = catch_unwind(AssertUnwindSafe(|| filter.before(request)))
                .unwrap_or_else(|panic| BeforeFlow::refuse(panicked(request, &*panic)));
            match flow {
                BeforeFlow::Now(Ok(())) => {}
                BeforeFlow::Now(Err(error)) => return Step::Refused(error),
                BeforeFlow::Later(future) => {
                    return Step::Wait {
                        future,
                        next: index + 1,
                    };
                }
            }
        }
        Step::Through
    }

    pub(crate) fn run_after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        for filter in &self.filters {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| filter.after(request, outcome))) {
                *outcome = Err(panicked(request, &*panic));
            }
        }
    }

    pub(crate) fn recover(&self, request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        let Some(handler) = &self.error_handler else {
            return ErrorFlow::Now(Err(error));
        };
        catch_unwind(AssertUnwindSafe(|| handler.handle(request, error)))
            .unwrap_or_else(|panic| ErrorFlow::Now(Err(panicked(request, &*panic))))
    }
}
