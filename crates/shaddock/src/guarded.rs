//! Contains panics of application code in calls, polls and drops.
//!
//! A value of the application may panic when it is dropped as well as when it is used, and we drop many: a handler that is too late, what a
//! filter left in a request, a hook whose client has gone. So a value that is kept is kept in a [`Guarded`], whose drop is caught like its
//! poll. Every panic is told to a [`Watch`], which counts it.
//!
//! One thing cannot be caught: a second panic in a destructor that runs because of a first one ends the process.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

/// The text of a panic that was caught.
#[derive(Debug)]
pub(crate) struct Panic(String);

impl Panic {
    #[cold]
    fn of(payload: Box<dyn Any + Send>) -> Self {
        let text = text_of(&*payload).to_owned();
        // The payload is a value of the application too.
        if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(worse);
        }
        Self(text)
    }

    /// What the panic said.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// The text of a panic, if it has one.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

/// Counts and logs panics.
pub(crate) trait Watch {
    fn panicked(&self, panic: &Panic);
}

impl<W: Watch + ?Sized> Watch for &W {
    fn panicked(&self, panic: &Panic) {
        (**self).panicked(panic);
    }
}

/// Runs code; its panic is an error.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(run)).map_err(Panic::of)
}

/// Runs code; its panic is told to `watch`, and there is no value.
pub(crate) fn guard<T>(watch: &impl Watch, run: impl FnOnce() -> T) -> Option<T> {
    caught(run).map_err(|panic| watch.panicked(&panic)).ok()
}

pin_project! {
    /// A value of the application. A panic in its use or its drop goes to `watch` and no further.
    pub(crate) struct Guarded<T, W: Watch> {
        #[pin]
        value: Option<T>,
        watch: W,
    }

    impl<T, W: Watch> PinnedDrop for Guarded<T, W> {
        fn drop(this: Pin<&mut Self>) {
            this.clear();
        }
    }
}

impl<T, W: Watch> Guarded<T, W> {
    pub(crate) const fn new(value: T, watch: W) -> Self {
        Self {
            value: Some(value),
            watch,
        }
    }

    /// The watch, which is ours: nothing in it is the application's.
    pub(crate) fn watch(self: Pin<&mut Self>) -> &mut W {
        self.project().watch
    }

    /// Uses the value; nothing if that panics, or the value is gone.
    pub(crate) fn run<R>(
        self: Pin<&mut Self>,
        run: impl FnOnce(Pin<&mut T>, &W) -> R,
    ) -> Option<R> {
        let this = self.project();
        let (value, watch) = (this.value.as_pin_mut()?, &*this.watch);
        guard(watch, || run(value, watch))
    }

    /// Drops the value.
    #[inline]
    pub(crate) fn clear(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.value.is_some() {
            // The place is empty also after a panic: an assignment that unwinds has been carried out.
            let _ = guard(this.watch, || this.value.set(None));
        }
    }

    /// Drops the value and puts another one into its place.
    pub(crate) fn put(mut self: Pin<&mut Self>, value: T) {
        self.as_mut().clear();
        self.project().value.set(Some(value));
    }
}

impl<F: Future, W: Watch> Future for Guarded<F, W> {
    /// Nothing if it panicked.
    type Output = Option<F::Output>;

    /// The future is dropped as soon as it is done.
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let output = match self.as_mut().run(|future, _| future.poll(task)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(output)) => Some(output),
            None => None,
        };
        self.clear();
        Poll::Ready(output)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        pin::pin,
        task::Waker,
    };

    use super::*;

    #[derive(Default)]
    struct Log(RefCell<Vec<String>>);

    impl Watch for Log {
        fn panicked(&self, panic: &Panic) {
            self.0.borrow_mut().push(panic.text().to_owned());
        }
    }

    struct Bomb<'a>(&'a Cell<u32>);

    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            panic!("drop");
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panicking_drop_is_reported_and_happens_once() {
        let (log, drops) = (Log::default(), Cell::new(0));
        drop(Guarded::new(Bomb(&drops), &log));
        {
            let mut guarded = pin!(Guarded::new(Bomb(&drops), &log));
            guarded.as_mut().clear();
            guarded.as_mut().clear();
            guarded.as_mut().put(Bomb(&drops));
        }
        assert_eq!((drops.get(), log.0.borrow().len()), (3, 3));
    }

    #[test]
    fn a_future_is_caught_wherever_it_panics() {
        let log = Log::default();
        let drops = Cell::new(0);
        let mut value = pin!(Guarded::new(async { 7 }, &log));
        assert_eq!(poll(value.as_mut()), Poll::Ready(Some(7)));
        assert!(log.0.borrow().is_empty());

        let mut panics = pin!(Guarded::new(async { panic!("poll") }, &log));
        assert_eq!(poll(panics.as_mut()), Poll::Ready(None::<()>));

        // Its end does not drop the value, its own drop does.
        let bomb = Bomb(&drops);
        let future = std::future::poll_fn(move |_| {
            let _ = &bomb;
            Poll::Ready(7)
        });
        let mut panics = pin!(Guarded::new(future, &log));
        assert_eq!(poll(panics.as_mut()), Poll::Ready(Some(7)));
        assert_eq!(drops.get(), 1);
        assert_eq!(*log.0.borrow(), ["poll", "drop"]);
    }

    #[test]
    fn what_a_panic_carries_may_panic_too() {
        struct Payload;
        impl Drop for Payload {
            fn drop(&mut self) {
                std::panic::panic_any(Self);
            }
        }
        let caught = caught(|| std::panic::panic_any(Payload));
        assert_eq!(
            caught.map_err(|panic| panic.0),
            Err::<(), _>("(no text)".to_owned())
        );
    }
}
