//! Extractors of what the framework itself has for a request: the session in each of its forms, the channels, the sessions of other servers.

use super::{FromParts, Parts, Requirements};
use crate::{
    channel::Channels,
    error::HandlerError,
    session::{BackendSession, BackendSessions, FrontendSession, SessionView},
};

impl FromParts for SessionView {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(parts.request()?.session().clone())
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("SessionView");
    }
}

impl FromParts for FrontendSession {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Self::try_from_view(parts.request()?.session().clone())
            .ok_or_else(|| HandlerError::internal("the session is on another server"))
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("FrontendSession");
        needs.frontend("FrontendSession");
    }
}

impl FromParts for BackendSession {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Self::try_from_view(parts.request()?.session().clone())
            .ok_or_else(|| HandlerError::internal("the session is on this server"))
    }

    fn requirements(needs: &mut Requirements) {
        needs.request("BackendSession");
        needs.backend("BackendSession");
    }
}

impl FromParts for Channels {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(parts.app().channels())
    }
}

impl FromParts for BackendSessions {
    fn from_parts(parts: &Parts<'_>) -> Result<Self, HandlerError> {
        Ok(parts.app().backend_sessions())
    }
}
