//! Binds a user at this frontend: with a claim where sessions are unique, and known to all servers that watch the user.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::{owners, promises};
use crate::owners::Hold;
use crate::uid::is_uid;
use crate::{BindError, Bound, RawSid, SessionsPerUser};

/// A bind that is not decided yet: what it has added to the table. Dropped, it takes that away, and nothing else.
struct Binding {
    core: Arc<Core>,
    uid: Arc<str>,
    hold: Hold,
    open: bool,
}

impl Binding {
    /// The bind is over. Whether the user is still this frontend's.
    fn keep(mut self, is_bound: &dyn Fn() -> bool) -> bool {
        self.open = false;
        self.core.users.keep(&self.uid, &self.hold, is_bound)
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if self.open {
            self.core.users.undo(&self.uid, &self.hold);
        }
    }
}

/// Binds a user at this frontend.
///
/// Binds on two frontends that ask each other to give the user up at the same time would both be lost. So a lost one begins again
/// after a while that differs, as if it had come later.
pub(super) async fn bind(core: Arc<Core>, uid: Arc<str>, sid: RawSid) -> Result<Bound, BindError> {
    if !is_uid(&uid) {
        return Err(BindError::IllegalUid);
    }
    let end = tokio::time::Instant::now() + core.config.takeover_timeout;
    let mut longest = 10;
    loop {
        let bound = attempt(&core, &uid, sid).await;
        if !matches!(bound, Err(BindError::Lost)) || tokio::time::Instant::now() > end {
            return bound;
        }
        let pause = crate::random::random_below(longest) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        longest = (longest * 2).min(500);
    }
}

async fn attempt(core: &Arc<Core>, uid: &Arc<str>, sid: RawSid) -> Result<Bound, BindError> {
    let unique = if core.info.frontend {
        core.options.sessions_per_user
    } else {
        SessionsPerUser::Any
    };
    let (hold, turn) = core.users.begin(uid, sid, unique)?;
    let binding = Binding {
        core: Arc::clone(core),
        uid: Arc::clone(uid),
        hold,
        open: true,
    };
    let mut waits_for = None;
    let settle = async {
        let turn = turn.lock_owned().await;
        core.users.subscribe(&core.link, uid).await?;
        if unique != SessionsPerUser::Any {
            owners::claim(core, uid, &mut waits_for).await?;
        }
        promises::keep(core, uid).await;
        Ok(turn)
    };
    let settled = tokio::time::timeout(core.config.takeover_timeout, settle).await;
    let turn = settled.unwrap_or_else(|_| Err(owners::took_too_long(waits_for)))?;
    if !core.users.holds(uid, &binding.hold) {
        // Another frontend took the user while we settled.
        return Err(BindError::Lost);
    }
    Ok(Bound::new(move |is_bound| {
        // The next bind of this user waits for the end of this one, so no other bind can come in between.
        let _turn = turn;
        is_bound.is_some_and(|is_bound| binding.keep(is_bound))
    }))
}
