//! Operations on sessions of other frontends.

use shaddock_cluster::{ServerId, SessionAnswer, SessionOp};

use super::SessionError;
use crate::{app::AppHandle, received};

/// Requests operations on sessions from their frontends.
#[derive(Clone, Copy)]
pub(crate) struct SessionCalls<'a> {
    app: &'a AppHandle,
}

impl<'a> SessionCalls<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Asks the frontend of a session to do something to it.
    pub(crate) async fn ask(
        self,
        frontend: &ServerId,
        op: SessionOp,
    ) -> Result<SessionAnswer, SessionError> {
        let context = received::for_call(self.app.config().rpc_timeout);
        Ok(self
            .app
            .membership()?
            .session_op(frontend, op, context)
            .await?)
    }
}
