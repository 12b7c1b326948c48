//! Waiting for what must happen, and for nothing else. Machines are slow and busy: what must happen has half a minute, and a test that says how
//! long something takes compares it with something that would take longer than that.
#![allow(dead_code, unreachable_pub, clippy::missing_panics_doc)]

use std::time::{Duration, Instant};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(2);

/// Waits until something holds; says what did not.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, async || holds()).await;
}

/// The same, for what has to be asked.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        breathe().await;
    }
}

/// Asserts that something holds for so long, whatever happens to servers that run in real time.
pub async fn throughout(time: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + time;
    let mut look = tokio::time::interval(LOOK * 20);
    while Instant::now() < end {
        assert!(holds().await, "{what}");
        look.tick().await;
    }
}

/// Waits until a process stands still that was sent SIGSTOP: on a busy machine its threads go on for a moment.
pub fn stopped(pid: u32) {
    found("the process stands still", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let is_still = threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which can contain anything but this.
            let state = stat.rsplit(')').next().unwrap_or_default();
            state.trim_start().starts_with('T')
        });
        is_still.then_some(())
    });
}

/// A moment for everything else on this machine: between two looks, between two requests of a load.
pub async fn breathe() {
    tokio::time::sleep(LOOK).await;
}

/// Waits on this thread until there is something; says what did not come.
#[track_caller]
pub fn found<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK);
    }
}
