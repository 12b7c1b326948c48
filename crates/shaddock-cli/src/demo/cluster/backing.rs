//! NATS and etcd: those that are configured, or our own.

use std::{
    fs::DirBuilder,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use shaddock::config::{Config, Origin};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use super::{
    Error,
    fleet::{Fleet, Kind, News},
    ports::free_address,
};

/// How long NATS or etcd may take to answer.
const START: Duration = Duration::from_secs(30);
/// Time between two looks whether it does.
const LOOK: Duration = Duration::from_millis(25);
/// The folder of Debian's programs that are not in every user's PATH.
const PLACES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/sbin"];

/// One of the two.
struct Service {
    name: &'static str,
    program: &'static str,
    package: &'static str,
    key: &'static str,
    example: &'static str,
}

const NATS: Service = Service {
    name: "nats",
    program: "nats-server",
    package: "nats-server",
    key: "cluster.nats_urls",
    example: "nats://HOST:4222",
};

const ETCD: Service = Service {
    name: "etcd",
    program: "etcd",
    package: "etcd-server",
    key: "cluster.etcd_endpoints",
    example: "HOST:2379",
};

/// The settings of the servers, and the programs that were started for them.
#[derive(Debug, Default)]
pub(super) struct Backing {
    settings: Vec<String>,
    started: Vec<(&'static str, String, String)>,
    directory: Option<PathBuf>,
}

impl Backing {
    /// Starts what is not configured, and waits until it answers.
    pub(super) async fn start(config: &Config, fleet: &mut Fleet) -> Result<Self, Error> {
        let is_missing = |service: &&Service| matches!(config.origin(service.key), Origin::Default);
        let missing: Vec<&Service> = [&NATS, &ETCD].into_iter().filter(is_missing).collect();
        // Before anything runs.
        let mut programs = Vec::new();
        for service in missing {
            programs.push((service, service.find()?));
        }
        let mut backing = Self::default();
        if programs.is_empty() {
            return Ok(backing);
        }
        let directory = scratch()?;
        for (service, program) in programs {
            let own = directory.join(service.name);
            let address = service.spawn(fleet, &program, &own)?;
            let pid = tokio::time::timeout(START, service.until_up(fleet, address)).await;
            let pid =
                pid.map_err(|_| format!("{} does not answer on {address}", service.program))??;
            let shown = service.shown(address);
            backing.settings.push(format!("{}={shown}", service.key));
            backing.started.push((service.name, pid, shown));
        }
        backing.directory = Some(directory);
        Ok(backing)
    }

    /// `section.key=value`, for the servers.
    pub(super) fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Name, process id and address of what was started.
    pub(super) fn started(&self) -> &[(&'static str, String, String)] {
        &self.started
    }

    /// Where it logs.
    pub(super) fn logs(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

/// A new directory that only this user can look into.
fn scratch() -> io::Result<PathBuf> {
    // The standard library's hasher has a random key.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let name = format!("shaddock-demo-{}-{random:x}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}

impl Service {
    fn find(&self) -> Result<PathBuf, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(PLACES.map(PathBuf::from))
            .map(|place| place.join(self.program))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                format!(
                    "{} is not installed. Install it (Debian: apt-get install {}), or name one that runs: --set {}={}",
                    self.program, self.package, self.key, self.example
                )
                .into()
            })
    }

    fn shown(&self, address: SocketAddr) -> String {
        if self.name == NATS.name {
            format!("nats://{address}")
        } else {
            address.to_string()
        }
    }

    /// Starts it with a directory and a port of its own.
    fn spawn(&self, fleet: &mut Fleet, program: &Path, own: &Path) -> Result<SocketAddr, Error> {
        DirBuilder::new().mode(0o700).create(own)?;
        let (held, address) = free_address(Ipv4Addr::LOCALHOST.into())?;
        let (held_too, peer) = free_address(Ipv4Addr::LOCALHOST.into())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("keep").arg("--directory").arg(own);
        command.arg("--").arg(program);
        if self.name == NATS.name {
            command.args(["-a", "127.0.0.1", "-p", &address.port().to_string()]);
        } else {
            // It takes settings from the environment, too.
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("ETCD_") {
                    command.env_remove(name);
                }
            }
            command.args(etcd_flags(address, peer, &own.join("data")));
        }
        // Let go at the last moment.
        drop((held, held_too));
        fleet.spawn(self.name, Kind::Keeper, &mut command)?;
        Ok(address)
    }

    /// Waits until it serves. Its process id.
    async fn until_up(&self, fleet: &mut Fleet, address: SocketAddr) -> Result<String, Error> {
        let pid = loop {
            match fleet.next().await {
                News::Said(name, pid) if name == self.name => break pid,
                News::Said(..) => {}
                News::Ended(name, how) => {
                    return Err(format!("{name} did not start: it {how}").into());
                }
            }
        };
        let up = async {
            while !is_up(self.name, address).await {
                tokio::time::sleep(LOOK).await;
            }
        };
        let fail = async {
            loop {
                if let News::Ended(name, how) = fleet.next().await {
                    return format!("{name} did not start: it {how}");
                }
            }
        };
        tokio::select! {
            () = up => Ok(pid),
            message = fail => Err(message.into()),
        }
    }
}

fn etcd_flags(client: SocketAddr, peer: SocketAddr, data: &Path) -> Vec<String> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    vec![
        "--name=demo".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=demo={peer}"),
        "--log-level=warn".to_owned(),
    ]
}

async fn is_up(name: &str, address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    if name == NATS.name {
        return true;
    }
    // etcd listens before it has a leader; only then it is healthy.
    let mut answer = String::new();
    stream
        .write_all(b"GET /health HTTP/1.0\r\n\r\n")
        .await
        .is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.contains("\"true\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let service = Service {
            program: "no-such-program",
            ..ETCD
        };
        let error = service.find().unwrap_err().to_string();
        for part in [
            "no-such-program",
            "apt-get install etcd-server",
            "cluster.etcd_endpoints",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_directory_is_new_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let (one, two) = (scratch().unwrap(), scratch().unwrap());
        assert_ne!(one, two);
        for directory in [one, two] {
            let mode = directory.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
            std::fs::remove_dir(directory).unwrap();
        }
    }
}
