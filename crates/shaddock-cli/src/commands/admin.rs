//! A client of the admin API.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use shaddock::{admin::ErrorBody, config::Config};
use tokio::net::TcpStream;

use crate::ConfigSource;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: usize = 64 << 20;

/// Which server is asked. The defaults are those of the server's own configuration.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[command(flatten)]
    source: ConfigSource,
    /// Address of the admin server; default: `admin.address` of the configuration
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<SocketAddr>,
    /// Token of the admin server; default: `admin.token` of the configuration (SHADDOCK_ADMIN__TOKEN)
    #[arg(long)]
    token: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// An admin server.
pub(super) struct Admin {
    address: SocketAddr,
    token: String,
}

impl Admin {
    pub(super) fn of(target: &Target) -> Result<Self, Error> {
        let config = Config::load(&target.source.clone().sources())?;
        let configured = || {
            // A server that listens everywhere is reached on loopback from here.
            config.admin_address().map(|mut address| {
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                address
            })
        };
        Ok(Self {
            address: target
                .admin
                .or_else(configured)
                .ok_or("the configuration has no `admin.address`; use --admin")?,
            token: target.token.clone().unwrap_or(config.admin.token),
        })
    }

    pub(super) fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Error> {
        self.call(Method::GET, path, Vec::new())
    }

    pub(super) fn post<R: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<R, Error> {
        self.call(Method::POST, path, serde_json::to_vec(body)?)
    }

    fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<R, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let call = self.exchange(method, path, body);
            match tokio::time::timeout(PATIENCE, call).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("{} does not answer", self.address).into()),
            }
        })
    }

    async fn exchange<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<R, Error> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| {
            format!(
                "no admin server at {} ({error}); is the server running, and is `admin.address` right?",
                self.address
            )
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            let value = format!("Bearer {}", self.token);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let text = Limited::new(response.into_body(), LONGEST)
            .collect()
            .await?
            .to_bytes();
        drop(sender);
        connection.abort();
        read(status, &text)
    }
}

fn read<R: DeserializeOwned>(status: StatusCode, text: &[u8]) -> Result<R, Error> {
    if status.is_success() {
        return Ok(serde_json::from_slice(text)?);
    }
    match serde_json::from_slice::<ErrorBody>(text) {
        Ok(body) => Err(body.error.message.into()),
        Err(_) => Err(format!("the admin server answered {status}").into()),
    }
}

/// `text` as a value in a query.
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
    fn errors_say_what_the_server_said() {
        let text = br#"{"error":{"code":"bad_request","message":"say who"}}"#;
        let error = read::<u8>(StatusCode::BAD_REQUEST, text).unwrap_err();
        assert_eq!(error.to_string(), "say who");
        let error = read::<u8>(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert!(error.to_string().contains("502"));
    }
}
