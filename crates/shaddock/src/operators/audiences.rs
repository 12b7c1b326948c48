//! Channels and topics, with who is in them, on all frontends.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use shaddock_core::SessionService;

use super::{audience_name::AudienceName, filter::limit_of, types::Unanswered};

/// Which channels and topics. All conditions that are given must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AudienceQuery {
    /// `topic` or `channel`; both if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whose name has this in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many at most: 1 to 1000, by default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those with a greater key: the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Whose members.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemberQuery {
    /// The key of the channel or topic.
    pub key: String,
    /// How many at most: 1 to 1000, by default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only users after this one: the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A channel or a topic, and how many are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AudienceInfo {
    /// Which one.
    #[serde(flatten)]
    pub name: AudienceName,
    /// Users in it. One who has sessions on several frontends counts on each.
    pub members: u64,
    /// How many on which frontend.
    pub by_frontend: BTreeMap<String, u64>,
}

/// Part of the list of channels and topics that have members, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AudiencePage {
    /// The channels and topics.
    pub audiences: Vec<AudienceInfo>,
    /// The `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Frontends whose members are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// A user in a channel or topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The user.
    pub uid: String,
    /// Where their sessions are. One who has sessions on several frontends comes once for each.
    pub frontend: String,
}

/// Part of the members of a channel or topic, by user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberPage {
    /// The members.
    pub members: Vec<Member>,
    /// How many there are on all pages together.
    pub total: u64,
    /// The `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Frontends whose members are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// What one frontend has of the channels and topics: keys with the number of members, in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct AudiencesHere {
    audiences: Vec<(String, u64)>,
    more: bool,
}

/// What one frontend has of the members: users in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct MembersHere {
    uids: Vec<String>,
    total: u64,
    more: bool,
}

impl AudienceQuery {
    pub(super) fn check(&self) -> Result<(), String> {
        match self.kind.as_deref() {
            None | Some("topic" | "channel") => Ok(()),
            Some(kind) => Err(format!("\"{kind}\" is neither topic nor channel")),
        }
    }

    fn is(&self, key: &str) -> bool {
        if self.after.as_deref().is_some_and(|after| key <= after) {
            return false;
        }
        let Some(name) = AudienceName::of(key) else {
            return false;
        };
        let has = |part: &String| name.name.contains(part.as_str());
        self.kind.as_ref().is_none_or(|kind| name.kind == *kind)
            && self.name.as_ref().is_none_or(has)
    }

    /// Looks at every name: not for a thread that others wait for.
    pub(crate) fn here(&self, service: &SessionService) -> Result<AudiencesHere, String> {
        self.check()?;
        let mut keys = service.audiences(|key| self.is(key));
        keys.sort_unstable();
        let limit = limit_of(self.limit);
        let more = keys.len() > limit;
        keys.truncate(limit);
        let count = |key: &Arc<str>| (key.to_string(), service.audience_len(key) as u64);
        Ok(AudiencesHere {
            audiences: keys.iter().map(count).collect(),
            more,
        })
    }
}

impl MemberQuery {
    pub(super) fn check(&self) -> Result<(), String> {
        match AudienceName::of(&self.key) {
            Some(_) => Ok(()),
            None => Err(format!(
                "\"{}\" is not a key; `/api/cluster/audiences` lists the keys of channels and topics",
                self.key
            )),
        }
    }

    /// Looks at every member: not for a thread that others wait for.
    pub(crate) fn here(&self, service: &SessionService) -> Result<MembersHere, String> {
        self.check()?;
        let members = service.audience(&self.key);
        let total = members.len() as u64;
        let mut uids: Vec<String> = members.iter().map(|uid| uid.as_str().to_owned()).collect();
        uids.retain(|uid| self.after.as_ref().is_none_or(|after| uid > after));
        uids.sort_unstable();
        let limit = limit_of(self.limit);
        let more = uids.len() > limit;
        uids.truncate(limit);
        Ok(MembersHere { uids, total, more })
    }
}

/// One page out of one of each frontend, all of them after the same key. A frontend that has more has given at least as many as a page
/// holds, so none that belongs on this page is missing.
pub(super) fn merge_audiences(
    answers: Vec<(String, AudiencesHere)>,
    limit: usize,
    unanswered: Vec<Unanswered>,
) -> AudiencePage {
    let mut more = answers.iter().any(|(_, part)| part.more);
    let mut all: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (frontend, part) in answers {
        for (key, members) in part.audiences {
            // It may have ended since its name was listed.
            if members > 0 {
                all.entry(key)
                    .or_default()
                    .insert(frontend.clone(), members);
            }
        }
    }
    more |= all.len() > limit;
    let audiences: Vec<_> = all
        .into_iter()
        .take(limit)
        .filter_map(|(key, by_frontend)| {
            Some(AudienceInfo {
                name: AudienceName::of(&key)?,
                members: by_frontend.values().sum(),
                by_frontend,
            })
        })
        .collect();
    let last = audiences.last().map(|last| last.name.key.clone());
    AudiencePage {
        next: last.filter(|_| more),
        audiences,
        unanswered,
    }
}

/// As [`merge_audiences`]. The entries of a user on several frontends stay together: a page ends between two users.
pub(super) fn merge_members(
    answers: Vec<(String, MembersHere)>,
    limit: usize,
    unanswered: Vec<Unanswered>,
) -> MemberPage {
    let total = answers.iter().map(|(_, part)| part.total).sum();
    let mut more = answers.iter().any(|(_, part)| part.more);
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (frontend, part) in answers {
        for uid in part.uids {
            all.entry(uid).or_default().push(frontend.clone());
        }
    }
    more |= all.len() > limit;
    let members: Vec<_> = all
        .into_iter()
        .take(limit)
        .flat_map(|(uid, frontends)| {
            frontends.into_iter().map(move |frontend| Member {
                uid: uid.clone(),
                frontend,
            })
        })
        .collect();
    let last = members.last().map(|last| last.uid.clone());
    MemberPage {
        next: last.filter(|_| more),
        members,
        total,
        unanswered,
    }
}

#[cfg(test)]
mod tests {
    use shaddock_core::{ClientInfo, FrontendId, SessionConfig, SidAllocator, Uid};

    use super::*;

    fn service() -> SessionService {
        let id = FrontendId::new("f").unwrap();
        SessionService::new(id, SidAllocator::new(1, 1), SessionConfig::default())
    }

    fn join(service: &SessionService, uid: &str, key: &str) {
        let uid = Uid::new(uid).unwrap();
        if service.get_by_uid(uid.as_str()).is_empty() {
            let session = service.create(ClientInfo::default());
            session.bind(uid.clone()).unwrap();
        }
        service.join(key, &uid, None, None).unwrap();
    }

    fn query(limit: usize, after: Option<String>) -> AudienceQuery {
        AudienceQuery {
            limit: Some(limit),
            after,
            ..AudienceQuery::default()
        }
    }

    /// Walks through the pages of two frontends with each page size: every key once, in order, with the members of both.
    #[test]
    fn pages_of_several_frontends_have_everything_once() {
        let (one, two) = (service(), service());
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for n in 0..12 {
            let key = format!("t/room-{n:02}");
            if n % 3 != 0 {
                join(&one, "ann", &key);
                *expected.entry(key.clone()).or_default() += 1;
            }
            if n % 2 == 0 {
                join(&two, "bob", &key);
                join(&two, "carol", &key);
                *expected.entry(key.clone()).or_default() += 2;
            }
        }
        join(&one, "ann", "not a key of ours");
        for limit in 1..15 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let query = query(limit, after);
                let parts = [("one", &one), ("two", &two)];
                let parts = parts.map(|(id, it)| (id.to_owned(), query.here(it).unwrap()));
                let page = merge_audiences(parts.into(), limit, Vec::new());
                assert!(page.audiences.len() <= limit);
                seen.extend(
                    page.audiences
                        .iter()
                        .map(|it| (it.name.key.clone(), it.members)),
                );
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(
                seen,
                expected.clone().into_iter().collect::<Vec<_>>(),
                "{limit}"
            );
        }
    }

    #[test]
    fn pages_of_members_have_every_one_on_every_frontend_once() {
        let (one, two) = (service(), service());
        let mut expected = Vec::new();
        for n in 0..9 {
            let uid = format!("user-{n}");
            for (id, service, is_in) in [("one", &one, n % 4 != 0), ("two", &two, n % 2 == 0)] {
                if is_in {
                    join(service, &uid, "t/room");
                    expected.push((uid.clone(), id.to_owned()));
                }
            }
        }
        for limit in 1..12 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let query = MemberQuery {
                    key: "t/room".to_owned(),
                    limit: Some(limit),
                    after,
                };
                let parts = [("one", &one), ("two", &two)];
                let parts = parts.map(|(id, it)| (id.to_owned(), query.here(it).unwrap()));
                let page = merge_members(parts.into(), limit, Vec::new());
                assert_eq!(page.total, expected.len() as u64);
                seen.extend(page.members.into_iter().map(|it| (it.uid, it.frontend)));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, expected, "{limit}");
        }
    }

    #[test]
    fn names_are_filtered_and_mistakes_are_reported() {
        let service = service();
        for key in ["t/lobby", "t/arena", "c/chat-1/1f/2/lobby"] {
            join(&service, "ann", key);
        }
        let found = |kind: Option<&str>, name: Option<&str>| {
            let query = AudienceQuery {
                kind: kind.map(Into::into),
                name: name.map(Into::into),
                ..AudienceQuery::default()
            };
            let here = query.here(&service).unwrap().audiences;
            here.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(found(Some("topic"), None), ["t/arena", "t/lobby"]);
        assert_eq!(found(None, Some("obb")), ["c/chat-1/1f/2/lobby", "t/lobby"]);
        assert_eq!(found(Some("channel"), Some("arena")), [""; 0]);
        let of_ann = AudienceName::all_of(&service, "ann");
        assert_eq!(of_ann[0].owner.as_deref(), Some("chat-1"));
        assert_eq!((of_ann[0].name.as_str(), of_ann.len()), ("lobby", 3));
        let wrong = AudienceQuery {
            kind: Some("room".to_owned()),
            ..AudienceQuery::default()
        };
        assert!(wrong.here(&service).unwrap_err().contains("\"room\""));
        let wrong = MemberQuery {
            key: "lobby".to_owned(),
            ..MemberQuery::default()
        };
        assert!(
            wrong
                .here(&service)
                .unwrap_err()
                .contains("/api/cluster/audiences")
        );
    }
}
