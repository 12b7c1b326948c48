//! Connections that other frontends have accepted, on their way to a worker.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Waker,
};

use parking_lot::{Mutex, MutexGuard};

use crate::driver::Relayed;

/// Connections of other frontends that may wait for a worker. Those above are refused.
const MAX_ARRIVALS: usize = 4096;

/// Connections that other frontends have accepted, on their way to a worker.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Read by every poll of the worker's task.
    is_some: AtomicBool,
    waiting: Mutex<Arriving>,
}

#[derive(Default)]
struct Arriving {
    list: Vec<Relayed>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Arriving> {
        self.waiting.lock()
    }

    pub(super) fn add(&self, relayed: Box<Relayed>) -> Result<(), Box<Relayed>> {
        let mut arriving = self.lock();
        if arriving.is_closed || arriving.list.len() >= MAX_ARRIVALS {
            return Err(relayed);
        }
        arriving.list.push(*relayed);
        self.is_some.store(true, Ordering::Release);
        drop(arriving);
        self.wake();
        Ok(())
    }

    /// Wakes the task.
    pub(super) fn wake(&self) {
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Registers the task that takes them from now on.
    pub(super) fn watch(&self, waker: &Waker) {
        let mut arriving = self.lock();
        arriving.is_closed = false;
        arriving.waker = Some(waker.clone());
    }

    #[inline]
    pub(super) fn take(&self) -> Vec<Relayed> {
        if !self.is_some.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut arriving = self.lock();
        self.is_some.store(false, Ordering::Release);
        std::mem::take(&mut arriving.list)
    }

    /// Accepts none any more, unless some wait.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut arriving = self.lock();
        arriving.is_closed = arriving.list.is_empty();
        arriving.is_closed
    }

    /// Accepts none any more. Those that wait find no session.
    pub(super) fn close(&self) {
        let mut arriving = self.lock();
        arriving.is_closed = true;
        let left = (std::mem::take(&mut arriving.list), arriving.waker.take());
        drop(arriving);
        drop(left);
    }
}
