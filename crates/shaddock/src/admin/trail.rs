//! The caller of a request, for the audit log.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{
    audit::{Audit, Line},
    tokens::Caller,
};

/// The caller, and the audit log.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    /// `None`: a web server shows the API without an audit log.
    audit: Option<Audit>,
    who: String,
}

impl<S: Sync> FromRequestParts<S> for Trail {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<Caller>();
        Ok(Self {
            audit: parts.extensions.get::<Audit>().cloned(),
            who: caller.map(|caller| caller.name.clone()).unwrap_or_default(),
        })
    }
}

impl Trail {
    /// Writes the audit line of a command of this caller.
    pub(super) async fn note(&self, mut line: Line) {
        line.who.clone_from(&self.who);
        if let Some(audit) = &self.audit {
            audit.write(&line).await;
        }
    }
}
