//! Makes this frontend the owner of a user: the steps of a [`Takeover`], executed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use tokio::time::sleep;

use super::asking::{ask, leave_notice};
use super::claims::{read, write};
use crate::etcd::EtcdError;
use crate::nats::core::Core;
use crate::nats::subject;
use crate::nats::wire::{self, BindMsg};
use crate::owners::{Kind, Own, Step, StepOutcome, Takeover};
use crate::quiet::quiet;
use crate::{BindError, ServerId};

/// Time between reads of a claim whose owner does not reply.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Makes this frontend the owner of a user. The caller bounds the time; then `waits_for` is the frontend that did not reply.
pub(in crate::nats) async fn claim(
    core: &Arc<Core>,
    uid: &Arc<str>,
    waits_for: &mut Option<ServerId>,
) -> Result<(), BindError> {
    let mut takeover = Takeover::new(core.options.sessions_per_user);
    let mut outcome = StepOutcome::Nothing;
    loop {
        if core.is_fenced() {
            wait_until_verified(core).await?;
        }
        let unavailable = |e: EtcdError| BindError::Unavailable(e.to_string());
        let own = Own {
            id: &core.info.id,
            lease: core.lease.state().id,
        };
        let step = takeover.next(own, outcome, |owner| kind(core, owner));
        outcome = match step {
            Step::Write(claim) => {
                let seen = takeover.waits_for().cloned();
                write(core, uid, claim, seen).await.map_err(unavailable)?
            }
            Step::Ask {
                owner,
                revision,
                lease,
            } => {
                waits_for.clone_from(&Some(owner.clone()));
                StepOutcome::Replied(ask(core, owner, (revision, lease), uid).await)
            }
            Step::Notify {
                owner,
                revision,
                lease,
            } => {
                leave_notice(core, &owner, revision, lease, uid)
                    .await
                    .map_err(unavailable)?;
                StepOutcome::Notified
            }
            Step::Wait => {
                sleep(LOOK).await;
                let owner = takeover.waits_for();
                waits_for.clone_from(&owner.cloned());
                read(core, uid, owner).await.map_err(unavailable)?
            }
            Step::Owned { after_pitaya, .. } => {
                if after_pitaya {
                    core.users.key_may_go.notify_one();
                }
                notify_pitaya(core, uid);
                return Ok(());
            }
            Step::Taken(owner) => return Err(BindError::Taken(owner)),
        };
    }
}

/// A bind waits until the claims of this frontend are verified, and not longer than a push would wait.
async fn wait_until_verified(core: &Core) -> Result<(), BindError> {
    let verified = async {
        loop {
            let verified = core.claims_verified.notified();
            if !core.is_fenced() {
                return;
            }
            // The lease alone may be restored, which is not reported.
            let _ = tokio::time::timeout(LOOK, verified).await;
        }
    };
    let cut_off =
        |_| BindError::Unavailable("this server is disconnected from the cluster".to_owned());
    tokio::time::timeout(core.config.push_timeout(), verified)
        .await
        .map_err(cut_off)
}

/// A bind did not end in time.
pub(in crate::nats) fn took_too_long(waits_for: Option<ServerId>) -> BindError {
    BindError::Unavailable(match waits_for {
        Some(owner) => format!(
            "{owner} owns the user and does not reply; if it has died, the user is free when its lease ends (`lease_ttl`)"
        ),
        None => "it took too long".to_owned(),
    })
}

fn kind(core: &Core, owner: &ServerId) -> Kind {
    match core.members.server(owner.as_str()) {
        Some(info) if !info.is_shaddock() => Kind::Pitaya,
        _ => Kind::Ours,
    }
}

/// Pitaya frontends of this type learn of a bind by a broadcast.
fn notify_pitaya(core: &Core, uid: &Arc<str>) {
    if core.has_pitaya_frontend(&core.info.server_type) {
        let bound = BindMsg {
            uid: uid.to_string(),
            fid: core.info.id.as_str().to_owned(),
        };
        let subject = Subject::from(subject::bindings(&core.info.server_type));
        if let Err(error) = core.link.publish(subject, None, wire::encode(&bound)) {
            quiet!(warn, "Pitaya frontends were not notified of a bind", %error);
        }
    }
}
