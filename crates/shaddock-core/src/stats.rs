//! Logins of a server (Pomelo's `ConnectionService`).

use crate::few::{Few, Removed};
use crate::shards::Shards;
use crate::{FrontendId, Sid, Uid};
use hashbrown::{DefaultHashBuilder, HashMap};
use serde::Serialize;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Remembers the logins of one server. A clone is a handle to the same logins.
#[derive(Clone, Debug)]
pub struct ConnectionStats {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server_id: FrontendId,
    logins: Shards<Logins>,
    hasher: DefaultHashBuilder,
}

type Logins = HashMap<Uid, Few<Login>>;

/// A [`LoginRecord`] as it is kept, for each user: its user is the key in the table.
#[derive(Clone, Debug)]
struct Login {
    sid: Sid,
    time: u64,
    /// Without the IPv6 flow and scope of `SocketAddr`.
    address: Option<(IpAddr, u16)>,
}

impl Login {
    fn to_record(&self, uid: &Uid) -> LoginRecord {
        LoginRecord {
            uid: uid.clone(),
            sid: self.sid,
            login_time: self.time,
            address: self.address.map(SocketAddr::from),
        }
    }
}

/// One login: a session that was bound to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginRecord {
    /// The user.
    pub uid: Uid,
    /// The session.
    pub sid: Sid,
    /// When it was bound, in milliseconds since 1970-01-01T00:00:00Z.
    pub login_time: u64,
    /// The client's network address. The flow and the scope of an IPv6 address are not kept.
    pub address: Option<SocketAddr>,
}

/// The result of [`ConnectionStats::statistics`]. As JSON it has Pomelo's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StatisticsInfo {
    /// The server.
    pub server_id: FrontendId,
    /// Open connections, including those without a session.
    #[serde(rename = "totalConnCount")]
    pub connections: usize,
    /// Users who are logged in, each once.
    #[serde(rename = "loginedCount")]
    pub logins: usize,
    /// The latest login of each user, by uid.
    #[serde(rename = "loginedList")]
    pub list: Vec<LoginRecord>,
}

impl ConnectionStats {
    /// Creates statistics without logins.
    pub fn new(server_id: FrontendId) -> Self {
        let inner = Inner {
            server_id,
            logins: Shards::default(),
            hasher: DefaultHashBuilder::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Remembers a login. A second one of the same session replaces the first.
    pub fn add_login(&self, login: LoginRecord) {
        let LoginRecord {
            uid,
            sid,
            login_time,
            address,
        } = login;
        let login = Login {
            sid,
            time: login_time,
            address: address.map(|address| (address.ip(), address.port())),
        };
        let mut logins = self.inner.shard(uid.as_str());
        match logins.get_mut(&uid) {
            None => {
                logins.insert(uid, Few::One(login));
            }
            Some(few) => {
                if few.remove(|known| known.sid == sid) == Removed::Last {
                    *few = Few::One(login);
                } else {
                    few.push(login);
                }
            }
        }
    }

    /// Removes the login of one session. The user stays logged in while another session of the user is. Returns false if unknown.
    pub fn remove_login(&self, uid: &str, sid: Sid) -> bool {
        let mut logins = self.inner.shard(uid);
        let Some(few) = logins.get_mut(uid) else {
            return false;
        };
        let removed = few.remove(|known| known.sid == sid);
        if removed == Removed::Last {
            logins.remove(uid);
        }
        removed != Removed::Nothing
    }

    /// All statistics, for operators, with the number of open connections, which their listeners count. The list is built under short locks,
    /// one for each part of it.
    pub fn statistics(&self, connections: usize) -> StatisticsInfo {
        let mut list: Vec<LoginRecord> = Vec::new();
        for shard in self.inner.logins.each() {
            let latest =
                |(uid, few): (&Uid, &Few<Login>)| Some(few.as_slice().last()?.to_record(uid));
            list.extend(shard.iter().filter_map(latest));
        }
        list.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        StatisticsInfo {
            server_id: self.inner.server_id.clone(),
            connections,
            logins: list.len(),
            list,
        }
    }
}

impl Inner {
    fn shard(&self, uid: &str) -> crate::sync::MutexGuard<'_, Logins> {
        self.logins.lock(self.hasher.hash_one(uid))
    }
}
