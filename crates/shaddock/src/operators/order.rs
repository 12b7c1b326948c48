//! What an operator has done to sessions, wherever they are: which ones, and what. Each frontend does it to its own.

use std::{collections::HashSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shaddock_core::{Session, SessionService};

use super::{filter::parse_sid, predicate::Predicate};

/// Errors that are repeated in an answer; the rest are counted.
const MOST_ERRORS: usize = 3;

/// Which sessions.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Select {
    /// By their ids.
    Sids(Vec<String>),
    /// All of these users.
    Users(Vec<String>),
    /// Those of which this [`Predicate`] is true.
    Where(String),
    /// Every one.
    All,
}

/// Its kind and how much there is of it: it may name users, and a predicate values of settings.
impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sids(sids) => write!(f, "{} sids", sids.len()),
            Self::Users(uids) => write!(f, "{} users", uids.len()),
            Self::Where(_) => f.write_str("where"),
            Self::All => f.write_str("all"),
        }
    }
}

/// What is done to each.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Kick {
        reason: String,
    },
    Push {
        route: String,
        body: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latest: Option<String>,
    },
    Set {
        values: Map<String, Value>,
        remove: Vec<String>,
    },
    Bind {
        uid: String,
    },
    Unbind,
    Join {
        topic: String,
    },
    Leave {
        topic: String,
    },
}

impl Act {
    const fn name(&self) -> &'static str {
        match self {
            Self::Kick { .. } => "kick",
            Self::Push { .. } => "push",
            Self::Set { .. } => "set",
            Self::Bind { .. } => "bind",
            Self::Unbind => "unbind",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
        }
    }
}

/// Its kind: bodies of messages and values of settings are for clients, and not for a log.
impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A question: which sessions are there? Answered with [`Found`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Find {
    pub(crate) select: Select,
    /// Whether their ids are wanted.
    pub(crate) list: bool,
    /// Ids above this one only: the last of the answer before.
    #[serde(default)]
    pub(crate) after: Option<String>,
}

/// Something to do. Answered with [`Obeyed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) select: Select,
    pub(crate) act: Act,
}

/// What one frontend has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) matched: u64,
    /// All sessions.
    pub(crate) total: u64,
    /// In ascending order.
    #[serde(default)]
    pub(crate) sids: Vec<String>,
    /// Whether there are more than these.
    #[serde(default)]
    pub(crate) more: bool,
}

/// What one frontend did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Obeyed {
    pub(crate) matched: u64,
    /// To how many it was done.
    pub(crate) done: u64,
    /// To how many it could not be done.
    #[serde(default)]
    pub(crate) failed: u64,
    /// Why, for the first of them.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

impl Obeyed {
    pub(super) fn failed(&mut self, error: String) {
        self.failed += 1;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(error);
        }
    }

    /// Adds what came of other sessions.
    #[cfg(feature = "admin")]
    pub(crate) fn add(&mut self, other: Self) {
        self.matched += other.matched;
        self.done += other.done;
        self.failed += other.failed;
        let room = MOST_ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(other.errors.into_iter().take(room));
    }
}

impl Select {
    /// # Errors
    /// What is wrong with it.
    #[cfg(feature = "admin")]
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Sids(sids) => sids.iter().try_for_each(|sid| parse_sid(sid).map(drop)),
            Self::Users(uids) => uids.iter().try_for_each(|uid| {
                let uid = shaddock_core::Uid::new(uid.as_str()).map(drop);
                uid.map_err(|error| format!("an invalid user: {error}"))
            }),
            Self::Where(text) => Predicate::parse(text)
                .map(drop)
                .map_err(|error| format!("`where`, {error}")),
            Self::All => Ok(()),
        }
    }

    /// Looks at every session, unless they are named: not for a thread that others wait for. With how many sessions there are.
    pub(super) fn find(
        &self,
        service: &SessionService,
    ) -> Result<(Vec<Arc<Session>>, usize), String> {
        let mut found = Vec::new();
        // Of the same walk: one that counts later would take those who came meanwhile for sessions of which the predicate is not true.
        let mut seen = None;
        match self {
            Self::Sids(sids) => {
                for sid in sids {
                    found.extend(service.get(parse_sid(sid)?));
                }
            }
            Self::Users(uids) => {
                for uid in uids {
                    found.extend(service.get_by_uid(uid));
                }
            }
            Self::Where(text) => {
                let predicate = Predicate::parse(text).map_err(|error| error.to_string())?;
                let mut visited = 0;
                service.visit_sessions(|session| {
                    visited += 1;
                    if predicate.matches(session) {
                        found.push(Arc::clone(session));
                    }
                });
                seen = Some(visited);
            }
            Self::All => service.visit_sessions(|session| found.push(Arc::clone(session))),
        }
        if matches!(self, Self::Sids(_) | Self::Users(_)) {
            // A session is named twice, perhaps in two spellings: it is one all the same.
            let mut once = HashSet::with_capacity(found.len());
            found.retain(|session| once.insert(session.id()));
        }
        let total = seen.unwrap_or_else(|| service.session_count());
        Ok((found, total))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::ask::Ask, *};

    #[test]
    fn the_log_names_changed_keys_and_no_values() {
        let secret = || "hush-hush".to_owned();
        let values = json!({"hush-hush": "hush-hush"});
        let Value::Object(map) = values.clone() else {
            unreachable!()
        };
        let acts = [
            Act::Kick { reason: secret() },
            Act::Push {
                route: secret(),
                body: values,
                latest: Some(secret()),
            },
            Act::Set {
                values: map,
                remove: vec![secret()],
            },
            Act::Bind { uid: secret() },
            Act::Unbind,
            Act::Join { topic: secret() },
            Act::Leave { topic: secret() },
        ];
        let selects = [
            (Select::Sids(vec![secret(); 3]), "3 sids"),
            (Select::Users(vec![secret(); 2]), "2 users"),
            (Select::Where(format!("settings.a = {}", secret())), "where"),
            (Select::All, "all"),
        ];
        for act in &acts {
            for (select, said) in &selects {
                let order = Order {
                    select: select.clone(),
                    act: act.clone(),
                };
                let text = format!("{:?}", Ask::Do(order));
                assert!(
                    text.contains(act.name()) && text.contains(said) && !text.contains("hush"),
                    "{text}"
                );
            }
        }
    }
}
