//! The reactions of a life to replies.

use std::sync::Arc;

use super::super::etcd::{Answer, If, Op, found};
use super::super::{Fault, TTL};
use super::{Life, Wait, id_key, key, notice_key, outcome_of};
use crate::owners::{Entry, Number, OwnerReply, StepOutcome, Verdict, entry};

impl Life {
    /// An answer of etcd; `None` if there was none in time.
    pub(crate) fn answer(&mut self, call: u64, answer: Option<Answer>) {
        let Some(wait) = self.waits.remove(&call) else {
            return;
        };
        match wait {
            Wait::Kept { .. }
            | Wait::Granted { .. }
            | Wait::IdRead { .. }
            | Wait::IdTaken { .. } => {
                self.answer_about_id(wait, answer);
            }
            Wait::Written { .. } | Wait::Notified(_) | Wait::Looked(_) => {
                self.answer_to_bind(wait, answer);
            }
            _ => self.answer_about_claim(wait, answer),
        }
    }

    pub(super) fn answer_about_id(&mut self, wait: Wait, answer: Option<Answer>) {
        match (wait, answer) {
            (Wait::Kept { asked, lease }, Some(Answer::Kept(kept))) if lease == self.lease => {
                if kept {
                    self.fence.confirmed(lease, asked, TTL);
                } else {
                    self.lease = 0;
                    self.fence.lease_lost();
                    self.flag = true;
                }
            }
            (Wait::Granted { asked }, Some(Answer::Granted(lease))) => {
                let id = id_key(self.id.as_str());
                let wait = Wait::IdRead { asked, lease };
                self.txn(wait, vec![], vec![], vec![], vec![id]);
            }
            (Wait::IdRead { asked, lease }, Some(Answer::Txn(_, _, read))) => {
                let holder = read[0].as_ref().map(|kv| kv.value.as_bytes());
                let id = id_key(self.id.as_str());
                let condition = match entry(holder, &self.token) {
                    _ if (self.fault == Fault::IdWithoutCondition) => vec![],
                    Entry::IfFree => vec![If::Missing(id.clone())],
                    Entry::IfOwn => vec![If::Has(id.clone(), self.token.clone())],
                    Entry::Taken => {
                        self.etcd(Wait::Nothing, Op::Revoke(lease));
                        return self.expelled();
                    }
                };
                let puts = vec![(id, self.token.clone(), lease)];
                self.txn(
                    Wait::IdTaken { asked, lease },
                    condition,
                    puts,
                    vec![],
                    vec![],
                );
            }
            (Wait::IdTaken { asked, lease }, Some(Answer::Txn(true, ..))) => {
                self.entered(asked, lease);
            }
            (Wait::Granted { .. } | Wait::IdRead { .. } | Wait::IdTaken { .. }, _) => {
                self.registering = false;
            }
            _ => {}
        }
    }

    pub(super) fn answer_to_bind(&mut self, wait: Wait, answer: Option<Answer>) {
        match (wait, answer) {
            (Wait::Written { bind, uid, lease }, answer) => {
                let outcome = self.settled(&uid, lease, answer);
                if let Some(bind) = bind {
                    self.go_on(bind, outcome);
                }
            }
            (Wait::Notified(bind), answer) => {
                self.go_on(bind, answer.map(|_| StepOutcome::Notified));
            }
            (Wait::Looked(bind), answer) => {
                let outcome = match answer {
                    Some(Answer::Txn(_, _, read)) => Some(outcome_of(&read)),
                    _ => None,
                };
                self.go_on(bind, outcome);
            }
            _ => {}
        }
    }

    pub(super) fn answer_about_claim(&mut self, wait: Wait, answer: Option<Answer>) {
        match (wait, answer) {
            (Wait::Checked { uid, number }, answer) => self.checked(&uid, number, answer),
            (Wait::CheckedAgain { uid, number, lease }, answer) => {
                let ok = match self.settled(&uid, lease, answer) {
                    Some(StepOutcome::Written(_)) => true,
                    Some(StepOutcome::Found { found, .. }) => {
                        if let Verdict::Lost(_) = self.verdict(found.as_ref()) {
                            self.claim_taken(&uid, number);
                        }
                        matches!(
                            self.verdict(found.as_ref()),
                            Verdict::Lost(_) | Verdict::Holds(_)
                        )
                    }
                    _ => false,
                };
                self.check_ended(ok);
            }
            (Wait::Doubtful(uid), Some(Answer::Txn(_, _, read))) => {
                let found = read[0].as_ref().map(found);
                if let Verdict::Holds(revision) = self.verdict(found.as_ref()) {
                    let number = Number { era: 1, revision };
                    if !self.table.renumber(&uid, number) {
                        self.give_up(&uid, Some(number));
                    }
                }
            }
            (Wait::Doubtful(uid), _) => self.maybe_claimed(&uid),
            (Wait::Unnoticed(uid), None) => self.delete_notice(&uid),
            (Wait::Deleted(uid, number), None) => self.give_up(&uid, Some(number)),
            _ => {}
        }
    }

    /// NATS, or the owner, has answered a question.
    pub(crate) fn replied(&mut self, call: u64, word: OwnerReply) {
        if let Some(&Wait::Replied(bind)) = self.waits.get(&call) {
            self.waits.remove(&call);
            self.go_on(bind, Some(StepOutcome::Replied(word)));
        }
    }

    /// A timer of its own.
    pub(crate) fn timer(&mut self, call: u64) {
        if let Some(Wait::Pause(bind)) = self.waits.remove(&call)
            && let Some(one) = self.binds.get(&bind)
        {
            let mut reads = vec![key(&one.uid)];
            let owner = one
                .takeover
                .waits_for()
                .map(|owner| notice_key(owner.as_str(), &one.uid));
            reads.extend(owner);
            self.txn(Wait::Looked(bind), vec![], vec![], vec![], reads);
        }
    }

    /// A claim was written under this lease, or was not.
    pub(super) fn settled(
        &mut self,
        uid: &Arc<str>,
        lease: i64,
        answer: Option<Answer>,
    ) -> Option<StepOutcome> {
        match answer {
            Some(Answer::Txn(true, revision, _)) if lease == self.lease => {
                let number = Number { era: 1, revision };
                if !self.table.claimed(uid, number) {
                    self.give_up(uid, Some(number));
                }
                Some(StepOutcome::Written(revision))
            }
            Some(Answer::Txn(false, _, read)) => Some(outcome_of(&read)),
            _ => {
                self.maybe_claimed(uid);
                None
            }
        }
    }

    pub(super) fn maybe_claimed(&mut self, uid: &Arc<str>) {
        let wait = Wait::Doubtful(Arc::clone(uid));
        self.txn(wait, vec![], vec![], vec![], vec![key(uid)]);
    }

    pub(super) fn give_up(&mut self, uid: &Arc<str>, number: Option<Number>) {
        let Some(number) = number else { return };
        let unchanged = vec![If::Unchanged(key(uid), number.revision)];
        let wait = Wait::Deleted(Arc::clone(uid), number);
        self.txn(wait, unchanged, vec![], vec![key(uid)], vec![]);
    }
}
