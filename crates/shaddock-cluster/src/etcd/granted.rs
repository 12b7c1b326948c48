//! A lease between its grant and its use.

use tokio::runtime::Handle;

use super::Etcd;

/// A lease that was just granted. Nothing hangs on it for longer than it is of use: if it is dropped before, the lease is revoked.
pub(super) struct Granted<'a> {
    etcd: &'a Etcd,
    pub(super) id: i64,
    is_open: bool,
}

impl<'a> Granted<'a> {
    pub(super) const fn new(etcd: &'a Etcd, id: i64) -> Self {
        let is_open = true;
        Self { etcd, id, is_open }
    }

    /// The server keeps it alive from now on.
    pub(super) fn keep(mut self) {
        self.is_open = false;
    }

    pub(super) async fn hand_back(mut self) {
        // It ends by itself otherwise.
        let _ = self.etcd.revoke(self.id).await;
        self.is_open = false;
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.is_open, Handle::try_current()) {
            let (etcd, id) = (self.etcd.clone(), self.id);
            runtime.spawn(async move { etcd.revoke(id).await });
        }
    }
}
