//! Questions of other frontends about claims, and how a life checks its own claims.

use std::sync::Arc;

use super::super::Fault;
use super::super::etcd::{Answer, If, found};
use super::{Life, Wait, key, notice_key};
use crate::owners::{ClaimAnswer, ClaimQuery, Found, Number, Own, Verdict, verdict};

impl Life {
    /// Asked over NATS, or by a notice. Whether the user is given up.
    pub(crate) fn asked(&mut self, uid: &Arc<str>, query: &ClaimQuery) -> Option<bool> {
        let lease = if self.fault == Fault::AnswersForOthers {
            query.lease
        } else {
            self.lease
        };
        Some(match self.table.asked(uid, query, lease) {
            ClaimAnswer::Other => return None,
            ClaimAnswer::Keep(_) => false,
            ClaimAnswer::Free | ClaimAnswer::Outdated => true,
            ClaimAnswer::Revoke => {
                self.revoke_user(uid);
                true
            }
        })
    }

    pub(crate) fn noticed(&mut self, uid: &Arc<str>, query: &ClaimQuery) {
        if self.ended {
            return;
        }
        let outdated = self.table.asked(uid, query, self.lease) == ClaimAnswer::Outdated;
        let Some(gives_up) = self.asked(uid, query) else {
            return;
        };
        let gives_up = gives_up && !outdated;
        if gives_up {
            let unchanged = vec![If::Unchanged(key(uid), query.revision)];
            self.txn(Wait::Nothing, unchanged, vec![], vec![key(uid)], vec![]);
        }
        self.delete_notice(uid);
    }

    pub(super) fn delete_notice(&mut self, uid: &Arc<str>) {
        let notice = notice_key(self.id.as_str(), uid);
        let wait = Wait::Unnoticed(Arc::clone(uid));
        self.txn(wait, vec![], vec![], vec![notice], vec![]);
    }

    pub(super) fn revoke_user(&mut self, uid: &Arc<str>) {
        self.table.revoke(uid);
        self.sessions
            .retain(|_, session| !(session.bound && session.uid == *uid));
    }

    pub(super) fn verdict(&self, found: Option<&Found>) -> Verdict {
        let own = Own {
            id: &self.id,
            lease: self.lease,
        };
        verdict(own, found)
    }

    pub(super) fn check_claims(&mut self) {
        let ticket = self.fence.begin();
        let claims: Vec<_> = self
            .table
            .claims()
            .map(|(uid, number)| (Arc::clone(uid), number))
            .collect();
        self.check = Some((ticket, claims.len() + 1, true));
        for (uid, number) in claims {
            let read = vec![key(&uid)];
            self.txn(Wait::Checked { uid, number }, vec![], vec![], vec![], read);
        }
        self.check_ended(true);
    }

    pub(super) fn checked(&mut self, uid: &Arc<str>, number: Number, answer: Option<Answer>) {
        let Some(Answer::Txn(_, _, read)) = answer else {
            return self.check_ended(false);
        };
        let seen = read[0].as_ref().map(found);
        match self.verdict(seen.as_ref()) {
            Verdict::Holds(_) => self.check_ended(true),
            Verdict::Lost(_) => {
                self.claim_taken(uid, number);
                self.check_ended(true);
            }
            Verdict::Missing(_) if self.table.claim(uid) != Some(number) => self.check_ended(true),
            Verdict::Missing(claim) => {
                let (uid, lease) = (Arc::clone(uid), self.lease);
                let user = Arc::clone(&uid);
                self.write(
                    Wait::CheckedAgain { uid, number, lease },
                    &user,
                    claim,
                    None,
                );
            }
        }
    }

    pub(super) fn claim_taken(&mut self, uid: &Arc<str>, number: Number) {
        if self.table.claim(uid) == Some(number) {
            self.revoke_user(uid);
        }
    }

    pub(super) fn check_ended(&mut self, ok: bool) {
        let Some((ticket, left, all_ok)) = &mut self.check else {
            return;
        };
        *left -= 1;
        *all_ok &= ok;
        if *left == 0 {
            let (ticket, all_ok) = (*ticket, *all_ok);
            self.check = None;
            if all_ok && self.fence.settle(ticket, self.now) {
                self.flag = false;
            }
        }
    }
}
