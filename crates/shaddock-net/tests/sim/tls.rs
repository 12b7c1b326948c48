//! TLS without a socket: the certificate of the servers, and the client's end as a machine of bytes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    sync::{Arc, LazyLock},
};

use bytes::BytesMut;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, client::Resumption, pki_types::ServerName,
};
use shaddock_net::{TlsFiles, TlsReloader};

struct Tls {
    server: Arc<TlsReloader>,
    client: Arc<ClientConfig>,
}

static TLS: LazyLock<Tls> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("shaddock-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = TlsFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let server = TlsReloader::new(files).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Each connection is a whole handshake, whatever was cut before.
    client.resumption = Resumption::disabled();
    Tls {
        server,
        client: Arc::new(client),
    }
});

/// The certificate of the servers.
pub fn certificate() -> Arc<TlsReloader> {
    Arc::clone(&TLS.server)
}

/// The client's end of one connection.
pub struct ClientTls(ClientConnection);

impl ClientTls {
    pub fn new() -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        Self(ClientConnection::new(Arc::clone(&TLS.client), name).unwrap())
    }

    /// Encrypts what the client says, and returns what is to be sent now. Before the handshake is done, what it says waits.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// Decrypts what has arrived, and appends what the server has said to `out`.
    pub fn open(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> Result<(), String> {
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).map_err(|e| e.to_string())?;
            self.0.process_new_packets().map_err(|e| e.to_string())?;
            let mut said = Vec::new();
            match self.0.reader().read_to_end(&mut said) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
            out.extend_from_slice(&said);
        }
        Ok(())
    }
}
