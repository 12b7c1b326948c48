//! A client of the admin API.

use std::{fmt, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use shaddock::admin::ErrorBody;
use tokio::net::TcpStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an answer may take; longer than `admin.cluster_timeout` can be.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to see whether there is an admin server.
const PROBE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const LONGEST: usize = 64 << 20;

/// An admin server.
pub(super) struct Admin {
    /// Host and port.
    pub(super) address: String,
    pub(super) token: String,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not respond.
    NoServer(String),
    /// It is there and says that what is asked for is not.
    NotFound(String),
    /// Anything else.
    Other(BoxError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer(text) | Self::NotFound(text) => f.write_str(text),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    fn other(error: impl Into<BoxError>) -> Self {
        Self::Other(error.into())
    }
}

impl Admin {
    /// Whether a server responds.
    pub(super) async fn probe(&self) -> Result<(), Failure> {
        let asked = self.exchange(Method::GET, "/healthz", Vec::new(), None);
        match tokio::time::timeout(PROBE, asked).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Failure::NoServer(format!(
                "{} does not answer",
                self.address
            ))),
        }
    }

    pub(super) async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Failure> {
        self.call(Method::GET, path, Vec::new(), None).await
    }

    pub(super) async fn post<R: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<R, Failure> {
        self.post_once(path, body, None).await
    }

    /// With an idempotency key.
    pub(super) async fn post_once<R: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: Option<&str>,
    ) -> Result<R, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::other)?;
        self.call(Method::POST, path, body, key).await
    }

    async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        key: Option<&str>,
    ) -> Result<R, Failure> {
        let call = self.exchange(method, path, body, key);
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => {
                let (status, text) = answer?;
                read(status, &text)
            }
            Err(_) => Err(Failure::other(format!("{} does not answer", self.address))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        key: Option<&str>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| {
            Failure::NoServer(format!(
                "no admin server at {} ({error}); is the server running, and is `admin.address` right?",
                self.address
            ))
        })?;
        let lost = |error: hyper::Error| Failure::NoServer(format!("{}: {error}", self.address));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            let value = format!("Bearer {}", self.token);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(Failure::other)?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let text = Limited::new(response.into_body(), LONGEST)
            .collect()
            .await
            .map_err(Failure::Other)?
            .to_bytes();
        drop(sender);
        connection.abort();
        Ok((status, text))
    }
}

fn read<R: DeserializeOwned>(status: StatusCode, text: &[u8]) -> Result<R, Failure> {
    if status.is_success() {
        return serde_json::from_slice(text).map_err(Failure::other);
    }
    match serde_json::from_slice::<ErrorBody>(text) {
        Ok(body) if status == StatusCode::NOT_FOUND => Err(Failure::NotFound(body.error.message)),
        Ok(body) => Err(Failure::other(body.error.message)),
        Err(_) => Err(Failure::other(format!(
            "the admin server answered {status}"
        ))),
    }
}

/// `text` as a value in a query or a part of a path.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        // Writing to a String does not fail.
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.write_char(char::from(byte))
            }
            _ => write!(out, "%{byte:02X}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("alice*room 1&x"), "alice%2Aroom%201%26x");
    }

    #[test]
    fn errors_contain_the_servers_message() {
        let text = br#"{"error":{"code":"bad_request","message":"say who"}}"#;
        let error = read::<u8>(StatusCode::BAD_REQUEST, text).unwrap_err();
        assert_eq!(error.to_string(), "say who");
        let error = read::<u8>(StatusCode::NOT_FOUND, text).unwrap_err();
        assert!(matches!(error, Failure::NotFound(_)));
        let error = read::<u8>(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert!(error.to_string().contains("502"));
    }
}
