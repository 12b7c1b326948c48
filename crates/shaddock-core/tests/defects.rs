//! Regression tests for the defects of the original that concern sessions, statistics, channels and queues
//! (`session.md`, section 11). The number in a name is the number there. Those of the connector, of handlers and of backend
//! sessions have their tests in `shaddock-net` and `shaddock`.

// Tests panic on purpose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use bytes::{Buf, Bytes};
use serde_json::{Map, Value, json};
use shaddock_core::*;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use support::by_name;

const PROTOTYPE_NAMES: [&str; 5] = [
    "constructor",
    "toString",
    "__proto__",
    "__defineGetter__",
    "hasOwnProperty",
];

/// Enqueued without a wake-up.
const BUFFERED: Offer<'_> = Offer {
    latest: None,
    is_buffered: true,
};

fn service() -> SessionService {
    service_with(SessionConfig::default())
}

fn service_with(config: SessionConfig) -> SessionService {
    SessionService::new(front(1), SidAllocator::new(1, 1), config)
}

fn create(service: &SessionService) -> Arc<Session> {
    service.create(ClientInfo::default())
}

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

fn front(n: usize) -> FrontendId {
    FrontendId::new(format!("connector-{n}")).unwrap()
}

/// Everything queued for a client, and how the connection goes on.
fn received(session: &Session) -> (Bytes, Next) {
    let mut drained = Drained::default();
    let next = session.outbox().take(&mut drained);
    (drained.copy_to_bytes(drained.remaining()), next)
}

#[test]
fn defect_01_remove_deletes_the_setting_and_nothing_else() {
    let service = service();
    let session = create(&service);
    session.bind(uid("ann")).unwrap();
    session.set("uid", "a setting of that name").unwrap();
    assert_eq!(session.remove("uid"), Some(json!("a setting of that name")));
    assert_eq!(session.get("uid"), None);
    assert_eq!(session.uid(), Some(uid("ann")));
    assert_eq!(session.remove("frontendId"), None);
    assert_eq!(session.frontend_id(), &front(1));
}

#[test]
fn defect_02_uids_that_count_as_nothing_are_refused() {
    assert!(Uid::new("").is_err());
    for falsy in ["0", "null", "false", "undefined", "NaN"] {
        let service = service();
        let session = create(&service);
        session.bind(uid(falsy)).unwrap();
        let error = session.bind(uid("v")).unwrap_err();
        assert_eq!(error, BindError::AlreadyBound { uid: uid(falsy) });
        assert_eq!(
            error.to_string(),
            format!("session has already bind with {falsy}")
        );
        session.unbind(&uid(falsy)).unwrap();
        session.bind(uid(falsy)).unwrap();
        session.close(CloseReason::ClientClosed);
        assert!(service.get_by_uid(falsy).is_empty());
    }
}

#[test]
fn defect_03_a_uid_has_one_type() {
    // A number is not a uid; the text of a number is, and there is only one such text.
    assert!(serde_json::from_str::<Uid>("5").is_err());
    let service = service();
    let (first, second) = (create(&service), create(&service));
    first.bind(serde_json::from_str("\"5\"").unwrap()).unwrap();
    second.bind(uid("5")).unwrap();
    service.unbind(first.id(), &uid("5")).unwrap();
    service.unbind(second.id(), &uid("5")).unwrap();
    assert!(service.get_by_uid("5").is_empty());
}

#[test]
fn defect_04_unbind_and_remove_clean_the_index_however_the_sid_was_written() {
    let service = service();
    let session = create(&service);
    let same: Sid = session.id().to_string().parse().unwrap();
    service.bind(same, uid("ann")).unwrap();
    service.unbind(same, &uid("ann")).unwrap();
    assert!(service.get_by_uid("ann").is_empty());
    service.bind(session.id(), uid("ann")).unwrap();
    assert!(service.get(same).unwrap().close(CloseReason::Removed));
    assert!(service.get_by_uid("ann").is_empty());
    assert_eq!(service.session_count(), 0);
    assert_eq!(received(&session), (Bytes::new(), Next::CloseAfterFlush));
}

#[test]
fn defect_05_the_list_of_a_users_sessions_is_the_callers_own() {
    let service = service();
    let session = create(&service);
    session.bind(uid("ann")).unwrap();
    let mut list = service.get_by_uid("ann");
    list.clear();
    assert_eq!(service.get_by_uid("ann").len(), 1);
}

#[test]
fn defect_06_names_of_object_prototype_are_ordinary() {
    let service = service();
    let channels = ChannelService::new("chat-1", ChannelConfig::default());
    let stats = ConnectionStats::new(front(1));
    for name in PROTOTYPE_NAMES {
        assert_eq!(service.kick(name, None), 0);
        assert!(service.get_by_uid(name).is_empty());
        assert!(name.parse::<Sid>().is_err());
        assert!(channels.channel(name).is_none());
        assert!(!stats.remove_login(name, Sid::new(1).unwrap()));

        let session = create(&service);
        assert_eq!(session.get(name), None);
        session.set(name, 1).unwrap();
        session.bind(uid(name)).unwrap();
        let room = channels.create_channel(name).unwrap();
        assert!(by_name(&room).is_empty());
        assert!(room.add(&uid(name), &front(1)));
        assert_eq!(by_name(&room), [(uid(name), front(1))]);
        assert_eq!(service.kick(name, None), 1);
    }
    assert_eq!(service.session_count(), 0);
    assert_eq!(channels.channel_count(), PROTOTYPE_NAMES.len());
}

#[test]
fn defect_07_a_listener_that_closes_a_sibling_stops_no_kick() {
    let service = service();
    let sessions: Vec<_> = (0..4).map(|_| create(&service)).collect();
    for session in &sessions {
        session.bind(uid("ann")).unwrap();
        let service = service.clone();
        let close_others = move |session: &Arc<Session>, _: &CloseReason| {
            service.for_each_session(|other| {
                if other.id() != session.id() {
                    other.close(CloseReason::ClientClosed);
                }
            });
        };
        session.on_closed(close_others).unwrap();
    }
    assert!(service.kick("ann", None) >= 1);
    assert!(sessions.iter().all(|session| session.is_closed()));
    assert_eq!(service.session_count(), 0);
    assert!(service.get_by_uid("ann").is_empty());
}

#[test]
fn defect_08_a_kick_without_reason_sends_kick() {
    let service = service();
    let (first, second) = (create(&service), create(&service));
    first.bind(uid("ann")).unwrap();
    assert_eq!(service.kick("ann", None), 1);
    assert!(service.kick_by_session_id(second.id(), None));
    let kick = Bytes::from_static(b"\x05\0\0\x1d{\"reason\":\"kick\",\"code\":3500}");
    assert_eq!(received(&first), (kick.clone(), Next::CloseAfterFlush));
    assert_eq!(received(&second), (kick, Next::CloseAfterFlush));
    assert!(!service.kick_by_session_id(second.id(), None));
    assert_eq!(service.kick("nobody", Some("x")), 0);
}

/// Panics in every event, and counts binds and reports.
#[derive(Default)]
struct Panicking {
    binds: AtomicUsize,
    reports: AtomicUsize,
}

impl SessionEvents for Panicking {
    fn bound(&self, _: &Arc<Session>, _: &Uid) {
        self.binds.fetch_add(1, Ordering::Relaxed);
        panic!("hook of bind");
    }

    fn unbound(&self, _: &Arc<Session>, _: &Uid) {
        panic!("hook of unbind");
    }

    fn closed(&self, _: &Arc<Session>, _: &CloseReason) {
        panic!("hook of closed");
    }

    fn on_listener_panic(&self, _: &Arc<Session>, event: &str, message: &str) {
        let expected = match event {
            "bound" => message == "hook of bind",
            "unbound" => message == "hook of unbind",
            _ => message == "hook of closed" || message == "listener of kicked",
        };
        assert!(expected, "{event}: {message}");
        self.reports.fetch_add(1, Ordering::Relaxed);
        panic!("the reporter too");
    }
}

#[test]
fn defect_09_a_panicking_listener_affects_no_other() {
    let service = service();
    let events = Arc::new(Panicking::default());
    assert!(service.set_events(events.clone()));
    let later = Arc::new(AtomicUsize::new(0));
    let sessions: Vec<_> = (0..3).map(|_| create(&service)).collect();
    for session in &sessions {
        let on_closed = Arc::clone(&later);
        session
            .on_closed(|_, reason| panic!("listener of {}", reason.name()))
            .unwrap();
        session
            .on_closed(move |_, _| _ = on_closed.fetch_add(1, Ordering::Relaxed))
            .unwrap();
        // The callers of bind and unbind receive the result, and the events after a panic are dispatched.
        session.bind(uid("ann")).unwrap();
        session.unbind(&uid("ann")).unwrap();
        session.bind(uid("ann")).unwrap();
    }
    // All are kicked, and the connections are told to close.
    assert_eq!(service.kick("ann", None), 3);
    for session in &sessions {
        assert_eq!(
            received(session),
            (kick_package("kick", 3500), Next::CloseAfterFlush)
        );
    }
    assert_eq!(service.session_count(), 0);
    assert_eq!(events.binds.load(Ordering::Relaxed), 6);
    assert_eq!(later.load(Ordering::Relaxed), 3);
    assert_eq!(events.reports.load(Ordering::Relaxed), 15);
    assert_eq!(service.statistics().listener_panics, 15);
}

#[test]
fn defect_10_a_walk_over_bound_sessions_may_close_them() {
    let service = service();
    for n in 0..6 {
        create(&service).bind(uid(["ann", "bob"][n % 2])).unwrap();
    }
    let mut seen = 0;
    service.for_each_bound_session(|session| {
        seen += 1;
        service.kick(session.uid().unwrap().as_str(), None);
    });
    assert_eq!((seen, service.session_count()), (6, 0));
}

/// Notes binds and unbinds in order.
#[derive(Default)]
struct Binds(Mutex<Vec<String>>);

impl SessionEvents for Binds {
    fn bound(&self, _: &Arc<Session>, uid: &Uid) {
        self.0.lock().unwrap().push(format!("bind {uid}"));
    }

    fn unbound(&self, _: &Arc<Session>, uid: &Uid) {
        self.0.lock().unwrap().push(format!("unbind {uid}"));
    }
}

#[test]
fn defect_11_every_call_has_its_result_and_its_events_before_it_returns() {
    let service = service();
    let session = create(&service);
    let events = Arc::new(Binds::default());
    assert!(service.set_events(Arc::clone(&events) as Arc<dyn SessionEvents>));
    let heard = &events.0;
    let unknown = Sid::new(1).unwrap();
    assert_eq!(
        service.bind(unknown, uid("a")),
        Err(BindError::NoSuchSession { sid: unknown })
    );
    assert_eq!(
        service.unbind(unknown, &uid("a")),
        Err(UnbindError::NoSuchSession { sid: unknown })
    );
    assert_eq!(service.bind(session.id(), uid("a")), Ok(()));
    assert_eq!(*heard.lock().unwrap(), ["bind a"]);
    assert_eq!(service.bind(session.id(), uid("a")), Ok(()));
    assert_eq!(
        service.bind(session.id(), uid("b")),
        Err(BindError::AlreadyBound { uid: uid("a") })
    );
    assert_eq!(*heard.lock().unwrap(), ["bind a"]);
    assert_eq!(service.unbind(session.id(), &uid("a")), Ok(()));
    assert_eq!(*heard.lock().unwrap(), ["bind a", "unbind a"]);
}

#[test]
fn defect_12_nested_settings_are_not_shared() {
    let service = service();
    let session = create(&service);
    session.set("bag", json!({"gold": [1, {"x": 1}]})).unwrap();
    let (other, mut copy) = (session.settings(), session.settings());
    let mut bag = copy.get("bag").unwrap().clone();
    bag["gold"][1]["x"] = json!(2);
    copy.set("bag", bag);
    assert_eq!(session.get("bag").unwrap()["gold"][1]["x"], 1);
    assert_eq!(other.get("bag").unwrap()["gold"][1]["x"], 1);
    session
        .set("bag", copy.get("bag").unwrap().clone())
        .unwrap();
    assert_eq!(session.get("bag").unwrap()["gold"][1]["x"], 2);
    assert_eq!(other.get("bag").unwrap()["gold"][1]["x"], 1);
}

#[test]
fn defect_13_settings_take_objects_and_a_copy_changes_nothing() {
    let service = service();
    let session = create(&service);
    let mut copy = session.settings();
    let values: Map<String, Value> = [("a".into(), json!(1)), ("b".into(), json!({}))]
        .into_iter()
        .collect();
    copy.set_all(values);
    assert_eq!(copy.get("a"), Some(&json!(1)));
    assert!(session.settings().is_empty());
    session.set_all(copy.to_map()).unwrap();
    assert_eq!(session.settings().len(), 2);
}

#[test]
fn defect_14_listeners_are_few_can_be_taken_away_and_end_with_the_session() {
    let service = service_with(SessionConfig::default().max_listeners(3));
    let session = create(&service);
    let held = Arc::new(());
    let add = || {
        let held = Arc::clone(&held);
        session.on_closed(move |_, _| drop(held))
    };
    // A handler that adds one per request.
    let ids: Vec<_> = (0..3).map(|_| add().unwrap()).collect();
    assert_eq!(add().unwrap_err(), ListenerError::TooMany { limit: 3 });
    assert_eq!(Arc::strong_count(&held), 4);
    assert!(session.off(ids[1]));
    assert_eq!(Arc::strong_count(&held), 3);
    assert!(!session.off(ids[1]));
    add().unwrap();
    assert_eq!(Arc::strong_count(&held), 4);
    session.close(CloseReason::ClientClosed);
    assert_eq!(Arc::strong_count(&held), 1);
    let late = add().unwrap_err();
    assert_eq!(late, ListenerError::SessionClosed { sid: session.id() });
}

#[test]
fn defect_16_a_sid_is_never_given_twice() {
    let mut seen = std::collections::HashSet::new();
    for (boot, node) in [(10, 1), (10, 2), (11, 1)] {
        let service = SessionService::new(
            front(1),
            SidAllocator::new(boot, node),
            SessionConfig::default(),
        );
        for _ in 0..100 {
            let session = create(&service);
            assert!(seen.insert(session.id()), "{boot} {node}");
            session.close(CloseReason::ClientClosed);
        }
    }
}

#[test]
fn defect_18_bind_on_a_session_goes_through_the_index_and_fails_after_the_close() {
    let service = service();
    let session = create(&service);
    session.bind(uid("ann")).unwrap();
    assert_eq!(service.get_by_uid("ann").len(), 1);
    session.close(CloseReason::ClientClosed);
    let other = create(&service);
    other.close(CloseReason::ClientClosed);
    let error = other.bind(uid("ann")).unwrap_err();
    assert_eq!(error, BindError::SessionClosed { sid: other.id() });
    assert_eq!(
        error.to_string(),
        format!("session does not exist, sid: {}", other.id())
    );
    assert_eq!(other.uid(), None);
    assert!(service.get_by_uid("ann").is_empty());
    // The closed session can be read, and no write succeeds.
    assert_eq!(session.uid(), Some(uid("ann")));
    for error in [
        session.set("a", 1).unwrap_err().to_string(),
        session.set_all([]).unwrap_err().to_string(),
        session.bind(uid("ann")).unwrap_err().to_string(),
        session.unbind(&uid("ann")).unwrap_err().to_string(),
    ] {
        assert_eq!(
            error,
            format!("session does not exist, sid: {}", session.id())
        );
    }
}

#[test]
fn defect_19_the_unbind_error_names_the_uid_asked_for() {
    let service = service();
    let session = create(&service);
    let error = service.unbind(session.id(), &uid("bob")).unwrap_err();
    assert_eq!(error.to_string(), "session has not bind with bob");
    session.bind(uid("ann")).unwrap();
    let error = service.unbind(session.id(), &uid("bob")).unwrap_err();
    assert_eq!(error, UnbindError::NotBound { uid: uid("bob") });
}

#[test]
fn defect_22_a_user_is_logged_in_until_the_last_session_ends() {
    let stats = ConnectionStats::new(front(1));
    let login = |sid: u64, port: u16| LoginRecord {
        uid: uid("ann"),
        sid: Sid::new(sid).unwrap(),
        login_time: sid,
        address: Some(SocketAddr::from(([127, 0, 0, 1], port))),
    };
    stats.add_login(login(1, 1000));
    stats.add_login(login(2, 2000));
    stats.add_login(login(2, 2001));
    assert_eq!(stats.statistics(2).logins, 1);
    assert!(stats.remove_login("ann", Sid::new(1).unwrap()));
    assert!(!stats.remove_login("ann", Sid::new(1).unwrap()));
    assert_eq!(
        serde_json::to_value(stats.statistics(1)).unwrap(),
        json!({
            "serverId": "connector-1", "totalConnCount": 1, "loginedCount": 1,
            "loginedList": [
                {"uid": "ann", "sid": 2, "loginTime": 2, "address": "127.0.0.1:2001"}
            ],
        })
    );
    assert!(stats.remove_login("ann", Sid::new(2).unwrap()));
    assert_eq!(stats.statistics(0).logins, 0);
}

#[test]
fn defect_28_a_member_is_there_once() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let room = service.create_channel("lobby").unwrap();
    assert!(room.add(&uid("ann"), &front(1)));
    assert!(!room.add(&uid("ann"), &front(1)));
    assert_eq!(by_name(&room), [(uid("ann"), front(1))]);
    assert!(room.leave("ann", "connector-1"));
    assert!(!room.leave("ann", "connector-1"));
    assert!(room.fan_out().unwrap().is_empty());
}

#[test]
fn defect_29_a_user_on_two_frontends_is_two_members() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let room = service.create_channel("lobby").unwrap();
    room.add(&uid("ann"), &front(1));
    room.add(&uid("ann"), &front(2));
    assert_eq!(
        by_name(&room),
        [(uid("ann"), front(1)), (uid("ann"), front(2))]
    );
    assert!(room.leave("ann", "connector-2"));
    assert_eq!(by_name(&room), [(uid("ann"), front(1))]);
}

/// A store that notes what it is asked.
#[derive(Clone, Default)]
struct Noting {
    store: Arc<MemoryStore>,
    calls: Arc<Mutex<Vec<String>>>,
    broken: bool,
    panics: bool,
}

impl Noting {
    fn note(&self, call: String) -> Result<(), StoreError> {
        self.calls.lock().unwrap().push(call);
        assert!(!self.panics, "a store of the application");
        if self.broken {
            Err(StoreError("out of order".into()))
        } else {
            Ok(())
        }
    }

    fn service(&self) -> ChannelService {
        let config = ChannelConfig::default()
            .prefix("p".into())
            .store(Arc::new(self.clone()));
        ChannelService::new("chat-1", config)
    }
}

impl ChannelStore for Noting {
    fn add(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.note(format!("add {key} {value}"))?;
        self.store.add(key, value)
    }

    fn remove(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.note(format!("remove {key} {value}"))?;
        self.store.remove(key, value)
    }

    fn remove_all(&self, key: &str) -> Result<(), StoreError> {
        self.note(format!("removeAll {key}"))?;
        self.store.remove_all(key)
    }

    fn load(&self, key: &str) -> Result<Vec<String>, StoreError> {
        self.note(format!("load {key}"))?;
        self.store.load(key)
    }
}

#[test]
fn defect_30_the_store_receives_only_real_changes() {
    let store = Noting::default();
    let service = store.service();
    let room = service.create_channel("lobby").unwrap();
    service.create_channel("lobby").unwrap();
    // A member without frontend cannot even be written down.
    assert!(FrontendId::new("").is_err());
    room.add(&uid("ann"), &front(1));
    room.add(&uid("ann"), &front(1));
    room.leave("bob", "connector-1");
    room.leave("ann", "connector-2");
    room.leave("ann", "connector-1");
    room.add(&uid("bob"), &front(1));
    room.destroy();
    room.destroy();
    room.leave("bob", "connector-1");
    room.add(&uid("bob"), &front(1));
    assert_eq!(
        *store.calls.lock().unwrap(),
        [
            "add p:chat-1 lobby",
            "add p:chat-1:lobby connector-1:ann",
            "remove p:chat-1:lobby connector-1:ann",
            "add p:chat-1:lobby connector-1:bob",
            "removeAll p:chat-1:lobby",
            "remove p:chat-1 lobby",
        ]
    );
}

#[test]
fn defect_31_a_push_to_a_destroyed_channel_gets_an_error() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let room = service.create_channel("lobby").unwrap();
    room.add(&uid("ann"), &front(1));
    assert!(room.destroy());
    let error = room.fan_out().unwrap_err();
    assert_eq!(error, ChannelError::Destroyed);
    assert_eq!(error.to_string(), "channel is not running now");
}

#[test]
fn defect_32_destroying_a_stale_channel_leaves_the_new_one_alone() {
    let service = ChannelService::new("chat-1", ChannelConfig::default());
    let old = service.create_channel("lobby").unwrap();
    old.add(&uid("ann"), &front(1));
    assert!(service.channel("lobby").unwrap().destroy());
    assert_eq!(old.state(), ChannelState::Destroyed);
    assert!(!old.add(&uid("bob"), &front(1)));
    assert_eq!(
        by_name(&old),
        [(uid("ann"), front(1))],
        "members stay in the object"
    );
    let new = service.create_channel("lobby").unwrap();
    new.add(&uid("ann"), &front(1));
    assert!(!old.destroy());
    assert!(old.leave("ann", "connector-1"));
    assert!(Arc::ptr_eq(&service.channel("lobby").unwrap(), &new));
    assert_eq!(service.channel_count(), 1);
    // The index still leads to the new channel.
    assert_eq!(service.remove_member_everywhere("ann", "connector-1"), 1);
    assert_eq!(by_name(&new).len(), 0);
}

#[test]
fn defect_33_restored_channels_are_as_they_were() {
    let store = Noting::default();
    let before = store.service();
    for (name, members) in [
        ("a:b", &["ann*a:b", "1", "x:y:z"][..]),
        ("second", &["ann"]),
        ("constructor", &[]),
    ] {
        let room = before.create_channel(name).unwrap();
        for (n, member) in members.iter().enumerate() {
            room.add(&uid(member), &front(n % 2));
        }
    }
    let after = store.service();
    assert_eq!(after.restore(), Ok(3));
    assert_eq!(after.channel_count(), 3);
    for name in before.names() {
        let (old, new) = (
            before.channel(&name).unwrap(),
            after.channel(&name).unwrap(),
        );
        assert_eq!(new.members_by_frontend(), old.members_by_frontend());
        assert_eq!(by_name(&new).len(), by_name(&old).len());
    }
    assert_eq!(after.remove_member_everywhere("ann", "connector-0"), 1);

    // An error is an error: nothing crashes, nothing is there in part.
    store.store.add("p:chat-1:second", "nobody").unwrap();
    let after = store.service();
    assert!(matches!(
        after.restore(),
        Err(RestoreError::BadMember { .. })
    ));
    assert_eq!(after.channel_count(), 0);
    let broken = Noting {
        broken: true,
        ..store.clone()
    };
    let after = broken.service();
    assert_eq!(
        after.restore(),
        Err(RestoreError::Store(StoreError("out of order".into())))
    );
    let room = after.create_channel("lobby").unwrap();
    assert!(room.add(&uid("ann"), &front(1)));
    assert_eq!(after.store_errors(), 2);

    // Nor does a panic harm anything else: each call of the store is on its own.
    let panics = Noting {
        panics: true,
        ..store
    };
    let after = panics.service();
    let room = after.create_channel("lobby").unwrap();
    assert!(room.add(&uid("ann"), &front(1)));
    room.store_join("bob", "connector-1");
    room.store_leave("bob", "connector-1");
    assert!(room.leave("ann", "connector-1"));
    assert!(room.destroy());
    assert_eq!(after.store_errors(), 7);
}

#[test]
fn defect_35_a_broadcast_to_bound_sessions_reaches_each_once() {
    let service = service();
    let mut sessions: Vec<_> = (0..5).map(|_| create(&service)).collect();
    sessions[..3]
        .iter()
        .for_each(|session| session.bind(uid("ann")).unwrap());
    sessions[3].bind(uid("bob")).unwrap();
    service.for_each_bound_session(|session| session.send(Bytes::from_static(b"x")).unwrap());
    let unbound = sessions.pop().unwrap();
    assert_eq!(received(&unbound).0, "");
    for session in sessions {
        assert_eq!(received(&session).0, "x");
    }
}

#[test]
fn defect_37_a_uid_listed_twice_gets_a_push_once() {
    let listed = [("ann", 1), ("bob", 1), ("ann", 1), ("ann", 2)];
    let plan = FanOutGroup::plan(listed.map(|(name, n)| (uid(name), front(n))));
    let groups: Vec<_> = plan.iter().map(|group| group.uids.len()).collect();
    assert_eq!(groups, [2, 1]);

    let service = service();
    let sessions: Vec<_> = (0..2).map(|_| create(&service)).collect();
    for session in &sessions {
        session.bind(uid("ann")).unwrap();
    }
    for name in &plan[0].uids {
        service.for_each_session_of(name.as_str(), |session| {
            session.send(Bytes::from_static(b"x")).unwrap();
        });
    }
    for session in sessions {
        assert_eq!(received(&session).0, "x");
    }
}

#[test]
fn defect_38_a_kick_comes_after_all_that_is_buffered() {
    let service = service();
    let session = create(&service);
    session.offer(Bytes::from_static(b"1"), BUFFERED).unwrap();
    session.send(Bytes::from_static(b"2")).unwrap();
    session.offer(Bytes::from_static(b"3"), BUFFERED).unwrap();
    service.kick_by_session_id(session.id(), Some("bye"));
    assert_eq!(
        session.send(Bytes::from_static(b"4")),
        Err(SendError::Closed)
    );
    let mut expected = b"123".to_vec();
    expected.extend_from_slice(&kick_package("bye", 3500));
    assert_eq!(received(&session), (expected.into(), Next::CloseAfterFlush));
}
