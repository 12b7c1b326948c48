//! Messages to users whose frontend type, but not frontend, is known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::core::Core;
use super::delivery::{self, Delivering, fail};
use super::directory::{Plan, Question};
use super::servers;
use crate::clock;
use crate::{
    BoxFuture, Delivered, Delivery, FailedDelivery, Receivers, RemoteError, ServerId, ServerInfo,
};

/// Sends to users of a type, wherever they are: where the [directory](super::directory) knows it, one message for each of their frontends.
///
/// Each shaddock frontend receives it by its own subject, as all messages to that frontend: messages of one sender arrive in order only
/// because there is one path. (The subjects of users, which Pitaya servers know, would be another one.) Only a message that has to be sent
/// again, because the directory was wrong, arrives later than messages that were sent to the user's new session meanwhile.
pub(super) fn send(
    core: &Arc<Core>,
    frontend_type: &str,
    delivery: &Delivery,
    uids: &Arc<[Arc<str>]>,
) -> Delivering {
    if let Err(error) = delivery::check(core, &delivery.route, &delivery.body) {
        return fail(error);
    }
    let facts = core.directory.facts(&core.members, frontend_type);
    if facts.has_pitaya || !facts.several {
        return send_to_all(core, frontend_type, delivery, uids);
    }
    let Some(permit) = core.directory.permit() else {
        return send_to_all(core, frontend_type, delivery, uids);
    };
    let is_there = |id: &ServerId| servers::frontend(core, id).is_ok();
    let now = clock::now();
    let plan = core
        .directory
        .plan(frontend_type, uids, facts.unique, is_there, now);
    let push = Push {
        core: Arc::clone(core),
        frontend_type: frontend_type.into(),
        delivery: delivery.clone(),
        unique: facts.unique,
    };
    let home = core.home.clone();
    // It is sent here, whether or not the answers are awaited.
    let answers = Box::pin(push.execute(plan, permit));
    Box::pin(GoesOn {
        work: Some(answers),
        home,
    })
}

/// A push, for as long as it is not known to have arrived.
struct Push {
    core: Arc<Core>,
    frontend_type: Arc<str>,
    delivery: Delivery,
    unique: bool,
}

impl Push {
    fn to(&self, uids: &Arc<[Arc<str>]>) -> Delivery {
        Delivery {
            to: Receivers::Uids(Arc::clone(uids)),
            ..self.delivery.clone()
        }
    }

    /// Sends it according to the plan. The future reads the answers, and sends it again to users that were not there.
    fn execute(
        self,
        plan: Plan,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = Result<Delivered, RemoteError>> + Send + 'static {
        let mut sent = Vec::with_capacity(plan.known.len());
        for (frontend, uids) in plan.known {
            let uids: Arc<[_]> = uids.into();
            let answer = match servers::frontend(&self.core, &frontend) {
                Ok(info) => delivery::send(&self.core, &info, &self.to(&uids)),
                Err(error) => fail(error),
            };
            sent.push((frontend, uids, answer));
        }
        let asked =
            (!plan.unknown.is_empty()).then(|| self.ask(plan.unknown.into(), plan.question, None));
        let several = plan.several;
        let mut delivered = Delivered {
            missing_uids: plan.nowhere,
            ..Delivered::default()
        };
        async move {
            let _permit = permit;
            let groups: FuturesUnordered<_> = sent
                .into_iter()
                .map(|(frontend, uids, answer)| self.follow(frontend, uids, answer, &several))
                .collect();
            let groups = groups.collect::<Vec<_>>();
            let (groups, asked) = match asked {
                Some(asked) => {
                    let (groups, asked) = tokio::join!(groups, asked);
                    (groups, Some(asked))
                }
                None => (groups.await, None),
            };
            delivered.merge(asked.unwrap_or_default());
            let mut not_at: HashMap<Arc<str>, usize> = HashMap::new();
            for (answer, not_here) in groups {
                delivered.merge(answer);
                for uid in not_here {
                    *not_at.entry(uid).or_default() += 1;
                }
            }
            // Users that had several sessions, and have none of them any more.
            let gone: Vec<_> = not_at
                .into_iter()
                .filter(|(uid, times)| several.get(uid).is_none_or(|places| times >= places))
                .map(|(uid, _)| uid)
                .collect();
            if !gone.is_empty() {
                delivered.merge(self.ask_again(gone, None).await);
            }
            Ok(delivered)
        }
    }

    /// Reads the answer of a frontend that has these users by the directory. Returns the result of the push, and the users that are not at
    /// this frontend, but have others in the directory.
    async fn follow(
        &self,
        frontend: ServerId,
        uids: Arc<[Arc<str>]>,
        answer: Delivering,
        several: &HashMap<Arc<str>, usize>,
    ) -> (Delivered, Vec<Arc<str>>) {
        let (mut delivered, not_here, error) = match answer.await {
            Ok(mut delivered) => {
                let missing = std::mem::take(&mut delivered.missing_uids);
                (delivered, missing, None)
            }
            Err(error) => (Delivered::default(), uids.to_vec(), Some(error)),
        };
        for uid in &not_here {
            self.core
                .directory
                .missed(&self.frontend_type, uid, &frontend);
        }
        let (elsewhere, not_here): (Vec<_>, Vec<_>) = not_here
            .into_iter()
            .partition(|uid| several.contains_key(uid));
        let Some(error) = error else {
            if !not_here.is_empty() {
                delivered.merge(self.ask_again(not_here, None).await);
            }
            return (delivered, elsewhere);
        };
        // Perhaps they are there, and perhaps they have moved.
        if !not_here.is_empty() {
            delivered.merge(self.ask_again(not_here, Some(&frontend)).await);
        }
        let mut uids = std::mem::take(&mut delivered.missing_uids);
        if let Some(other) = delivered.failed.first() {
            uids.clone_from(&other.uids);
        }
        if !uids.is_empty() || !elsewhere.is_empty() {
            delivered.failed.push(FailedDelivery {
                frontend,
                uids,
                error,
            });
        }
        (delivered, elsewhere)
    }

    async fn ask_again(&self, uids: Vec<Arc<str>>, except: Option<&ServerId>) -> Delivered {
        let directory = &self.core.directory;
        let question = directory.ask_again(&self.frontend_type, &uids, clock::now());
        self.ask(uids.into(), question, except).await
    }

    /// Sends it to all frontends, whose answers name the missing users.
    fn ask(
        &self,
        uids: Arc<[Arc<str>]>,
        question: Question,
        except: Option<&ServerId>,
    ) -> impl Future<Output = Delivered> + Send + use<> {
        let push = self.to(&uids);
        let frontends = frontends_of(&self.core, &self.frontend_type);
        let asked = frontends
            .iter()
            .filter(|frontend| Some(&frontend.id) != except);
        let (ids, answers): (Vec<_>, Vec<_>) = asked
            .map(|frontend| {
                let answer = delivery::send_watching(&self.core, frontend, &push);
                (frontend.id.clone(), answer)
            })
            .unzip();
        let all = except.is_none();
        let core = Arc::clone(&self.core);
        let (frontend_type, unique) = (Arc::clone(&self.frontend_type), self.unique);
        async move {
            let mut leased = all;
            let mut found: HashMap<Arc<str>, Vec<ServerId>> = HashMap::new();
            let mut merged = Vec::with_capacity(ids.len());
            for (id, answer) in ids.into_iter().zip(join_all(answers).await) {
                leased &= answer.as_ref().is_ok_and(|answer| answer.watched);
                if let Ok(answer) = &answer {
                    let missing: HashSet<_> = answer.delivered.missing_uids.iter().collect();
                    for uid in uids.iter().filter(|uid| !missing.contains(uid)) {
                        let places = found.entry(Arc::clone(uid)).or_default();
                        if places.last() != Some(&id) {
                            places.push(id.clone());
                        }
                    }
                }
                merged.push((id, answer.map(|answer| answer.delivered)));
            }
            core.directory
                .settle(&frontend_type, &question, &uids, found, leased, unique);
            merge_same_receivers(merged, &uids)
        }
    }
}

/// Reads answers also if its caller does not wait for them: a user who has moved gets the message nevertheless. There are no more of them than permits.
struct GoesOn {
    work: Option<BoxFuture<'static, Result<Delivered, RemoteError>>>,
    home: Handle,
}

impl Future for GoesOn {
    type Output = Result<Delivered, RemoteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(Ok(Delivered::default()));
        };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.home.spawn(work);
        }
    }
}

/// All shaddock frontends of a type that may have clients.
fn frontends_of(core: &Core, frontend_type: &str) -> Vec<Arc<ServerInfo>> {
    let mut frontends = servers::frontends(core);
    frontends.retain(|one| *one.server_type == *frontend_type && one.is_shaddock());
    frontends
}

/// Sends it to all frontends of the type. Where some frontends are Pitaya's they get one message for each user by the users' subjects, which ours pass over.
fn send_to_all(
    core: &Arc<Core>,
    frontend_type: &str,
    delivery: &Delivery,
    uids: &Arc<[Arc<str>]>,
) -> Delivering {
    let frontends = servers::frontends(core);
    let of_type = frontends
        .iter()
        .filter(|frontend| *frontend.server_type == *frontend_type);
    let (ours, others): (Vec<_>, Vec<_>) = of_type.partition(|frontend| frontend.is_shaddock());
    let sends: Vec<_> = ours
        .iter()
        .map(|ours| (ours.id.clone(), delivery::send(core, ours, delivery)))
        .collect();
    let plain = if others.is_empty() {
        Ok(Delivered::default())
    } else {
        delivery::send_plain(core, frontend_type, delivery, uids, true)
    };
    let others = others.first().map(|other| other.id.clone());
    let uids = Arc::clone(uids);
    Box::pin(async move {
        let (ids, answers): (Vec<_>, Vec<_>) = sends.into_iter().unzip();
        let answers = join_all(answers).await;
        let mut delivered = merge_same_receivers(ids.into_iter().zip(answers).collect(), &uids);
        match (plain, others) {
            (Ok(plain), _) => {
                // Whom ours do not have may be at one of the others, unless the uid is none.
                let elsewhere = |uid: &Arc<str>| plain.unconfirmed.contains(uid);
                let (unconfirmed, missing) =
                    delivered.missing_uids.into_iter().partition(elsewhere);
                delivered.unconfirmed = unconfirmed;
                delivered.missing_uids = missing;
            }
            (Err(error), Some(frontend)) => delivered.failed.push(FailedDelivery {
                frontend,
                uids: std::mem::take(&mut delivered.missing_uids),
                error,
            }),
            (Err(error), None) => return Err(error),
        }
        Ok(delivered)
    })
}

/// All frontends were asked for the same users; a user is missing if no frontend has the user, and unknown if one does not reply.
fn merge_same_receivers(
    answers: Vec<(ServerId, Result<Delivered, RemoteError>)>,
    uids: &[Arc<str>],
) -> Delivered {
    let mut answered = 0;
    let mut merged = Delivered::default();
    let mut missing: HashMap<Arc<str>, usize> = HashMap::new();
    for (frontend, answer) in answers {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                merged.failed.push(FailedDelivery {
                    frontend,
                    uids: Vec::new(),
                    error,
                });
                continue;
            }
        };
        answered += 1;
        merged.queued += answer.queued;
        merged.refused = merged.refused.or(answer.refused);
        merged.failed.extend(answer.failed);
        for uid in answer.missing_uids.into_iter().collect::<BTreeSet<_>>() {
            *missing.entry(uid).or_default() += 1;
        }
    }
    let nowhere = uids
        .iter()
        .filter(|uid| missing.get(*uid).copied().unwrap_or(0) == answered)
        .cloned()
        .collect();
    if merged.failed.is_empty() {
        merged.missing_uids = nowhere;
    } else {
        for failed in &mut merged.failed {
            failed.uids.clone_from(&nowhere);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_found_on_any_frontend_is_not_missing_and_silent_frontends_are_named() {
        let uid = |n: u8| -> Arc<str> { n.to_string().into() };
        let uids = |list: &[u8]| list.iter().map(|n| uid(*n)).collect::<Vec<_>>();
        let from = |name: &str, queued, missing: &[u8]| {
            let answer = Delivered {
                queued,
                missing_uids: uids(missing),
                ..Delivered::default()
            };
            (ServerId::new(name).unwrap(), Ok(answer))
        };
        let two = || vec![from("a", 1, &[2, 3]), from("b", 1, &[1, 3])];
        let all = uids(&[1, 2, 3]);
        let merged = merge_same_receivers(two(), &all);
        assert_eq!((merged.queued, merged.missing_uids), (2, uids(&[3])));

        let error = RemoteError::no_server();
        let silent = (ServerId::new("c").unwrap(), Err(error.clone()));
        let mut three = two();
        three.insert(1, silent);
        let merged = merge_same_receivers(three, &all);
        assert_eq!((merged.queued, merged.missing_uids), (2, uids(&[])));
        let failed = FailedDelivery {
            frontend: ServerId::new("c").unwrap(),
            uids: uids(&[3]),
            error,
        };
        assert_eq!(merged.failed, [failed], "perhaps the third user is there");
        assert_eq!(
            merge_same_receivers(Vec::new(), &all).missing_uids,
            all,
            "there is no frontend"
        );
    }
}
