//! The filters of an app, in their order, with panics caught.

use std::sync::Arc;

use shaddock_core::Sid;

use super::{BeforeFlow, ErrorFlow, ErrorHandler, Filter};
use crate::{
    app::AppHandle,
    error::HandlerError,
    guarded::{Guarded, Part, Watch as _, caught, guard},
    handler::{BoxFuture, failed},
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
    Wait { future: Waiting, next: usize },
}

/// The future of a filter.
pub(crate) type Waiting = Guarded<BoxFuture<Result<(), HandlerError>>, Part>;

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
    pub(crate) fn session_closed(&self, app: &AppHandle, sid: Sid) {
        for filter in self.global.filters.iter().chain(&self.own.filters) {
            let _ = guard(&part(app), || filter.session_closed(sid));
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
            let flow = caught(|| filter.before(request)).unwrap_or_else(|panic| {
                request.panicked(&panic);
                BeforeFlow::refuse(failed())
            });
            match flow {
                BeforeFlow::Now(Ok(())) => {}
                BeforeFlow::Now(Err(error)) => return Step::Refused(error),
                BeforeFlow::Later(future) => {
                    return Step::Wait {
                        future: Guarded::new(future, part(request.app())),
                        next: index + 1,
                    };
                }
            }
        }
        Step::Through
    }

    pub(crate) fn run_after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        for filter in &self.filters {
            if let Err(panic) = caught(|| filter.after(request, outcome)) {
                request.panicked(&panic);
                *outcome = Err(failed());
            }
        }
    }

    pub(crate) fn recover(&self, request: &mut RequestContext, error: HandlerError) -> ErrorFlow {
        let Some(handler) = &self.error_handler else {
            return ErrorFlow::Now(Err(error));
        };
        caught(|| handler.handle(request, error)).unwrap_or_else(|panic| {
            request.panicked(&panic);
            ErrorFlow::Now(Err(failed()))
        })
    }
}

fn part(app: &AppHandle) -> Part {
    Part {
        app: app.clone(),
        name: "a filter",
    }
}
