//! How a frontend becomes the owner of a user, one step after the other, and how it interprets the content of etcd.

use crate::{Conflict, ServerId, SessionsPerUser};

/// The value of etcd at the key of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// `None` if the value cannot be the id of a server.
    pub(crate) owner: Option<ServerId>,
    /// The lease to which it is attached: the incarnation of the owner. 0 for none.
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

/// The frontend that decides: its id and its lease at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    pub(crate) id: &'a ServerId,
    pub(crate) lease: i64,
}

impl Own<'_> {
    fn is_named(&self, found: &Found) -> bool {
        found.owner.as_ref() == Some(self.id)
    }

    /// Whether a claim is this life's own, or was written by hand for this server.
    fn has(&self, found: &Found) -> bool {
        self.is_named(found) && (found.lease == self.lease || found.lease == 0)
    }
}

/// The kind of an owner, by the list of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It follows the rules of this module, or it is not listed.
    Ours,
    /// It is notified by a broadcast, afterwards, that it has lost the user. When it closes the session it deletes the key, even if that is
    /// another frontend's by then.
    Pitaya,
}

/// The reply of the owner to a question over NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerReply {
    /// It has closed its sessions of the user, or has none.
    Released,
    /// It has sessions of the user, and new ones are rejected.
    Keeps,
    /// No reply in time.
    NoReply,
    /// NATS knows no subscriber. This is not a reply of the owner.
    NoSubscriber,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the claim on this condition. If it does not hold: read the key, and the notice if there is one.
    Write(Claim),
    /// Ask the owner over NATS, about the claim of this revision and lease.
    Ask {
        owner: ServerId,
        revision: i64,
        lease: i64,
    },
    /// Leave a notice for the owner at etcd, on the lease of its claim: the two end together.
    Notify {
        owner: ServerId,
        revision: i64,
        lease: i64,
    },
    /// Wait a moment, then read the key and the notice.
    Wait,
    /// The claim was written at this revision. `after_pitaya`: in the place of a Pitaya frontend, which may delete it yet.
    Owned { revision: i64, after_pitaya: bool },
    /// The owner keeps the user.
    Taken(ServerId),
}

/// The condition on which a claim is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// There is none.
    Missing,
    /// It is still the one of this revision.
    Unchanged(i64),
    /// The same, and no life of its owner holds the owner's id at etcd.
    Orphan { revision: i64, owner: ServerId },
}

/// The result of the last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepOutcome {
    /// Nothing was done yet.
    Nothing,
    /// The claim was written at this revision.
    Written(i64),
    /// The condition did not hold, or the wait is over. The claim that was found, and whether the notice still exists.
    Found { found: Option<Found>, notice: bool },
    /// The owner, or NATS in its place, has answered.
    Replied(OwnerReply),
    /// The notice is written.
    Notified,
}

/// One attempt to own a user.
#[derive(Debug)]
pub(crate) struct Takeover {
    unique: SessionsPerUser,
    /// The claim that is in the way, as it was read last.
    seen: Option<Found>,
    /// The owner of this claim has a notice.
    notified: Option<i64>,
    /// The claim was to be written over on the condition that its owner has no living life.
    may_be_orphan: bool,
    /// The claim that is written over, if that works, is a Pitaya frontend's.
    after_pitaya: bool,
    #[cfg(test)]
    pub(super) no_responder_is_death: bool,
}

impl Takeover {
    pub(crate) fn new(unique: SessionsPerUser) -> Self {
        Self {
            unique,
            seen: None,
            notified: None,
            may_be_orphan: false,
            after_pitaya: false,
            #[cfg(test)]
            no_responder_is_death: false,
        }
    }

    /// The next step. `kind` returns the kind of an owner.
    pub(crate) fn next(
        &mut self,
        own: Own<'_>,
        outcome: StepOutcome,
        kind: impl FnOnce(&ServerId) -> Kind,
    ) -> Step {
        match outcome {
            StepOutcome::Nothing
            | StepOutcome::Found {
                found: None,
                notice: _,
            } => Step::Write(Claim::Missing),
            StepOutcome::Written(revision) => Step::Owned {
                revision,
                after_pitaya: self.after_pitaya,
            },
            StepOutcome::Found {
                found: Some(found),
                notice,
            } => self.found(own, &found, notice, kind),
            StepOutcome::Notified => Step::Wait,
            StepOutcome::Replied(word) => self.replied(word),
        }
    }

    fn found(
        &mut self,
        own: Own<'_>,
        found: &Found,
        notice: bool,
        kind: impl FnOnce(&ServerId) -> Kind,
    ) -> Step {
        let before = self.seen.replace(found.clone());
        let revision = found.revision;
        let Some(owner) = found.owner.clone() else {
            return Step::Write(Claim::Unchanged(revision));
        };
        if own.has(found) {
            // An earlier session of the user at this frontend.
            return Step::Write(Claim::Unchanged(revision));
        }
        if own.is_named(found) {
            // Another life of this server, which cannot be asked. Its claims end with its lease.
            return Step::Wait;
        }
        if kind(&owner) == Kind::Pitaya {
            if self.unique == SessionsPerUser::One(Conflict::RejectNew) {
                return Step::Taken(owner);
            }
            self.after_pitaya = true;
            return Step::Write(Claim::Unchanged(revision));
        }
        self.after_pitaya = false;
        if self.notified == Some(revision)
            && !notice
            && self.unique == SessionsPerUser::One(Conflict::RejectNew)
        {
            // The owner has read the notice, and its claim stays.
            return Step::Taken(owner);
        }
        if std::mem::take(&mut self.may_be_orphan)
            && before.is_some_and(|before| before.revision == revision)
        {
            return self.notify(owner, revision, found.lease);
        }
        // Also after a notice: NATS may reach it by now.
        Step::Ask {
            owner,
            revision,
            lease: found.lease,
        }
    }

    fn replied(&mut self, word: OwnerReply) -> Step {
        // An answer without a question cannot be; to begin again is always right.
        let Some(Found {
            owner: Some(owner),
            revision,
            lease,
        }) = self.seen.clone()
        else {
            return Step::Write(Claim::Missing);
        };
        match word {
            OwnerReply::Released => Step::Write(Claim::Unchanged(revision)),
            OwnerReply::Keeps => Step::Taken(owner),
            #[cfg(test)]
            OwnerReply::NoSubscriber if self.no_responder_is_death => {
                Step::Write(Claim::Unchanged(revision))
            }
            OwnerReply::NoReply | OwnerReply::NoSubscriber if self.notified == Some(revision) => {
                Step::Wait
            }
            OwnerReply::NoReply => self.notify(owner, revision, lease),
            OwnerReply::NoSubscriber => {
                self.may_be_orphan = true;
                Step::Write(Claim::Orphan { revision, owner })
            }
        }
    }

    fn notify(&mut self, owner: ServerId, revision: i64, lease: i64) -> Step {
        self.notified = Some(revision);
        Step::Notify {
            owner,
            revision,
            lease,
        }
    }

    /// The frontend that is waited for, for the text of an error.
    pub(crate) fn waits_for(&self) -> Option<&ServerId> {
        self.seen.as_ref()?.owner.as_ref()
    }
}

/// The fate of a claim that this frontend believes to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is there, at this revision.
    Holds(i64),
    /// It is to be written again.
    Missing(Claim),
    /// Another frontend owns the user, or another life of this one.
    Lost(Option<ServerId>),
}

/// Compares what etcd holds with what this frontend believes.
pub(crate) fn verdict(own: Own<'_>, found: Option<&Found>) -> Verdict {
    match found {
        None => Verdict::Missing(Claim::Missing),
        Some(found) if own.is_named(found) && found.lease == own.lease => {
            Verdict::Holds(found.revision)
        }
        Some(found) if own.has(found) => Verdict::Missing(Claim::Unchanged(found.revision)),
        Some(found) => Verdict::Lost(found.owner.clone()),
    }
}

/// Whether a server may write itself into the list, from the life that holds its id at etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The id is free: on the condition that it stays so.
    IfFree,
    /// This life holds it: on the condition that it still does.
    IfOwn,
    /// Another life has it.
    Taken,
}

pub(crate) fn entry(holder: Option<&[u8]>, life: &str) -> Entry {
    match holder {
        None => Entry::IfFree,
        Some(holder) if holder == life.as_bytes() => Entry::IfOwn,
        Some(_) => Entry::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> ServerId {
        ServerId::new(id).unwrap()
    }

    fn found(owner: &str, lease: i64, revision: i64) -> Found {
        Found {
            owner: ServerId::new(owner).ok(),
            lease,
            revision,
        }
    }

    /// Plays a takeover: each line is what was heard and the step that must follow.
    fn plays(
        unique: SessionsPerUser,
        kind: Kind,
        lines: impl IntoIterator<Item = (StepOutcome, Step)>,
    ) {
        let own = id("front-1");
        let mut takeover = Takeover::new(unique);
        for (n, (outcome, step)) in lines.into_iter().enumerate() {
            let own = Own { id: &own, lease: 1 };
            assert_eq!(takeover.next(own, outcome, |_| kind), step, "line {n}");
        }
    }

    fn there(owner: &str, lease: i64, revision: i64, notice: bool) -> StepOutcome {
        StepOutcome::Found {
            found: Some(found(owner, lease, revision)),
            notice,
        }
    }

    fn start() -> (StepOutcome, Step) {
        (StepOutcome::Nothing, Step::Write(Claim::Missing))
    }

    fn ask(revision: i64) -> Step {
        Step::Ask {
            owner: id("front-2"),
            revision,
            lease: 2,
        }
    }

    const OWNED: Step = Step::Owned {
        revision: 9,
        after_pitaya: false,
    };

    #[test]
    fn a_free_user_and_one_of_this_frontend() {
        plays(
            SessionsPerUser::One(Conflict::RejectNew),
            Kind::Ours,
            [start(), (StepOutcome::Written(9), OWNED)],
        );
        for lease in [0, 1] {
            let own = (
                there("front-1", lease, 3, false),
                Step::Write(Claim::Unchanged(3)),
            );
            plays(
                SessionsPerUser::One(Conflict::ReplaceOld),
                Kind::Ours,
                [start(), own, (StepOutcome::Written(9), OWNED)],
            );
        }
        let odd = (
            there("no . server", 5, 3, false),
            Step::Write(Claim::Unchanged(3)),
        );
        plays(
            SessionsPerUser::One(Conflict::ReplaceOld),
            Kind::Ours,
            [start(), odd],
        );
        let earlier_life = (there("front-1", 2, 3, false), Step::Wait);
        plays(
            SessionsPerUser::One(Conflict::ReplaceOld),
            Kind::Ours,
            [start(), earlier_life],
        );
    }

    #[test]
    fn an_unreachable_owner_is_notified_over_etcd_and_waited_for() {
        let tell = Step::Notify {
            owner: id("front-2"),
            revision: 3,
            lease: 2,
        };
        let orphan = Step::Write(Claim::Orphan {
            revision: 3,
            owner: id("front-2"),
        });
        let until_notified = |word, step: &Step| {
            vec![
                start(),
                (there("front-2", 2, 3, false), ask(3)),
                (StepOutcome::Replied(word), step.clone()),
            ]
        };
        for unique in [
            SessionsPerUser::One(Conflict::ReplaceOld),
            SessionsPerUser::One(Conflict::RejectNew),
        ] {
            let mut unheard = until_notified(OwnerReply::NoSubscriber, &orphan);
            unheard.extend([
                (there("front-2", 2, 3, false), tell.clone()),
                (StepOutcome::Notified, Step::Wait),
                (there("front-2", 2, 3, true), ask(3)),
                (StepOutcome::Replied(OwnerReply::NoSubscriber), Step::Wait),
                (
                    StepOutcome::Found {
                        found: None,
                        notice: false,
                    },
                    Step::Write(Claim::Missing),
                ),
                (StepOutcome::Written(9), OWNED),
            ]);
            plays(unique, Kind::Ours, unheard);
            let mut silent = until_notified(OwnerReply::NoReply, &tell);
            silent.extend([
                (StepOutcome::Notified, Step::Wait),
                (there("front-2", 2, 3, true), ask(3)),
                (
                    StepOutcome::Replied(OwnerReply::Released),
                    Step::Write(Claim::Unchanged(3)),
                ),
                // It was bound there anew.
                (there("front-2", 2, 5, false), ask(5)),
            ]);
            plays(unique, Kind::Ours, silent);
        }
        let mut keeps = until_notified(OwnerReply::NoReply, &tell);
        keeps.extend([
            (StepOutcome::Notified, Step::Wait),
            (there("front-2", 2, 3, false), Step::Taken(id("front-2"))),
        ]);
        plays(SessionsPerUser::One(Conflict::RejectNew), Kind::Ours, keeps);
        let mut dead = until_notified(OwnerReply::NoSubscriber, &orphan);
        dead.push((StepOutcome::Written(9), OWNED));
        plays(SessionsPerUser::One(Conflict::RejectNew), Kind::Ours, dead);
    }

    #[test]
    fn a_pitaya_frontend_is_notified_afterwards() {
        let over = (
            there("front-2", 2, 3, false),
            Step::Write(Claim::Unchanged(3)),
        );
        let owned = Step::Owned {
            revision: 9,
            after_pitaya: true,
        };
        plays(
            SessionsPerUser::One(Conflict::ReplaceOld),
            Kind::Pitaya,
            [start(), over, (StepOutcome::Written(9), owned)],
        );
        let taken = (there("front-2", 2, 3, false), Step::Taken(id("front-2")));
        plays(
            SessionsPerUser::One(Conflict::RejectNew),
            Kind::Pitaya,
            [start(), taken],
        );
    }

    #[test]
    fn a_claim_of_another_life_of_the_same_server_is_lost() {
        let me = id("front-1");
        let own = Own { id: &me, lease: 5 };
        let of = |found: Option<Found>| verdict(own, found.as_ref());
        assert_eq!(of(None), Verdict::Missing(Claim::Missing));
        assert_eq!(of(Some(found("front-1", 5, 3))), Verdict::Holds(3));
        assert_eq!(
            of(Some(found("front-1", 0, 3))),
            Verdict::Missing(Claim::Unchanged(3))
        );
        assert_eq!(
            of(Some(found("front-1", 4, 3))),
            Verdict::Lost(Some(me.clone()))
        );
        assert_eq!(
            of(Some(found("front-2", 5, 3))),
            Verdict::Lost(Some(id("front-2")))
        );
        assert_eq!(of(Some(found("", 5, 3))), Verdict::Lost(None));
    }

    #[test]
    fn one_life_has_an_id() {
        assert_eq!(entry(None, "a"), Entry::IfFree);
        assert_eq!(entry(Some(b"a"), "a"), Entry::IfOwn);
        assert_eq!(entry(Some(b"b"), "a"), Entry::Taken);
    }
}
