//! TLS of a listener on `rustls`: certificates from PEM files, replaced without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::current::Current;

/// Why certificate and key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or has no PEM section of the right kind.
    #[error("cannot read {what} from {path}")]
    File {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: pem::Error,
    },
    /// The certificate file contains no certificate.
    #[error("no certificate in {path}")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not match, or are of a kind that rustls rejects.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// The files of certificate chain and private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

impl TlsFiles {
    fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = read_chain(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| TlsError::File {
            what: "private key",
            path: self.key.clone(),
            source,
        })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Unusable)?;
        // Game clients stay connected; tickets would be made for every handshake and hardly ever used.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File {
        what: "certificate",
        path: path.to_path_buf(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(file)?
        .collect::<Result<_, _>>()
        .map_err(file)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_path_buf(),
        });
    }
    Ok(chain)
}

/// The TLS side of a listener. Handshakes use the certificate that was loaded last.
#[derive(Debug)]
pub struct TlsReloader {
    files: TlsFiles,
    current: Current<ServerConfig>,
}

impl TlsReloader {
    /// Loads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the reason.
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = Current::new(files.load()?);
        Ok(Arc::new(Self { files, current }))
    }

    /// Reads the files again. Open connections keep their certificate.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = self.files.load()?;
        self.current.set(fresh);
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.get())
    }
}
