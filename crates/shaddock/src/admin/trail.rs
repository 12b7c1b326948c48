//! Who calls, for a line in the audit log about what they did.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{
    audit::{Audit, Line},
    tokens::Caller,
};

/// Who calls, and where that is noted.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    /// `None`: a web server shows the API and keeps no such log.
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
    /// Notes what this caller did.
    pub(super) async fn note(&self, mut line: Line) {
        line.who.clone_from(&self.who);
        if let Some(audit) = &self.audit {
            audit.write(&line).await;
        }
    }
}
