//! Single calls as `session.md` specifies them, beyond the model: order of steps, calls from listeners, texts.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use bytes::{Buf, Bytes};
use serde_json::json;
use shaddock_core::*;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// Enqueued without a wake-up.
const BUFFERED: Offer<'_> = Offer {
    latest: None,
    is_buffered: true,
};

fn service_with(config: SessionConfig) -> SessionService {
    let frontend = FrontendId::new("connector-1").unwrap();
    SessionService::new(frontend, SidAllocator::new(1, 1), config)
}

fn service() -> SessionService {
    service_with(SessionConfig::default())
}

fn create(service: &SessionService) -> Arc<Session> {
    service.create(ClientInfo::default())
}

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

fn received(session: &Session) -> (Bytes, Next) {
    let mut drained = Drained::default();
    let next = session.outbox().take(&mut drained);
    (drained.copy_to_bytes(drained.remaining()), next)
}

/// Notes words in order.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, word: impl Into<String>) {
        self.0.lock().unwrap().push(word.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl SessionEvents for Notes {
    fn bound(&self, _: &Arc<Session>, uid: &Uid) {
        self.note(format!("hook bind {uid}"));
    }

    fn unbound(&self, _: &Arc<Session>, uid: &Uid) {
        self.note(format!("hook unbind {uid}"));
    }

    fn closed(&self, _: &Arc<Session>, reason: &CloseReason) {
        self.note(format!("hook closed {reason}"));
    }
}

#[test]
fn everything_is_shareable() {
    fn check<T: Send + Sync + 'static>() {}
    check::<SessionService>();
    check::<Session>();
    check::<Outbox>();
    check::<Drained>();
    check::<ChannelService>();
    check::<Channel>();
    check::<ConnectionStats>();
}

#[test]
fn a_close_goes_step_by_step() {
    let service = service();
    let session = create(&service);
    session.bind(uid("ann")).unwrap();
    session.set("rid", "lobby").unwrap();
    session.send(Bytes::from_static(b"before ")).unwrap();
    let (notes, inner) = (Notes::default(), service.clone());
    let seen = notes.clone();
    let look = move |session: &Arc<Session>, reason: &CloseReason| {
        assert_eq!(reason, &CloseReason::kicked("bye"));
        assert_eq!(session.state(), SessionState::Closed);
        assert_eq!(session.close_reason().as_ref(), Some(reason));
        // Not to be found any more, but readable.
        assert!(inner.get(session.id()).is_none() && inner.get_by_uid("ann").is_empty());
        assert_eq!(
            (session.uid(), session.get("rid")),
            (Some(uid("ann")), Some(json!("lobby")))
        );
        // Nothing is accepted any more, and the kick is not written yet.
        assert_eq!(
            session.send(Bytes::from_static(b"late")),
            Err(SendError::Closed)
        );
        assert_eq!(session.outbox().stats().queued_bytes, 7);
        seen.note("looked");
    };
    session.on_closed(look).unwrap();
    assert!(session.close(CloseReason::kicked("bye")));
    assert!(!session.close(CloseReason::kicked("again")));
    assert_eq!(notes.take(), ["looked"]);
    let expected = [b"before ", &kick_package("bye", 3500)[..]].concat();
    assert_eq!(received(&session), (expected.into(), Next::CloseAfterFlush));
}

#[test]
fn the_hook_comes_first_then_listeners_in_order() {
    let service = service();
    let notes = Notes::default();
    assert!(service.set_events(Arc::new(notes.clone())));
    assert!(!service.set_events(Arc::new(notes.clone())));
    let session = create(&service);
    for n in 1..=2 {
        let words = notes.clone();
        session
            .on_closed(move |_, reason| words.note(format!("{n} {}", reason.name())))
            .unwrap();
    }
    session.bind(uid("ann")).unwrap();
    assert_eq!(notes.take(), ["hook bind ann"]);
    session.unbind(&uid("ann")).unwrap();
    assert_eq!(notes.take(), ["hook unbind ann"]);
    session.bind(uid("bob")).unwrap();
    notes.take();
    // No unbind event on a close.
    session.close(CloseReason::Idle);
    let closed = "hook closed nothing heard from the client for too long";
    assert_eq!(notes.take(), [closed, "1 idle", "2 idle"]);
}

/// Notes the events, and calls a function in each bind.
struct OnBind<F> {
    notes: Notes,
    call: F,
}

impl<F: Fn(&Arc<Session>, &Uid) + Send + Sync + 'static> SessionEvents for OnBind<F> {
    fn bound(&self, session: &Arc<Session>, uid: &Uid) {
        self.notes.bound(session, uid);
        (self.call)(session, uid);
    }

    fn unbound(&self, session: &Arc<Session>, uid: &Uid) {
        self.notes.unbound(session, uid);
    }

    fn closed(&self, session: &Arc<Session>, reason: &CloseReason) {
        self.notes.closed(session, reason);
    }
}

#[test]
fn calls_from_a_listener_are_dispatched_after_it_in_order() {
    let service = service();
    let notes = Notes::default();
    let words = notes.clone();
    let react = move |session: &Arc<Session>, uid: &Uid| {
        words.note("listener begins");
        session.unbind(uid).unwrap();
        session.close(CloseReason::Attack);
        // Removed at once; the event and the KICK follow.
        assert!(session.is_closed());
        assert_eq!(session.outbox().stats().queued_bytes, 0);
        words.note("listener ends");
    };
    service.set_events(Arc::new(OnBind {
        notes: notes.clone(),
        call: react,
    }));
    let session = create(&service);
    let words = notes.clone();
    session
        .on_closed(move |_, reason| words.note(reason.name()))
        .unwrap();
    assert_eq!(session.bind(uid("ann")), Ok(()));
    assert_eq!(
        notes.take(),
        [
            "hook bind ann",
            "listener begins",
            "listener ends",
            "hook unbind ann",
            "hook closed asked for the method `constructor`",
            "attack",
        ]
    );
    assert_eq!(
        received(&session),
        (kick_package("attack", 3504), Next::CloseAfterFlush)
    );
}

#[test]
fn a_blocked_listener_holds_up_no_other_session() {
    let service = service();
    let (blocked, other) = (create(&service), create(&service));
    let (reached, is_reached) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    let is_released = Mutex::new(is_released);
    let first = blocked.id();
    let block = move |session: &Arc<Session>, _: &Uid| {
        if session.id() == first {
            reached.send(()).unwrap();
            is_released.lock().unwrap().recv().unwrap();
        }
    };
    service.set_events(Arc::new(OnBind {
        notes: Notes::default(),
        call: block,
    }));
    std::thread::scope(|scope| {
        scope.spawn(|| blocked.bind(uid("ann")).unwrap());
        is_reached.recv().unwrap();
        // The same user, the same service, and even the same session go on.
        other.bind(uid("ann")).unwrap();
        blocked.send(Bytes::from_static(b"x")).unwrap();
        assert_eq!(service.get_by_uid("ann").len(), 2);
        assert_eq!(service.kick("ann", None), 2);
        assert_eq!(received(&other).1, Next::CloseAfterFlush);
        // Its close is dispatched after the event that is being dispatched now.
        assert_eq!(
            received(&blocked),
            (Bytes::from_static(b"x"), Next::Continue)
        );
        release.send(()).unwrap();
    });
    assert_eq!(
        received(&blocked),
        (kick_package("kick", 3500), Next::CloseAfterFlush)
    );
}

#[test]
fn a_replaced_session_closes_before_the_new_one_is_bound() {
    for (conflict, bound) in [(Conflict::RejectNew, false), (Conflict::ReplaceOld, true)] {
        let config = SessionConfig::default().sessions_per_user(SessionsPerUser::One(conflict));
        let service = service_with(config);
        let notes = Notes::default();
        service.set_events(Arc::new(notes.clone()));
        let (old, new) = (create(&service), create(&service));
        old.bind(uid("ann")).unwrap();
        old.bind(uid("ann")).unwrap();
        let result = service.bind(new.id(), uid("ann"));
        if bound {
            assert_eq!(result, Ok(()));
            let told = [
                "hook bind ann",
                "hook closed replaced by a newer session of the user",
                "hook bind ann",
            ];
            assert_eq!(notes.take(), told);
            assert_eq!(
                received(&old),
                (kick_package("replaced", 3501), Next::CloseAfterFlush)
            );
            assert!(new.bind(uid("ann")).is_ok());
        } else {
            let error = result.unwrap_err();
            assert_eq!(
                error.to_string(),
                "singleSession is enabled, and session has already bind with uid: ann"
            );
            assert_eq!(old.state(), SessionState::Open);
            old.unbind(&uid("ann")).unwrap();
            assert_eq!(new.bind(uid("ann")), Ok(()));
        }
        assert_eq!(service.get_by_uid("ann").len(), 1);
    }
}

#[test]
fn only_some_reasons_flush_and_send_a_kick() {
    let queued = Bytes::from_static(b"queued");
    for (reason, expected, next) in [
        (
            CloseReason::Draining,
            Some("draining"),
            Next::CloseAfterFlush,
        ),
        (CloseReason::ClientClosed, None, Next::CloseAfterFlush),
        (CloseReason::Removed, None, Next::CloseAfterFlush),
    ] {
        let session = create(&service());
        session.send(queued.clone()).unwrap();
        session.close(reason);
        let kick = expected
            .map(|text| kick_package(text, 3001))
            .unwrap_or_default();
        assert_eq!(
            received(&session),
            ([&queued[..], &kick[..]].concat().into(), next)
        );
    }
    let reset = CloseReason::Transport(std::io::ErrorKind::ConnectionReset);
    for reason in [
        CloseReason::SlowClient,
        CloseReason::HeartbeatTimeout,
        reset,
    ] {
        let session = create(&service());
        session.send(queued.clone()).unwrap();
        session.close(reason);
        assert_eq!(received(&session), (Bytes::new(), Next::CloseNow));
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_and_counted() {
    let service = service_with(SessionConfig::default().outbox_bytes(10));
    let fast = create(&service);
    for send in [
        |session: &Arc<Session>| session.send(Bytes::from_static(b"67890x")),
        |session: &Arc<Session>| {
            let package = Bytes::from_static(b"67890x");
            session.offer(package, BUFFERED).map(drop)
        },
        |session: &Arc<Session>| {
            let encode = |buf: &mut bytes::BytesMut| {
                buf.extend_from_slice(b"67890x");
                Ok::<_, SendError>(())
            };
            session.send_with(encode).map_err(|error| match error {
                PushError::Send(error) | PushError::Encode(error) => error,
            })
        },
    ] {
        let slow = create(&service);
        slow.send(Bytes::from_static(b"12345")).unwrap();
        // Its socket takes nothing.
        slow.outbox().begin_poll(Waker::noop());
        assert!(!slow.outbox().end_poll(Flush::Blocked));
        assert_eq!(send(&slow), Err(SendError::SlowClient));
        assert_eq!(slow.close_reason(), Some(CloseReason::SlowClient));
        assert!(service.get(slow.id()).is_none());
        assert_eq!(received(&slow), (Bytes::new(), Next::CloseNow));
        let too_large = SendError::TooLarge { len: 11, limit: 10 };
        assert_eq!(fast.send(Bytes::from(vec![0; 11])), Err(too_large));
    }
    assert_eq!(service.session_count(), 1);
    assert!(service.statistics().closed.contains(&("slow_client", 3)));
}

#[test]
fn settings_are_bounded_and_written_all_or_none() {
    let service = service_with(SessionConfig::default().max_settings(2));
    let session = create(&service);
    session.set("a", 1).unwrap();
    let three = ["a", "b", "c"].map(|key| (key.to_owned(), json!(2)));
    let too_many = SettingError::TooMany { limit: 2 };
    assert_eq!(session.set_all(three.clone()), Err(too_many));
    assert_eq!(session.get("a"), Some(json!(1)));
    session.set_all(three[..2].to_vec()).unwrap();
    session.set("a", 3).unwrap();
    assert_eq!(
        serde_json::to_string(&session.settings()).unwrap(),
        r#"{"a":3,"b":2}"#
    );
    session.close(CloseReason::Removed);
    let sid = session.id();
    let gone = SettingError::NoSuchSession { sid };
    assert_eq!(
        gone.to_string(),
        format!("session does not exist, sid: {sid}")
    );
    assert_eq!(session.set("a", 1), Err(gone.clone()));
    assert_eq!(session.set_all([]), Err(gone));
}

#[test]
fn what_came_in_is_counted() {
    let session = create(&service());
    session.count_received(1, 20);
    session.count_received(2, 22);
    assert_eq!(
        (session.received_messages(), session.received_bytes()),
        (3, 42)
    );
}

#[test]
fn sessions_outlive_their_service() {
    let service = service();
    let session = create(&service);
    let notes = Notes::default();
    let words = notes.clone();
    session
        .on_closed(move |_, reason| words.note(reason.name()))
        .unwrap();
    drop(service);
    assert!(session.bind(uid("ann")).is_err());
    session.send(Bytes::from_static(b"x")).unwrap();
    assert!(session.close(CloseReason::Draining));
    assert_eq!(notes.take(), ["draining"]);
    assert_eq!(received(&session).1, Next::CloseAfterFlush);
}

/// All writes of few keys into settings of few keys: each is done as a whole, or changes nothing.
#[test]
fn settings_are_written_as_a_whole_or_not_at_all() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    const LIMIT: usize = 2;
    let subset = |bits: usize| {
        let chosen = KEYS
            .iter()
            .enumerate()
            .filter(move |(n, _)| bits >> n & 1 == 1);
        chosen.map(|(_, key)| (*key).to_owned()).collect::<Vec<_>>()
    };
    let with = |keys: Vec<String>, value: i32| -> Settings {
        keys.into_iter().map(|key| (key, json!(value))).collect()
    };
    let service = service_with(SessionConfig::default().max_settings(LIMIT));
    let mut refused = 0;
    for before in (0..16).filter(|bits: &usize| bits.count_ones() <= 2) {
        for removed in 0..16 {
            for set in 0..16 {
                let session = create(&service);
                session.replace_settings(with(subset(before), 1)).unwrap();
                let mut expected = session.settings();
                for key in subset(removed) {
                    expected.remove(&key);
                }
                expected.set_all(with(subset(set), 2).to_map());
                let fits = expected.len() <= LIMIT;
                if !fits {
                    refused += 1;
                    expected = session.settings();
                }
                let changed =
                    session.change_settings(with(subset(set), 2).to_map(), &subset(removed));
                assert_eq!(changed.is_ok(), fits);
                assert_eq!(session.settings(), expected);

                let new = with(subset(set), 3);
                let replaced = session.replace_settings(new.clone());
                assert_eq!(replaced.is_ok(), new.len() <= LIMIT);
                let expected = if replaced.is_ok() { new } else { expected };
                assert_eq!(session.settings(), expected);
                session.close(CloseReason::Removed);
                assert!(session.change_settings([], &subset(removed)).is_err());
                assert_eq!(
                    session.settings(),
                    expected,
                    "a closed session keeps its settings"
                );
            }
        }
    }
    assert!(refused > 100);
}
