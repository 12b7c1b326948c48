//! The server: its address, how to reach it, and what is said to it first.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use shaddock_protocol::{PackageType, encode_package};

use crate::{
    args::{ClientDialect, TargetArgs},
    ws,
};

/// Flags that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `scheme://host:port`.
    #[error("`{0}` is no address: say tcp://host:port, tls://, ws:// or wss://")]
    Url(String),
    /// The host has no address.
    #[error("`{0}` cannot be resolved: {1}")]
    Resolve(String, String),
    /// The certificate authority cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A route that the protocol cannot express.
    #[error("a route has 1 to 255 bytes: `{0}`")]
    Route(String),
}

/// Everything that a connection needs to know of the server. One for the whole run.
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
    pub(crate) routes: Routes,
}

/// How to speak TLS.
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
            handshake: handshake(args.dialect),
            routes: Routes {
                echo: route(&args.echo_route)?,
                bind: route(&args.bind_route)?,
                push: route(&args.push_route)?,
                push_event: route(&args.push_event)?,
            },
        })
    }
}

fn route(text: &str) -> Result<Bytes, TargetError> {
    if text.is_empty() || text.len() > shaddock_protocol::MAX_ROUTE_LEN {
        return Err(TargetError::Route(text.to_owned()));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn handshake(dialect: ClientDialect) -> Bytes {
    let version = env!("CARGO_PKG_VERSION");
    let sys = match dialect {
        ClientDialect::Pomelo => {
            serde_json::json!({"type": "shaddock-bench", "version": version, "rsa": {}})
        }
        ClientDialect::Pitaya => serde_json::json!({
            "platform": "shaddock-bench", "libVersion": version,
            "clientBuildNumber": "1", "clientVersion": version,
        }),
    };
    let body = serde_json::json!({"sys": sys, "user": {}}).to_string();
    // A hundred bytes always fit into a package.
    encode_package(PackageType::Handshake, body.as_bytes()).unwrap_or_default()
}

impl Tls {
    fn new(host: &str, args: &TargetArgs) -> Result<Self, TargetError> {
        let tls = |error: &dyn std::fmt::Display| TargetError::Tls(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?;
        let config = if args.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth()
        } else {
            let file = args.ca.as_deref().ok_or_else(|| {
                TargetError::Tls("a TLS server needs --ca FILE or --insecure".to_owned())
            })?;
            builder
                .with_root_certificates(roots(file)?)
                .with_no_client_auth()
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host).map_err(|error| tls(&error))?;
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }
}

fn roots(file: &Path) -> Result<RootCertStore, TargetError> {
    let failed =
        |error: &dyn std::fmt::Display| TargetError::Tls(format!("{}: {error}", file.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    Ok(roots)
}

/// `--insecure`: any certificate will do, but its key must be the one that signs.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
