//! Mistakes in the configuration of a backend.

/// The reason why the configuration of a backend is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No URL was given.
    #[error("a backend requires at least one URL, such as \"http://127.0.0.1:8000/shaddock\"")]
    NoUrl,
    /// The text is not a valid URL of a backend.
    #[error("\"{url}\" {reason}")]
    Url {
        /// The text.
        url: String,
        /// The mistake, and how to correct it.
        reason: &'static str,
    },
    /// The secret is not a valid key. The text is not shown.
    #[error(
        "a secret must be \"whsec_\" and 24 to 64 bytes in base64; generate one with: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Secret,
    /// The trusted certificates cannot be used.
    #[error(
        "the certificate authorities for services over TLS cannot be used: {0}; set `ca` to a PEM file"
    )]
    Roots(String),
    /// The path of the health check is invalid.
    #[error(
        "\"{0}\" is not a path for a health check; write it from the root of the host, such as \"/healthz\""
    )]
    Health(String),
    /// More keys than a rotation requires.
    #[error("at most two secrets may be set: the new one and the old one")]
    Secrets,
}
