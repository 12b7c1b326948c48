//! Pitaya's groups at etcd: lists of users by name that all servers share, those in Go too.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::client::{Etcd, EtcdError};
use super::pb::{Compare, RangeResponse, RequestOp, TxnRequest, TxnResponse};
use crate::{ClusterError, NatsConfig};

/// The longest name and uid, in bytes.
const LONGEST: usize = 256;

/// Why something with a group failed. Texts are Pitaya's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no such group.
    #[error("group not found")]
    NotFound,
    /// There is a group of this name.
    #[error("group already exists")]
    Exists,
    /// The user is a member.
    #[error("member already exists in group")]
    MemberExists,
    /// The user is no member.
    #[error("member not found in the group")]
    MemberNotFound,
    /// The group has no time to live, so there is none to renew.
    #[error("group has no time to live")]
    NoTimeToLive,
    /// A name or uid that is empty, longer than 256 bytes, or has a `/` or a control character in it: it could be part of another group.
    #[error("{0:?} cannot be a group or a member of one")]
    IllegalName(String),
    /// etcd does not respond, or refuses. The operation may have been carried out.
    #[error("{0}")]
    Unavailable(String),
}

impl From<EtcdError> for GroupError {
    fn from(error: EtcdError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

type Result<T> = std::result::Result<T, GroupError>;

/// The groups of a cluster, stored where Pitaya's etcd group service has them. Cheap to clone.
///
/// A group is a list of uids: it does not know where its members are connected, and members do not leave automatically. To send to a group,
/// send to its [`members`](Self::members). Every call queries etcd, within the configured timeout ([`NatsConfig::etcd_timeout`]); for a
/// room of one server a channel is better.
///
/// It may be made anywhere; its first use connects, in the tokio runtime of that call, which must live as long.
#[derive(Clone)]
pub struct Groups(Arc<Shared>);

struct Shared {
    config: NatsConfig,
    /// Made by the first use: it has to be done inside a runtime.
    etcd: OnceLock<Etcd>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

impl Groups {
    /// The groups at the etcd of this configuration, under its prefix. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ClusterError::Setting`] if a setting cannot be used.
    pub fn new(config: &NatsConfig) -> std::result::Result<Self, ClusterError> {
        config.validate()?;
        Ok(Self(Arc::new(Shared {
            config: config.clone(),
            etcd: OnceLock::new(),
        })))
    }

    fn etcd(&self) -> Result<&Etcd> {
        if let Some(etcd) = self.0.etcd.get() {
            return Ok(etcd);
        }
        let made = Etcd::new(&self.0.config);
        let made = made.map_err(|error| GroupError::Unavailable(error.to_string()))?;
        Ok(self.0.etcd.get_or_init(|| made))
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`GroupError::Exists`], or etcd's.
    pub async fn create(&self, group: &str) -> Result<()> {
        self.create_on(group, 0).await
    }

    /// Makes a group that ends with all its members after `ttl`, whole seconds, unless it is [renewed](Self::renew).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_with_ttl(&self, group: &str, ttl: Duration) -> Result<()> {
        self.group_key(group)?;
        let lease = self.etcd()?.grant(ttl.max(Duration::from_secs(1))).await?;
        let created = self.create_on(group, lease).await;
        if matches!(created, Err(GroupError::Exists)) {
            // Nothing hangs on it.
            let _ = self.etcd()?.revoke(lease).await;
        }
        created
    }

    async fn create_on(&self, group: &str, lease: i64) -> Result<()> {
        let key = self.group_key(group)?;
        let create = TxnRequest {
            compare: vec![Compare::missing(&key)],
            success: vec![RequestOp::put(&key, "", lease)],
            failure: Vec::new(),
        };
        succeeded(&self.etcd()?.txn(create).await?, GroupError::Exists)
    }

    /// The members of a group, sorted.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], or etcd's.
    pub async fn members(&self, group: &str) -> Result<Vec<Arc<str>>> {
        let prefix = self.members_prefix(group)?;
        let found = self.look(group, RequestOp::keys(&prefix)).await?;
        let uid = |key: &[u8]| {
            Some(Arc::from(
                std::str::from_utf8(key.get(prefix.len()..)?).ok()?,
            ))
        };
        Ok(found.kvs.iter().filter_map(|kv| uid(&kv.key)).collect())
    }

    /// Whether a user is a member of a group.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn contains(&self, group: &str, uid: &str) -> Result<bool> {
        let member = self.member_key(group, uid)?;
        let found = self.look(group, RequestOp::get(&member)).await?;
        Ok(!found.kvs.is_empty())
    }

    /// Makes a user a member of a group.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::MemberExists`], or etcd's.
    pub async fn add(&self, group: &str, uid: &str) -> Result<()> {
        let (key, member) = (self.group_key(group)?, self.member_key(group, uid)?);
        // A member ends with its group.
        let lease = self.lease_of(&key).await?;
        let add = TxnRequest {
            compare: vec![Compare::exists(&key), Compare::missing(&member)],
            success: vec![RequestOp::put(&member, "", lease)],
            failure: vec![RequestOp::get(&key)],
        };
        let answer = self.etcd()?.txn(add).await?;
        let group_is_there = first_range(&answer).is_some_and(|range| !range.kvs.is_empty());
        let refused = if group_is_there {
            GroupError::MemberExists
        } else {
            GroupError::NotFound
        };
        succeeded(&answer, refused)
    }

    /// Takes a user out of a group.
    ///
    /// # Errors
    /// [`GroupError::MemberNotFound`], also if there is no such group; or etcd's.
    pub async fn remove(&self, group: &str, uid: &str) -> Result<()> {
        let member = self.member_key(group, uid)?;
        let remove = TxnRequest {
            compare: vec![Compare::exists(&member)],
            success: vec![RequestOp::delete(&member)],
            failure: Vec::new(),
        };
        succeeded(&self.etcd()?.txn(remove).await?, GroupError::MemberNotFound)
    }

    /// Removes all members from a group.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn remove_all(&self, group: &str) -> Result<()> {
        let members = RequestOp::delete_prefix(&self.members_prefix(group)?);
        self.of_group(group, vec![members]).await.map(drop)
    }

    /// Deletes a group with its members.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn delete(&self, group: &str) -> Result<()> {
        let members = RequestOp::delete_prefix(&self.members_prefix(group)?);
        let itself = RequestOp::delete(&self.group_key(group)?);
        self.of_group(group, vec![members, itself]).await.map(drop)
    }

    /// How many members a group has; 0 if there is no such group.
    ///
    /// # Errors
    /// etcd's.
    pub async fn count(&self, group: &str) -> Result<usize> {
        Ok(self
            .etcd()?
            .count_prefix(&self.members_prefix(group)?)
            .await?)
    }

    /// Gives a group that was made with a time to live all of it again.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::NoTimeToLive`], or etcd's.
    pub async fn renew(&self, group: &str) -> Result<()> {
        match self.lease_of(&self.group_key(group)?).await? {
            0 => Err(GroupError::NoTimeToLive),
            lease if self.etcd()?.keep_alive_once(lease).await? > 0 => Ok(()),
            // It has just ended.
            _ => Err(GroupError::NotFound),
        }
    }

    /// The lease that a group hangs on, or 0.
    async fn lease_of(&self, group_key: &str) -> Result<i64> {
        let found = self.etcd()?.get(group_key).await?;
        let group = found.kvs.first().ok_or(GroupError::NotFound)?;
        Ok(group.lease)
    }

    /// Reads something of a group that is there.
    async fn look(&self, group: &str, what: RequestOp) -> Result<RangeResponse> {
        let answer = self.of_group(group, vec![what]).await?;
        Ok(first_range(&answer).cloned().unwrap_or_default())
    }

    /// Does something if there is such a group.
    async fn of_group(&self, group: &str, what: Vec<RequestOp>) -> Result<TxnResponse> {
        let txn = TxnRequest {
            compare: vec![Compare::exists(&self.group_key(group)?)],
            success: what,
            failure: Vec::new(),
        };
        let answer = self.etcd()?.txn(txn).await?;
        succeeded(&answer, GroupError::NotFound)?;
        Ok(answer)
    }

    fn group_key(&self, group: &str) -> Result<String> {
        Ok(self.etcd()?.group_key(checked(group)?))
    }

    fn members_prefix(&self, group: &str) -> Result<String> {
        Ok(format!("{}/uids/", self.group_key(group)?))
    }

    fn member_key(&self, group: &str, uid: &str) -> Result<String> {
        Ok(self.members_prefix(group)? + checked(uid)?)
    }
}

fn checked(name: &str) -> Result<&str> {
    let odd = |c: char| c == '/' || c.is_control();
    if name.is_empty() || name.len() > LONGEST || name.contains(odd) {
        return Err(GroupError::IllegalName(name.chars().take(64).collect()));
    }
    Ok(name)
}

fn succeeded(answer: &TxnResponse, otherwise: GroupError) -> Result<()> {
    if answer.succeeded {
        Ok(())
    } else {
        Err(otherwise)
    }
}

fn first_range(answer: &TxnResponse) -> Option<&RangeResponse> {
    answer.responses.first()?.range.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reach_into_another_group() {
        for bad in ["", "a/b", "../x", "a\0b", "\n", &"x".repeat(257)] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "raid 7", "h\u{e9}llo", "a.b*>"] {
            assert_eq!(checked(good).unwrap(), good);
        }
    }
}
