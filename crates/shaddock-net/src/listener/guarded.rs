//! Futures of connections whose panics end that connection alone.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use crate::driver::{Driver, Parked};

/// A driver whose panics end this connection alone: also those of what it owns, when that is dropped.
pub(super) struct Connection(pub(super) Option<Driver>);

impl Future for Connection {
    type Output = Option<Parked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Parked>> {
        poll_guarded(&mut self.0, cx).map(Option::flatten)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop_guarded(self.0.take());
    }
}

/// As a [`Connection`], for a session without one.
pub(super) struct Waiting(pub(super) Option<Parked>);

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        poll_guarded(&mut self.0, cx).map(drop)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop_guarded(self.0.take());
    }
}

/// Polls a future, and drops it when it is ready or has panicked; then the result is `None`.
#[inline]
fn poll_guarded<F: Future + Unpin>(
    place: &mut Option<F>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    let Some(future) = place else {
        return Poll::Ready(None);
    };
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
    let output = match polled {
        Ok(Poll::Pending) => return Poll::Pending,
        Ok(Poll::Ready(output)) => Some(output),
        Err(panic) => {
            crate::quiet!(
                error,
                "the task of a connection panicked; its session was closed"
            );
            drop_guarded(panic);
            None
        }
    };
    drop_guarded(place.take());
    Poll::Ready(output)
}

/// Drops what may hold values of the application: a destructor of theirs that panics ends here.
fn drop_guarded<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        crate::quiet!(
            error,
            "a value of the application panicked when it was dropped"
        );
        // The payload is a value of the application too.
        std::mem::forget(panic);
    }
}
