//! Events of sessions for the application: in order per session, on the app's runtime, harmless to others.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hashbrown::HashMap;
use shaddock_cluster::SessionEvent as ClusterEvent;
use shaddock_core::{
    AudienceChange, CloseReason, EventKind as CoreEvent, Session, SessionEvents, Sid, Uid,
};

use super::{FrontendSession, SessionView, view::raw};
use crate::{
    app::{AppHandle, AppInner},
    handler::BoxFuture,
    history::Entry,
};

/// A listener of the application.
pub(crate) type EventHook = Arc<dyn Fn(AppHandle, SessionEvent) -> BoxFuture<()> + Send + Sync>;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The session was bound to a user.
    Bound,
    /// The user was taken away; the session stays open.
    Unbound,
    /// The connection is lost, and the session waits for its client.
    Suspended,
    /// The client has come back to its suspended session.
    Resumed,
    /// The session is closed.
    Closed,
}

impl EventKind {
    /// `bound`, `unbound`, `suspended`, `resumed` or `closed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Unbound => "unbound",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
        }
    }
}

/// Something that happened to a session of this frontend.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    session: FrontendSession,
    uid: Option<Uid>,
    reason: Option<CloseReason>,
    kind: EventKind,
}

impl SessionEvent {
    /// The session. Its user and settings are those of the moment the listener looks; after a close they stay as they were last.
    pub const fn session(&self) -> &FrontendSession {
        &self.session
    }

    /// The user the event is about: who was bound, who was unbound, or whose session was closed, if it was bound.
    pub const fn uid(&self) -> Option<&Uid> {
        self.uid.as_ref()
    }

    /// Why the session was closed; only of a close.
    pub const fn reason(&self) -> Option<&CloseReason> {
        self.reason.as_ref()
    }

    /// What happened.
    pub const fn kind(&self) -> EventKind {
        self.kind
    }
}

/// The application's listeners, and the events that wait for them.
#[derive(Default)]
pub(crate) struct EventHooks {
    bound: Vec<EventHook>,
    unbound: Vec<EventHook>,
    suspended: Vec<EventHook>,
    resumed: Vec<EventHook>,
    closed: Vec<EventHook>,
    waiting: [Mutex<HashMap<Sid, VecDeque<SessionEvent>>>; SHARDS],
}

const SHARDS: usize = 16;

impl EventHooks {
    pub(crate) fn add(&mut self, kind: EventKind, hook: EventHook) {
        match kind {
            EventKind::Bound => self.bound.push(hook),
            EventKind::Unbound => self.unbound.push(hook),
            EventKind::Suspended => self.suspended.push(hook),
            EventKind::Resumed => self.resumed.push(hook),
            EventKind::Closed => self.closed.push(hook),
        }
    }

    fn of(&self, kind: EventKind) -> &[EventHook] {
        match kind {
            EventKind::Bound => &self.bound,
            EventKind::Unbound => &self.unbound,
            EventKind::Suspended => &self.suspended,
            EventKind::Resumed => &self.resumed,
            EventKind::Closed => &self.closed,
        }
    }

    /// Whether events of this kind are kept. `bound` and `unbound` go together, and so do `suspended` and `resumed`: see [`put`].
    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Bound | EventKind::Unbound => {
                !self.bound.is_empty() || !self.unbound.is_empty()
            }
            EventKind::Suspended | EventKind::Resumed => {
                !self.suspended.is_empty() || !self.resumed.is_empty()
            }
            EventKind::Closed => !self.closed.is_empty(),
        }
    }

    fn shard(&self, sid: Sid) -> std::sync::MutexGuard<'_, HashMap<Sid, VecDeque<SessionEvent>>> {
        self.waiting[crate::shard_of(sid, SHARDS)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    /// For operators.
    fn keep_event(
        &self,
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) {
        self.history()
            .note(session.id(), || Entry::of(session, kind, uid, reason));
    }

    fn emit(
        &self,
        session: &Arc<Session>,
        kind: EventKind,
        uid: Option<Uid>,
        reason: Option<CloseReason>,
    ) {
        let hooks = &self.hooks().events;
        if !hooks.wants(kind) {
            return;
        }
        let Some(view) = FrontendSession::try_from_view(SessionView::of_session(self, session))
        else {
            return;
        };
        let sid = session.id();
        let event = SessionEvent {
            session: view,
            uid,
            reason,
            kind,
        };
        let mut shard = hooks.shard(sid);
        if let Some(queue) = shard.get_mut(&sid) {
            let lost = put(queue, event, self.config().max_waiting_events);
            drop(shard);
            self.stats().lost_events.add(lost);
            return;
        }
        let Ok(slot) = self.events().slot() else {
            drop(shard);
            self.stats().lost_events.add(1);
            return;
        };
        // The queue exists while a task works on it.
        shard.insert(sid, VecDeque::from([event]));
        drop(shard);
        let app = self.clone();
        slot.finish(
            "session events",
            async move { app.dispatch_events(sid).await },
        );
    }

    async fn dispatch_events(&self, sid: Sid) {
        while let Some(event) = self.next_event(sid) {
            for hook in self.hooks().events.of(event.kind) {
                let (app, hook, event) = (self.clone(), Arc::clone(hook), event.clone());
                // A panic or a timeout was logged; the next listener runs all the same.
                let _ = self
                    .limited("session listener", self.config().event_timeout, move || {
                        hook(app, event)
                    })
                    .await;
            }
        }
    }

    fn next_event(&self, sid: Sid) -> Option<SessionEvent> {
        let mut shard = self.hooks().events.shard(sid);
        let event = shard.get_mut(&sid)?.pop_front();
        if event.is_none() {
            shard.remove(&sid);
        }
        event
    }
}

/// The event and its session.
trait About {
    fn about(&self) -> (EventKind, Option<&Uid>);
}

impl About for SessionEvent {
    fn about(&self) -> (EventKind, Option<&Uid>) {
        (self.kind, self.uid())
    }
}

/// Adds an event to those that wait. Returns how many are lost.
///
/// How many wait says how busy we are, not what the client did, so nothing is held against it, and what listeners hear stays true: above the
/// bound, a user who was bound and is unbound again while the listeners are behind is not told of, nor is a connection that was lost and came
/// back. Who is bound in the end, and whether the session is suspended, is.
fn put<E: About>(queue: &mut VecDeque<E>, event: E, bound: usize) -> u64 {
    let is_closing = event.about().0 == EventKind::Closed;
    queue.push_back(event);
    if queue.len() <= bound || is_closing {
        return 0;
    }
    if let Some((begin, end)) = last_pair(queue) {
        queue.remove(end);
        queue.remove(begin);
        return 2;
    }
    // Without a pair, at most an end and a beginning of each kind wait. If there is more, something has told a user's coming twice.
    if queue.len() > bound + ALONE {
        queue.pop_back();
        return 1;
    }
    0
}

/// Events that may wait above the bound, because the other half of their pair was told already or is still to come.
const ALONE: usize = 4;

/// The last event that took back what an earlier one said, and that one: what happened between is as true without them.
fn last_pair<E: About>(queue: &VecDeque<E>) -> Option<(usize, usize)> {
    (0..queue.len()).rev().find_map(|end| {
        let (kind, went) = queue[end].about();
        let begins = match kind {
            EventKind::Unbound => EventKind::Bound,
            EventKind::Resumed => EventKind::Suspended,
            _ => return None,
        };
        let same = |event: &E| [begins, kind].contains(&event.about().0);
        let begin = queue.iter().take(end).rposition(same)?;
        let (found, came) = queue[begin].about();
        let is_same_user = kind == EventKind::Resumed || came == went;
        (found == begins && is_same_user).then_some((begin, end))
    })
}

/// What the session service tells the framework. It must not keep the app alive, which holds the service.
pub(crate) struct FrontendEvents(pub(crate) Weak<AppInner>);

impl FrontendEvents {
    fn app(&self) -> Option<AppHandle> {
        self.0.upgrade().map(AppHandle::from_inner)
    }
}

impl SessionEvents for FrontendEvents {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(app) = self.app() else { return };
        app.keep_event(session, EventKind::Bound, Some(uid.clone()), None);
        app.log_in(session, uid);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Bound(app.export(session)));
        }
        app.emit(session, EventKind::Bound, Some(uid.clone()), None);
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        let Some(app) = self.app() else { return };
        app.keep_event(session, EventKind::Unbound, Some(uid.clone()), None);
        app.log_out(session, uid);
        let user: Arc<str> = Arc::clone(uid.shared());
        if let Ok(membership) = app.membership() {
            // It may have been bound to the same user again before this event was told.
            if session.uid().as_ref() != Some(uid) {
                membership.unbind_user(&user, raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Unbound {
                session: app.export(session),
                uid: user,
            });
        }
        app.emit(session, EventKind::Unbound, Some(uid.clone()), None);
    }

    fn suspended(&self, session: &Arc<Session>) {
        let Some(app) = self.app() else { return };
        app.keep_event(session, EventKind::Suspended, session.uid(), None);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Suspended(app.export(session)));
        }
        app.emit(session, EventKind::Suspended, session.uid(), None);
    }

    fn resumed(&self, session: &Arc<Session>) {
        let Some(app) = self.app() else { return };
        app.keep_event(session, EventKind::Resumed, session.uid(), None);
        if let Ok(membership) = app.membership() {
            membership.publish_event(ClusterEvent::Resumed(app.export(session)));
        }
        app.emit(session, EventKind::Resumed, session.uid(), None);
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        let Some(app) = self.app() else { return };
        app.keep_event(
            session,
            EventKind::Closed,
            session.uid(),
            Some(reason.clone()),
        );
        app.filters().session_closed(&app, session.id());
        app.expiries().forget(session.id());
        let uid = session.uid();
        if let Some(uid) = &uid {
            app.log_out(session, uid);
        }
        if let Ok(membership) = app.membership() {
            if let Some(uid) = &uid {
                membership.unbind_user(uid.shared(), raw(session.id()));
            }
            membership.publish_event(ClusterEvent::Closed {
                session: app.export(session),
                reason: reason.name().into(),
            });
        }
        app.emit(session, EventKind::Closed, uid, Some(reason.clone()));
    }

    fn audience_changed(&self, change: &AudienceChange) {
        if let Some(app) = self.app() {
            app.audience_changed(change);
        }
    }

    fn audience_changes_lost(&self) {
        if let Some(app) = self.app() {
            app.audience_changes_lost();
        }
    }

    fn on_listener_panic(&self, session: &Arc<Session>, event: CoreEvent, message: &str) {
        if let Some(app) = self.app() {
            app.stats().panics.add(1);
        }
        shaddock_net::quiet!(error, "a listener of a session panicked", sid = %session.id(), %event, panic = message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event = (EventKind, Option<Uid>);

    impl About for Event {
        fn about(&self) -> (EventKind, Option<&Uid>) {
            (self.0, self.1.as_ref())
        }
    }

    /// What a listener has heard: who is bound, and whether the session is suspended. It must make sense at every step.
    #[derive(Debug, Default, PartialEq)]
    struct Story {
        bound: Option<Uid>,
        is_suspended: bool,
    }

    impl Story {
        fn hear(&mut self, (kind, uid): &Event) {
            match kind {
                EventKind::Bound => {
                    assert_eq!(self.bound, None, "bound twice");
                    self.bound.clone_from(uid);
                }
                EventKind::Unbound => {
                    assert_eq!(self.bound, *uid, "another user was unbound");
                    self.bound = None;
                }
                EventKind::Suspended => assert!(!std::mem::replace(&mut self.is_suspended, true)),
                EventKind::Resumed => assert!(std::mem::take(&mut self.is_suspended)),
                EventKind::Closed => assert_eq!(self.bound, *uid, "closed with another user"),
            }
        }

        /// What may happen next: `n` chooses.
        fn next(&self, n: u64) -> Event {
            let user = |n: u64| Uid::new(format!("user-{n}")).ok();
            match (n % 2, &self.bound) {
                (0, None) => (EventKind::Bound, user(n / 2 % 3)),
                (0, Some(uid)) => (EventKind::Unbound, Some(uid.clone())),
                _ if self.is_suspended => (EventKind::Resumed, self.bound.clone()),
                _ => (EventKind::Suspended, self.bound.clone()),
            }
        }
    }

    #[test]
    fn listeners_that_are_behind_receive_consistent_events() {
        // A small generator of our own: the seed is the case.
        for seed in 0..4000_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let limit = 1 + usize::try_from(next(8)).unwrap();
            let (mut queue, mut truth, mut heard) =
                (VecDeque::new(), Story::default(), Story::default());
            let (mut told, mut lost) = (0, 0);
            let steps = 1 + next(60);
            for _ in 0..steps {
                let event = truth.next(next(6));
                truth.hear(&event);
                lost += put(&mut queue, event, limit);
                assert!(queue.len() <= limit + ALONE, "seed {seed}: {queue:?}");
                if next(4) == 0 {
                    told += queue
                        .pop_front()
                        .iter()
                        .inspect(|event| heard.hear(event))
                        .count();
                }
            }
            let closed = (EventKind::Closed, truth.bound.clone());
            lost += put(&mut queue, closed, limit);
            told += queue.iter().inspect(|event| heard.hear(event)).count();
            assert_eq!(heard, truth, "seed {seed}");
            assert_eq!(told as u64 + lost, steps + 1, "seed {seed}");
        }
    }
}
