//! Frontends that are gone.

use shaddock_cluster::{RemoteError, RemoteErrorKind};

/// Whether an error says that the frontend is not there, and so has no sessions.
pub(super) fn is_gone(error: &RemoteError) -> bool {
    matches!(
        error.kind(),
        RemoteErrorKind::NoServer | RemoteErrorKind::NoResponder
    )
}
