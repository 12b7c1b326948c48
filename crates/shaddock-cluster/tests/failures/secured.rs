//! NATS and etcd that want to know who connects, over TLS: every kind of login, and that no secret is in an error.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use shaddock_cluster::{
    Cluster, ClusterError, JoinOptions, NatsCluster, NatsConfig, NatsLogin, ServerInfo, TlsFiles,
};

use crate::support::node::{TestNode, works};
use crate::support::servers::{Backing, EtcdServer, NatsServer, config};
use crate::{SECOND, join};

const SECRET: &str = "s3cret";
/// An nkey out of NATS' documentation.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// Certificates in a directory that goes with this value: `ca.pem`, and `server` and `client` with their keys.
struct Certificates(PathBuf);

impl Certificates {
    fn make(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("shaddock-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let params = CertificateParams::new(names).unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(
                directory.join(format!("{name}-key.pem")),
                key.serialize_pem(),
            )
            .unwrap();
        }
        Self(directory)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn ca(&self) -> TlsFiles {
        TlsFiles::default().ca(self.0.join("ca.pem"))
    }

    fn client(&self) -> TlsFiles {
        self.ca()
            .client(self.0.join("client.pem"), self.0.join("client-key.pem"))
    }

    fn of_nats(&self) -> Vec<String> {
        vec![
            "--tlsverify".to_owned(),
            format!("--tlscert={}", self.file("server.pem")),
            format!("--tlskey={}", self.file("server-key.pem")),
            format!("--tlscacert={}", self.file("ca.pem")),
        ]
    }

    fn of_etcd(&self) -> Vec<String> {
        vec![
            "--client-cert-auth".to_owned(),
            format!("--cert-file={}", self.file("server.pem")),
            format!("--key-file={}", self.file("server-key.pem")),
            format!("--trusted-ca-file={}", self.file("ca.pem")),
        ]
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Kind<'a> = (&'a str, Vec<&'a str>, String, NatsLogin);

/// Two servers join and talk.
async fn talks(config: &NatsConfig) {
    let front = join(config, "front-1", "connector").await;
    let back = join(config, "chat-1", "chat").await;
    front.sees("chat-1").await;
    works(&front, &back).await;
    front.member.leave().await;
    back.member.leave().await;
}

/// The error of a configuration that cannot join. It contains no secret, and neither does the `Debug` output of the configuration.
async fn refused(config: &NatsConfig) -> String {
    let joined = async {
        let info = ServerInfo::new("front-1", "connector", true).unwrap();
        let node = std::sync::Arc::new(TestNode::default());
        NatsCluster::new(config.clone())?
            .join(info, JoinOptions::new(), node)
            .await
    };
    let Err(error) = joined.await.map(|_| ()) else {
        panic!("it joined")
    };
    let text = format!("{error} {error:?}");
    for secret in [SECRET, SEED] {
        assert!(!text.contains(secret), "{text}");
        assert!(!format!("{config:?}").contains(secret), "{config:?}");
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_urls_and_every_login() {
    let etcd = EtcdServer::start();
    let nkey = std::env::temp_dir().join(format!("shaddock-nkey-{}.conf", std::process::id()));
    std::fs::write(
        &nkey,
        format!("authorization {{ users = [{{ nkey: {PUBLIC} }}] }}"),
    )
    .unwrap();
    let nkey_file = nkey.display().to_string();
    let user = NatsLogin::User("ann".to_owned(), SECRET.into());
    let kinds: [Kind<'_>; 4] = [
        (
            "user",
            vec!["--user", "ann", "--pass", SECRET],
            format!("ann:{SECRET}@"),
            user,
        ),
        (
            "token",
            vec!["--auth", SECRET],
            format!("{SECRET}@"),
            NatsLogin::Token(SECRET.into()),
        ),
        (
            "nkey",
            vec!["-c", &nkey_file],
            String::new(),
            NatsLogin::Nkey(SEED.into()),
        ),
        ("nobody", vec![], String::new(), NatsLogin::None),
    ];
    for (kind, arguments, in_url, login) in kinds {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let nats = NatsServer::start_with(&arguments);
        let mut settings = config(nats.address, etcd.address);
        settings.nats_connect_timeout = SECOND;
        settings.nats_login = login.clone();
        talks(&settings).await;
        if !in_url.is_empty() {
            settings.nats_login = NatsLogin::None;
            // The first one is not there.
            settings.nats_urls = [1, nats.address.port()]
                .map(|port| format!("nats://{in_url}127.0.0.1:{port}").into())
                .to_vec();
            talks(&settings).await;
            settings.nats_login = login;
            assert!(matches!(
                settings.validate(),
                Err(ClusterError::Setting {
                    key: "nats_urls",
                    ..
                })
            ));
            settings.nats_login = NatsLogin::None;
        }
        if kind != "nobody" {
            settings.nats_login = NatsLogin::None;
            settings.nats_urls = vec![format!("nats://bob:not-{SECRET}@{}", nats.address).into()];
            let said = refused(&settings).await;
            assert!(said.contains("authorization violation"), "{kind}: {said}");
            assert!(said.contains(&nats.address.to_string()), "{said}");
        }
    }
    let _ = std::fs::remove_file(nkey);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_over_tls_with_certificates_of_clients() {
    let certificates = Certificates::make("both");
    let nats = NatsServer::start_with(&certificates.of_nats());
    let etcd = EtcdServer::start_with("https", &certificates.of_etcd());
    let mut settings = config(nats.address, etcd.address);
    settings.nats_connect_timeout = SECOND;
    settings.etcd_timeout = SECOND;
    settings.nats_tls = certificates.client();
    settings.etcd_tls = certificates.client();
    talks(&settings).await;
    settings.nats_urls = vec![format!("tls://{}", nats.address).into()];
    settings.etcd_endpoints = vec![format!("https://{}", etcd.address).into()];
    talks(&settings).await;

    let mut stranger = settings.clone();
    stranger.nats_tls = certificates.ca();
    assert!(
        refused(&stranger)
            .await
            .starts_with("NATS at tls://127.0.0.1")
    );
    let mut stranger = settings.clone();
    stranger.etcd_tls = certificates.ca();
    assert!(
        refused(&stranger)
            .await
            .starts_with("etcd at https://127.0.0.1")
    );
    let mut distrusts = settings.clone();
    distrusts.nats_tls = TlsFiles::default();
    let said = refused(&distrusts).await;
    assert!(said.contains("certificate"), "{said}");
    let mut missing = settings.clone();
    missing.etcd_tls = TlsFiles::default().ca(Path::new("/nowhere/ca.pem"));
    assert!(refused(&missing).await.contains("/nowhere/ca.pem"));
    let mut plain = settings.clone();
    plain.etcd_endpoints = vec![format!("http://{}", etcd.address).into()];
    assert!(refused(&plain).await.contains("etcd_endpoints"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_with_a_password() {
    let backing = Backing::start();
    for arguments in [
        &["user", "add", "root:s3cret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        backing.etcd.etcdctl(arguments);
    }
    let mut settings = backing.config();
    settings.etcd_user = Some(("root".to_owned(), SECRET.into()));
    talks(&settings).await;
    settings.etcd_user = Some(("root".to_owned(), format!("not-{SECRET}").into()));
    let said = refused(&settings).await;
    assert!(said.contains("etcd"), "{said}");
    settings.etcd_user = None;
    settings.etcd_endpoints = vec![format!("root:{SECRET}@{}", backing.etcd.address).into()];
    assert!(refused(&settings).await.contains("etcd_endpoints"));
}
