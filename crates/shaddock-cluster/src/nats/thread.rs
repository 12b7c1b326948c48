//! The thread of a server's cluster tasks: blocked code of the application stops neither its lease nor its link.

use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ClusterError;

/// How long the thread runs after its server is gone, for messages that were sent last.
const LINGER: Duration = Duration::from_secs(1);
/// How long it runs at most for work that is pending then, such as the release of an id at a slow etcd.
const LONGEST: Duration = Duration::from_secs(30);

/// A thread with a runtime. It ends soon after this value.
pub(super) struct Thread {
    handle: Handle,
    _end: Option<oneshot::Sender<()>>,
}

impl Thread {
    /// Starts a thread, or uses a runtime that is managed elsewhere.
    pub(super) fn start(given: Option<Handle>) -> Result<Self, ClusterError> {
        if let Some(handle) = given {
            return Ok(Self { handle, _end: None });
        }
        let failed = |error: std::io::Error| ClusterError::Unreachable {
            what: "the operating system",
            address: "this machine".to_owned(),
            reason: format!("a thread cannot be started: {error}"),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("shaddock-link".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let _ = ended.await;
                    let end = Instant::now() + LONGEST;
                    loop {
                        tokio::time::sleep(LINGER).await;
                        let under_way = Handle::current().metrics().num_alive_tasks();
                        if under_way == 0 || Instant::now() > end {
                            break;
                        }
                    }
                });
            })
            .map_err(failed)?;
        Ok(Self {
            handle,
            _end: Some(end),
        })
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_ended() {
        let thread = Thread::start(None).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        thread.handle().spawn(async move {
            tokio::time::sleep(LINGER * 2).await;
            done.send(()).unwrap();
        });
        drop(thread);
        assert_eq!(is_done.recv(), Ok(()));
    }
}
