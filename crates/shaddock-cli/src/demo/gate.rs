//! The gate: which connector is whose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shaddock::prelude::*;

/// Key of a connector's metadata: the port that clients connect to. (Pomelo's `clientPort`.)
pub(super) const CLIENT_PORT: &str = "clientPort";

/// The text that clients receive.
struct Directory {
    /// Type of the servers that are theirs to connect to.
    connectors: &'static str,
    public_host: Option<String>,
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    uid: Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Found { code: u16, host: String, port: u16 },
    Failed { code: u16 },
}

const FAILED: Json<Entry> = Json(Entry::Failed { code: 500 });

pub(super) fn install(app: &mut App, connectors: &'static str, public_host: Option<String>) {
    app.set(Directory {
        connectors,
        public_host,
    });
    app.handle("gateHandler.queryEntry", query_entry);
}

/// `{uid}` → `{code: 200, host, port}`; without a uid, or without a connector, `{code: 500}`.
async fn query_entry(
    Ctx(app): Ctx,
    session: FrontendSession,
    State(directory): State<Directory>,
    Json(query): Json<Query>,
) -> Result<Json<Entry>, HandlerError> {
    let uid = match query.uid {
        Value::String(text) if !text.is_empty() => text,
        Value::Number(number) => number.to_string(),
        _ => return Ok(FAILED),
    };
    let connectors = app.membership()?.members().servers_of(directory.connectors);
    let ports: Vec<u16> = connectors
        .iter()
        .filter_map(|server| server.metadata.get(CLIENT_PORT)?.parse().ok())
        .collect();
    let Some(port) = choose(&uid, &ports) else {
        return Ok(FAILED);
    };
    let host = match &directory.public_host {
        Some(host) => host.clone(),
        None => facing(session.record().client().address).to_string(),
    };
    Ok(Json(Entry::Found {
        code: 200,
        host,
        port,
    }))
}

/// The same uid always gets the same connector, as long as the connectors stay the same.
fn choose(uid: &str, ports: &[u16]) -> Option<u16> {
    let count = u32::try_from(ports.len()).ok().filter(|n| *n > 0)?;
    let index = usize::try_from(crc32(uid.as_bytes()) % count).ok()?;
    ports.get(index).copied()
}

/// The checksum that the sample uses.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

/// The address of this machine from which packages go to `client`: the one to which the client has connected, unless addresses are
/// translated in between. No package is sent to find out.
fn facing(client: Option<SocketAddr>) -> IpAddr {
    let ask = |client: SocketAddr| {
        let any: IpAddr = match client.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(client)?;
        socket.local_addr()
    };
    let client = client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port()));
    client
        .and_then(|client| ask(client).ok())
        .map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_uid_has_one_connector_and_uids_have_all() {
        let ports = [3050, 3051];
        assert_eq!(choose("alice", &ports), choose("alice", &ports));
        let used: std::collections::HashSet<_> = (0..50)
            .map(|n| choose(&format!("user{n}"), &ports))
            .collect();
        assert_eq!(used.len(), 2);
        assert_eq!(choose("alice", &[]), None);
    }

    #[test]
    fn local_clients_are_sent_to_a_local_address() {
        assert!(facing(Some(([127, 0, 0, 1], 4711).into())).is_loopback());
        assert!(facing(None).is_loopback());
    }
}
