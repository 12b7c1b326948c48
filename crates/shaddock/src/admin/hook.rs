//! Requests to the admin routes of an app.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde::de::DeserializeOwned;

use crate::error::HandlerError;

/// An operator's request to a route of [`App::admin_route`](crate::App::admin_route).
#[derive(Debug, Clone)]
pub struct AdminRequest {
    pub(super) is_post: bool,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

impl AdminRequest {
    /// Whether the request may change something: it is a `POST`. A `GET` only reads.
    pub const fn is_post(&self) -> bool {
        self.is_post
    }

    /// A parameter of the query: `"7"` for `level` in `?level=7`.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Deserializes the body of a `POST`, which is JSON.
    ///
    /// # Errors
    /// The body does not fit the type: the operator receives 400.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| HandlerError::bad_request(format!("the body: {error}")))
    }
}
