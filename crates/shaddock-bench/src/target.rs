//! The server: its address, how to connect, and the handshake.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use rustls::{ClientConfig, pki_types::ServerName};
use shaddock_client::TlsOptions;
use shaddock_protocol::{MAX_BODY, PackageType, encode_package};

use crate::{
    args::{ClientDialect, TargetArgs},
    body::Bodies,
    counts::Counts,
    ws,
};

/// Bytes of a request's body that fit into a package, with the head and the longest route.
const MAX_REQUEST: usize = MAX_BODY - 512;

/// Invalid flags.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `scheme://host:port`.
    #[error("`{0}` is not an address: write tcp://host:port, tls://, ws:// or wss://")]
    Url(String),
    /// The host has no address.
    #[error("`{0}` cannot be resolved: {1}")]
    Resolve(String, String),
    /// The certificate authority is unusable.
    #[error("{0}")]
    Tls(String),
    /// A route that the protocol cannot express.
    #[error("a route has 1 to 255 bytes: `{0}`")]
    Route(String),
    /// A body that does not fit into a package.
    #[error("a body has at most {MAX_REQUEST} bytes, not {0}")]
    Body(usize),
    /// `--request-body` is not JSON.
    #[error("--request-body: {0}")]
    Json(serde_json::Error),
}

/// All data about the server that connections need. One for the whole run.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The scheme of the URL.
    pub(crate) transport: &'static str,
    pub(crate) tls: Option<Tls>,
    /// The upgrade request, if it is a WebSocket.
    pub(crate) upgrade: Option<String>,
    /// The HANDSHAKE package.
    pub(crate) handshake: Bytes,
    /// The dialect of the handshake.
    dialect: ClientDialect,
    /// Whether sessions are requested to be resumable.
    pub(crate) is_resumable: bool,
    pub(crate) routes: Routes,
    /// Those of the routes whose messages the scenario sends or reads.
    pub(crate) used: Vec<Bytes>,
    pub(crate) bodies: Bodies,
}

/// The TLS configuration.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// The routes of the bench.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) echo: Bytes,
    pub(crate) bind: Bytes,
    pub(crate) push: Bytes,
    pub(crate) push_event: Bytes,
}

impl Target {
    pub(crate) fn new(args: &TargetArgs) -> Result<Self, TargetError> {
        let bad_url = || TargetError::Url(args.url.clone());
        let (scheme, rest) = args.url.split_once("://").ok_or_else(bad_url)?;
        let (transport, is_tls, is_ws) = match scheme {
            "tcp" => ("tcp", false, false),
            "tls" => ("tls", true, false),
            "ws" => ("ws", false, true),
            "wss" => ("wss", true, true),
            _ => return Err(bad_url()),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, _port) = authority.rsplit_once(':').ok_or_else(bad_url)?;
        let resolve = |reason| TargetError::Resolve(authority.to_owned(), reason);
        let address = authority
            .to_socket_addrs()
            .map_err(|error| resolve(error.to_string()))?
            .next()
            .ok_or_else(|| resolve("no address".to_owned()))?;
        Ok(Self {
            address,
            transport,
            tls: if is_tls {
                Some(Tls::new(host, args)?)
            } else {
                None
            },
            upgrade: is_ws.then(|| ws::upgrade_request(authority, path)),
            handshake: handshake(
                args.dialect,
                args.resume.then(|| serde_json::json!({"v": 1})),
            ),
            dialect: args.dialect,
            is_resumable: args.resume,
            bodies: bodies(args)?,
            used: Vec::new(),
            routes: Routes {
                echo: route(&args.echo_route)?,
                bind: route(&args.bind_route)?,
                push: route(&args.push_route)?,
                push_event: route(&args.push_event)?,
            },
        })
    }
}

impl Target {
    /// The HANDSHAKE of a resuming client.
    pub(crate) fn handshake_back(&self, counts: &Counts) -> Bytes {
        handshake(self.dialect, Some(counts.ask()))
    }

    /// The HANDSHAKE of a connection that is not part of the load.
    pub(crate) fn handshake_plain(&self) -> Bytes {
        handshake(self.dialect, None)
    }
}

fn bodies(args: &TargetArgs) -> Result<Bodies, TargetError> {
    let given = args.request_body.as_deref();
    let length = given.map_or(args.body, str::len);
    if length > MAX_REQUEST {
        return Err(TargetError::Body(length));
    }
    let bodies = Bodies::new(args.body);
    let Some(given) = given else {
        return Ok(bodies);
    };
    serde_json::from_str::<serde_json::Value>(given).map_err(TargetError::Json)?;
    Ok(bodies.with_request(given))
}

fn route(text: &str) -> Result<Bytes, TargetError> {
    if text.is_empty() || text.len() > shaddock_protocol::MAX_ROUTE_LEN {
        return Err(TargetError::Route(text.to_owned()));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn handshake(dialect: ClientDialect, resume: Option<serde_json::Value>) -> Bytes {
    let version = env!("CARGO_PKG_VERSION");
    let mut sys = match dialect {
        ClientDialect::Pomelo => {
            serde_json::json!({"type": "shaddock-bench", "version": version, "rsa": {}})
        }
        ClientDialect::Pitaya => serde_json::json!({
            "platform": "shaddock-bench", "libVersion": version,
            "clientBuildNumber": "1", "clientVersion": version,
        }),
    };
    if let Some(resume) = resume {
        sys["resume"] = resume;
    }
    let body = serde_json::json!({"sys": sys, "user": {}}).to_string();
    // A body of some hundred bytes always fits into a package.
    encode_package(PackageType::Handshake, body.as_bytes()).unwrap_or_default()
}

impl Tls {
    fn new(host: &str, args: &TargetArgs) -> Result<Self, TargetError> {
        let tls = |error: &dyn std::fmt::Display| TargetError::Tls(error.to_string());
        let options = match &args.ca {
            _ if args.insecure => TlsOptions::dangerous_accept_any_certificate(),
            Some(file) => roots(file)?,
            None => TlsOptions::system_roots(),
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self {
            config: options.to_client_config().map_err(|error| tls(&error))?,
            name: ServerName::try_from(host).map_err(|error| tls(&error))?,
        })
    }
}

fn roots(file: &Path) -> Result<TlsOptions, TargetError> {
    let failed =
        |error: &dyn std::fmt::Display| TargetError::Tls(format!("{}: {error}", file.display()));
    let pem = std::fs::read(file).map_err(|error| failed(&error))?;
    TlsOptions::roots_pem(&pem).map_err(|error| failed(&error))
}
