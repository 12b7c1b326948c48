//! A value that is known now, or later.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// A future on the heap, as connections poll it on their workers and the framework passes it on.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A value that is known now, or a future of it. What is known at once costs no allocation and no poll.
///
/// It is a future itself. Polled again after it has yielded its value, it stays pending if the value was known at once.
///
/// `L` is what yields the value later, if that is not a future of its own.
#[must_use = "the value is lost, or its future is not polled"]
pub enum MaybeReady<T, L = BoxFuture<T>> {
    /// The value.
    Now(T),
    /// A future of it.
    Later(L),
}

impl<T> MaybeReady<T> {
    /// The value that this future yields.
    pub fn later(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T, L> From<T> for MaybeReady<T, L> {
    fn from(value: T) -> Self {
        Self::Now(value)
    }
}

// The value is moved out, never pinned.
impl<T, L: Unpin> Unpin for MaybeReady<T, L> {}

impl<T: 'static> Future for MaybeReady<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Self::Later(future) = &mut *self {
            return future.as_mut().poll(cx);
        }
        // A box of nothing: it allocates nothing.
        let taken = Self::Later(Box::pin(std::future::pending()));
        match std::mem::replace(&mut *self, taken) {
            Self::Now(value) => Poll::Ready(value),
            Self::Later(_) => Poll::Pending,
        }
    }
}

impl<T: fmt::Debug, L> fmt::Debug for MaybeReady<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(value) => f.debug_tuple("Now").field(value).finish(),
            Self::Later(_) => f.debug_tuple("Later").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll<T: 'static>(value: &mut MaybeReady<T>) -> Poll<T> {
        Pin::new(value).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_known_value_is_yielded_once() {
        let mut value = MaybeReady::from("known");
        assert_eq!(poll(&mut value), Poll::Ready("known"));
        assert_eq!(poll(&mut value), Poll::Pending);
    }

    #[test]
    fn a_future_is_polled_until_it_yields() {
        let mut polls = 0;
        let mut value = MaybeReady::later(std::future::poll_fn(move |_| {
            polls += 1;
            if polls < 3 {
                Poll::Pending
            } else {
                Poll::Ready(polls)
            }
        }));
        assert_eq!(poll(&mut value), Poll::Pending);
        assert_eq!(poll(&mut value), Poll::Pending);
        assert_eq!(poll(&mut value), Poll::Ready(3));
    }
}
