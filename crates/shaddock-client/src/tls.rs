//! TLS: the trusted certificates.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, WantsVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::transport::BoxIo;
use crate::{AddressError, ConnectError};

/// The certificates that are trusted on `tls` and `wss` addresses. Cheap to clone. Default: those of the system.
#[derive(Clone, Default)]
pub struct TlsOptions(Trust);

#[derive(Clone, Default)]
enum Trust {
    /// Read from the system at each connect.
    #[default]
    System,
    Config(Arc<ClientConfig>),
}

impl TlsOptions {
    /// Trusts the root certificates of the system, which are read at each connect.
    pub fn system_roots() -> Self {
        Self::default()
    }

    /// Trusts only the certificates in a PEM text: certificates signed by one of them, and themselves. (`openssl req -x509` creates
    /// certificates that may sign others but are presented by servers.)
    ///
    /// # Errors
    ///
    /// [`ConnectError::Roots`]: the text contains no certificate, or an invalid one.
    pub fn roots_pem(pem: &[u8]) -> Result<Self, ConnectError> {
        let failed = |error: &dyn fmt::Display| ConnectError::Roots(error.to_string());
        let mut roots = RootCertStore::empty();
        let mut listed = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| failed(&error))?;
            listed.push(certificate.clone());
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        if roots.is_empty() {
            return Err(failed(&"no certificate in the text"));
        }
        let roots = Arc::new(roots);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let webpki = webpki.map_err(|error| failed(&error))?;
        let verifier = Arc::new(OrListed { webpki, listed });
        let config = builder()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self::config(Arc::new(config)))
    }

    /// Uses a custom configuration: client certificates, other versions, another provider.
    pub fn config(config: Arc<ClientConfig>) -> Self {
        Self(Trust::Config(config))
    }

    /// Trusts **every** certificate, including expired ones and those of other servers: an attacker between client and server can read and
    /// change everything. For tests only.
    pub fn dangerous_accept_any_certificate() -> Self {
        let config = builder().map(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny(provider())))
                .with_no_client_auth()
        });
        match config {
            Ok(config) => Self::config(Arc::new(config)),
            // ring supports the default versions. If it did not, trusting no additional certificate would be safe.
            Err(_) => Self::default(),
        }
    }

    /// The rustls configuration for these options, for your own connections.
    ///
    /// With [`system_roots`](Self::system_roots) it reads files: do not call it on a thread that must not block.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Roots`]: the system has no usable certificates.
    pub fn to_client_config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        match &self.0 {
            Trust::Config(config) => Ok(config.clone()),
            Trust::System => system(),
        }
    }

    /// Performs the TLS handshake on `socket`.
    pub(crate) async fn connect(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> Result<BoxIo, ConnectError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| AddressError::Host)?;
        let config = match &self.0 {
            Trust::Config(config) => config.clone(),
            Trust::System => tokio::task::spawn_blocking(system)
                .await
                .map_err(|error| ConnectError::Roots(error.to_string()))??,
        };
        let stream = TlsConnector::from(config)
            .connect(name, socket)
            .await
            .map_err(ConnectError::Tls)?;
        Ok(Box::new(stream))
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Trust::System => "TlsOptions(system roots)",
            Trust::Config(_) => "TlsOptions(own configuration)",
        })
    }
}

/// Reads files, so it runs on a thread where blocking is allowed.
fn system() -> Result<Arc<ClientConfig>, ConnectError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| "this system has none".to_owned());
        return Err(ConnectError::Roots(reason));
    }
    with_roots(roots)
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, ConnectError> {
    let config = builder()?.with_root_certificates(roots);
    Ok(Arc::new(config.with_no_client_auth()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, ConnectError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Tls(io::Error::other(error)))
}

/// Accepts certificates that are valid as usual, and those of a list, although they may sign others, which a server's should not.
#[derive(Debug)]
struct OrListed {
    webpki: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrListed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usual = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Errors of validity or signature have their own variants.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.listed.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Accepts every certificate. The handshake itself is still verified: the server has the key of its certificate.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
