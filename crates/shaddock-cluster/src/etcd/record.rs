//! How a server is written down: key and value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ServerId, ServerInfo, info::is_name};

/// The value of a server's key. Go writes these keys in this order; missing ones are empty, unknown ones are skipped.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Record<'a> {
    id: std::borrow::Cow<'a, str>,
    #[serde(rename = "type")]
    server_type: std::borrow::Cow<'a, str>,
    metadata: Option<BTreeMap<String, String>>,
    frontend: bool,
    hostname: std::borrow::Cow<'a, str>,
}

impl Default for Record<'_> {
    fn default() -> Self {
        Self {
            id: "".into(),
            server_type: "".into(),
            metadata: None,
            frontend: false,
            hostname: "".into(),
        }
    }
}

/// The value under which a server lists itself.
pub(crate) fn write(info: &ServerInfo) -> String {
    let record = Record {
        id: info.id.as_str().into(),
        server_type: (&*info.server_type).into(),
        metadata: Some(info.metadata.clone()),
        frontend: info.frontend,
        hostname: info.hostname.as_str().into(),
    };
    // Texts, a flag and a map of texts always have a JSON form.
    serde_json::to_string(&record).unwrap_or_default()
}

/// Type and id in a key `<prefix>servers/<type>/<id>`.
pub(super) fn split_key<'a>(key: &'a str, servers_key: &str) -> Option<(&'a str, &'a str)> {
    let (server_type, id) = key.strip_prefix(servers_key)?.split_once('/')?;
    (is_name(server_type) && is_name(id)).then_some((server_type, id))
}

/// A listed server, or why it cannot be used.
pub(super) fn read(key: &str, value: &[u8], servers_key: &str) -> Result<ServerInfo, String> {
    let (server_type, id) =
        split_key(key, servers_key).ok_or("the key is not servers/<type>/<id>")?;
    let info = read_value(value)?;
    // Removals go by the key, so a server under another name could never be removed.
    if info.id.as_str() != id || *info.server_type != *server_type {
        return Err(format!("the value says {}/{}", info.server_type, info.id));
    }
    Ok(info)
}

/// The entry of a server in the list, from etcd or from another server.
pub(crate) fn read_value(value: &[u8]) -> Result<ServerInfo, String> {
    let record: Record<'_> = serde_json::from_slice(value).map_err(|e| e.to_string())?;
    if !is_name(&record.server_type) {
        return Err(format!("{:?} names no type", record.server_type));
    }
    Ok(ServerInfo {
        id: ServerId::new(&*record.id).map_err(|e| e.to_string())?,
        server_type: (&*record.server_type).into(),
        frontend: record.frontend,
        metadata: record.metadata.unwrap_or_default(),
        hostname: record.hostname.into_owned(),
        announced: crate::info::Announced::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let vectors = crate::tests::vectors::vectors();
        let mut seen = 0;
        for v in vectors["etcd"].as_array().unwrap() {
            let (name, key, value) = (
                &v["name"],
                v["key"].as_str().unwrap(),
                v["value"].as_str().unwrap(),
            );
            let Some(accept) = v["accept"].as_bool() else {
                continue;
            };
            let servers_key = format!("{}servers/", v["prefix"].as_str().unwrap());
            let info = read(key, value.as_bytes(), &servers_key);
            assert_eq!(info.is_ok(), accept, "{name}: {info:?}");
            if let (Ok(info), true) = (
                info,
                name.as_str().unwrap() != "server_unknown_and_missing_fields",
            ) {
                let written = write(&info);
                let same = if value.contains("null") {
                    value.replace("null", "{}")
                } else {
                    value.to_owned()
                };
                assert_eq!(written, same, "{name}");
            }
            seen += 1;
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn a_value_that_contradicts_its_key_is_not_used() {
        assert!(
            read(
                "p/servers/game/a",
                br#"{"id":"b","type":"game"}"#,
                "p/servers/"
            )
            .is_err()
        );
        assert!(
            read(
                "p/servers/game/a",
                br#"{"id":"a","type":"gate"}"#,
                "p/servers/"
            )
            .is_err()
        );
    }
}
