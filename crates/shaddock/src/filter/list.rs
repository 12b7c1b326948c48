//! The filters of an app, in their order, with panics caught.

use std::{future::Future, sync::Arc, time::Duration};

use shaddock_core::Sid;

use super::{BeforeFlow, ErrorHandler, Filter, MaybeReady};
use crate::{
    app::{AppHandle, Part, Single},
    boxed::BoxFuture,
    error::HandlerError,
    guarded::{Guarded, Watch as _, caught, guard},
    reply::Outcome,
    request::RequestContext,
};

/// The decision of the before-filters. `Later`: one of them waits, and [`FilterList::go_on`] runs the rest.
type Decision = MaybeReady<Result<(), HandlerError>, Pause>;

/// A filter that waits.
pub(crate) struct Pause {
    /// Its place.
    at: usize,
    /// The future to await. `None`: the future of [`Filter::wait`], which has the request.
    future: Option<Guarded<BoxFuture<Result<(), HandlerError>>, Part>>,
}

/// Filters and error handler of one stage: global, or the app's own.
#[derive(Clone, Default)]
pub(crate) struct FilterList {
    pub(crate) filters: Vec<Arc<dyn Filter>>,
    pub(crate) error_handler: Single<Arc<dyn ErrorHandler>>,
}

/// Both stages.
#[derive(Clone, Default)]
pub(crate) struct Filters {
    pub(crate) global: FilterList,
    pub(crate) own: FilterList,
}

impl Filters {
    /// Tells all filters that a session is gone.
    pub(crate) fn session_closed(&self, app: &AppHandle, sid: Sid) {
        for filter in self.global.filters.iter().chain(&self.own.filters) {
            let _ = guard(&part(app), || filter.session_closed(sid));
        }
    }
}

impl FilterList {
    /// Runs the before-filters from number `first` on, until one refuses or has to wait.
    #[inline]
    pub(crate) fn run_before(&self, request: &mut RequestContext, first: usize) -> Decision {
        // Most requests pass no filter: for them, this is a comparison.
        if self.filters.len() <= first {
            return MaybeReady::Now(Ok(()));
        }
        self.run_before_from(request, first)
    }

    #[inline(never)]
    fn run_before_from(&self, request: &mut RequestContext, first: usize) -> Decision {
        for (index, filter) in self.filters.iter().enumerate().skip(first) {
            let flow = caught(|| filter.before(request)).unwrap_or_else(|panic| {
                request.panicked(&panic);
                BeforeFlow::refuse(HandlerError::handler_failed())
            });
            match flow {
                BeforeFlow::Decided(MaybeReady::Now(Ok(()))) => {}
                BeforeFlow::Decided(MaybeReady::Now(refused)) => return MaybeReady::Now(refused),
                BeforeFlow::Decided(MaybeReady::Later(future)) => {
                    let future = Guarded::new(future, part(request.app()));
                    return MaybeReady::Later(Pause {
                        at: index,
                        future: Some(future),
                    });
                }
                BeforeFlow::Wait => {
                    return MaybeReady::Later(Pause {
                        at: index,
                        future: None,
                    });
                }
            }
        }
        MaybeReady::Now(Ok(()))
    }

    /// Goes on with the before-filters from the one that waits.
    pub(crate) async fn go_on(
        &self,
        request: &mut RequestContext,
        mut pause: Pause,
    ) -> Result<(), HandlerError> {
        request.set_at_once(false);
        loop {
            let Pause { at, future } = pause;
            match future {
                Some(future) => in_time(&request.app().clone(), request.timeout(), future).await?,
                None => self.wait(at, request).await?,
            }
            match self.run_before(request, at + 1) {
                MaybeReady::Now(decided) => return decided,
                MaybeReady::Later(later) => pause = later,
            }
        }
    }

    /// Runs the part of a filter that has the request and may wait.
    async fn wait(&self, at: usize, request: &mut RequestContext) -> Result<(), HandlerError> {
        let Some(filter) = self.filters.get(at) else {
            return Ok(());
        };
        let (app, timeout) = (request.app().clone(), request.timeout());
        let part = part(&app);
        let Some(future) = guard(&part, || filter.wait(request)) else {
            return Err(HandlerError::handler_failed());
        };
        in_time(&app, timeout, Guarded::new(future, part)).await
    }

    /// The last one added comes first, as in Pomelo: filters enclose what is between before and after.
    #[inline]
    pub(crate) fn run_after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        if !self.filters.is_empty() {
            self.run_all_after(request, outcome);
        }
    }

    #[inline(never)]
    fn run_all_after(&self, request: &mut RequestContext, outcome: &mut Outcome) {
        for filter in self.filters.iter().rev() {
            if let Err(panic) = caught(|| filter.after(request, outcome)) {
                request.panicked(&panic);
                *outcome = Err(HandlerError::handler_failed());
            }
        }
    }

    pub(crate) fn recover(
        &self,
        request: &mut RequestContext,
        error: HandlerError,
    ) -> MaybeReady<Outcome> {
        let Some(handler) = self.error_handler.get() else {
            return MaybeReady::Now(Err(error));
        };
        caught(|| handler.handle(request, error)).unwrap_or_else(|panic| {
            request.panicked(&panic);
            MaybeReady::Now(Err(HandlerError::handler_failed()))
        })
    }
}

/// Waits for the future of a filter. Its panic becomes an error, and so does a wait that takes longer than the request may (zero: for ever).
async fn in_time<F>(
    app: &AppHandle,
    timeout: Duration,
    future: Guarded<F, Part>,
) -> Result<(), HandlerError>
where
    F: Future<Output = Result<(), HandlerError>>,
{
    let polled = async move {
        future
            .await
            .unwrap_or_else(|| Err(HandlerError::handler_failed()))
    };
    if timeout.is_zero() {
        return polled.await;
    }
    tokio::select! {
        biased;
        result = polled => result,
        () = app.sleep(timeout) => Err(HandlerError::timeout("a filter did not finish in time")),
    }
}

fn part(app: &AppHandle) -> Part {
    Part::of(app, "a filter")
}
