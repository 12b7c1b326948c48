//! Events of sessions, notices about members, and announcements of servers.

use std::sync::Arc;

use async_nats::Subject;
use futures_util::StreamExt;

use super::core::Core;
use super::inbox::Inbox;
use super::wire::{
    self, Event, EventKind, Goodbye, Notice, decode_or_log, session_of, session_to_wire,
};
use super::{servers, subject};
use crate::etcd::record;
use crate::reply::guarded;
use crate::{
    AudienceKey, Departure, MemberNotice, RemoteError, ServerId, ServerInfo, SessionEvent,
};

/// Publishes an event of a session of this frontend to the servers that subscribed to it.
pub(super) fn publish(core: &Core, event: &SessionEvent) {
    let own_type = &core.info.server_type;
    if core.options.session_events.wants_event(own_type, event) {
        guarded("session_event", || {
            core.node.session_event(own_type, event.clone());
        });
    }
    let subjects = core.interests.subjects(own_type, event.user());
    if subjects.is_empty() {
        return;
    }
    let (kind, session, text) = match event {
        SessionEvent::Bound(session) => (EventKind::Bound, session, ""),
        SessionEvent::Unbound { session, uid } => (EventKind::Unbound, session, &**uid),
        SessionEvent::Suspended(session) => (EventKind::Suspended, session, ""),
        SessionEvent::Resumed(session) => (EventKind::Resumed, session, ""),
        SessionEvent::Closed { session, reason } => (EventKind::Closed, session, &**reason),
        // All servers see this in the list.
        SessionEvent::FrontendLost(_) => return,
    };
    let event = Event {
        kind: kind as i32,
        frontend: core.info.id.as_str().to_owned(),
        session: Some(session_to_wire(session)),
        text: text.to_owned(),
        frontend_type: own_type.to_string(),
    };
    let event = wire::encode(&event);
    for subject in subjects {
        if let Err(error) = core.link.publish(subject, None, event.clone()) {
            tracing::debug!(%error, "listeners were not notified of a session event");
        }
    }
}

/// Reads events of sessions, until the subscription ends.
pub(super) async fn sessions(core: Arc<Core>, mut inbox: Inbox) {
    while let Some(message) = inbox.next().await {
        let Some(event) = decode_or_log::<Event>(&message) else {
            continue;
        };
        if event.frontend == core.info.id.as_str() {
            // This server was notified directly, not over NATS.
            continue;
        }
        let frontend_type = type_of(&event, || servers::find(&core, &event.frontend));
        let Some(event) = from_wire(event) else {
            tracing::debug!(%frontend_type, "an event of a session cannot be read");
            continue;
        };
        guarded("session_event", || {
            core.node.session_event(&frontend_type, event);
        });
    }
}

/// The type of the event's frontend. One of an older version does not tell it: then it is that of the list.
fn type_of(event: &Event, listed: impl FnOnce() -> Option<Arc<ServerInfo>>) -> Arc<str> {
    if event.frontend_type.is_empty()
        && let Some(info) = listed()
    {
        return Arc::clone(&info.server_type);
    }
    Arc::from(event.frontend_type.as_str())
}

fn from_wire(event: Event) -> Option<SessionEvent> {
    let session = session_of(event.session?, ServerId::new(event.frontend).ok());
    let text = Arc::from(event.text);
    match EventKind::try_from(event.kind).unwrap_or(EventKind::Unknown) {
        EventKind::Unknown => None,
        EventKind::Bound => Some(SessionEvent::Bound(session)),
        EventKind::Unbound => Some(SessionEvent::Unbound { session, uid: text }),
        EventKind::Suspended => Some(SessionEvent::Suspended(session)),
        EventKind::Resumed => Some(SessionEvent::Resumed(session)),
        EventKind::Closed => Some(SessionEvent::Closed {
            session,
            reason: text,
        }),
    }
}

/// Notifies a server that a user joined or left an audience that it watches.
pub(super) fn notify_member(
    core: &Core,
    to: &ServerInfo,
    notice: &MemberNotice,
) -> Result<(), RemoteError> {
    let notice = Notice {
        frontend: notice.frontend.as_str().to_owned(),
        number: notice.number,
        audience: notice.audience.as_str().to_owned(),
        uid: notice.uid.to_string(),
        departure: match notice.departure {
            None => 0,
            Some(Departure::Left) => 1,
            Some(Departure::Closed) => 2,
            Some(Departure::Unbound) => 3,
            Some(Departure::Ended) => 4,
            Some(Departure::FrontendLost) => 5,
        },
    };
    let subject = Subject::from(subject::member(to));
    core.link.publish(subject, None, wire::encode(&notice))
}

/// A user joined or left an audience that this server watches.
pub(super) fn member(core: &Core, message: &async_nats::Message) {
    let notice = decode_or_log::<Notice>(message).and_then(|notice| {
        Some(MemberNotice {
            frontend: ServerId::new(notice.frontend).ok()?,
            number: notice.number,
            audience: AudienceKey::parse(&notice.audience)?,
            uid: notice.uid.into(),
            departure: match notice.departure {
                0 => None,
                2 => Some(Departure::Closed),
                3 => Some(Departure::Unbound),
                4 => Some(Departure::Ended),
                5 => Some(Departure::FrontendLost),
                _ => Some(Departure::Left),
            },
        })
    });
    if let Some(notice) = notice {
        guarded("member_notice", || core.node.member_notice(notice));
    }
}

/// Announces that this server leaves the list, or is gone.
pub(super) fn say_goodbye(core: &Core, gone: bool) {
    let goodbye = Goodbye {
        server: core.info.id.as_str().to_owned(),
        gone,
        promises_broken: false,
        listed: if gone {
            String::new()
        } else {
            record::write(&core.info)
        },
    };
    // A server that does not receive it finds out by the list.
    let _ = core.link.publish(
        Subject::from_static(subject::GOODBYES),
        None,
        wire::encode(&goodbye),
    );
}

/// Revokes the promises of this frontend to notify others of binds. False if that cannot be sent now.
pub(super) fn end_leases(core: &Core) -> bool {
    let broken = Goodbye {
        server: core.info.id.as_str().to_owned(),
        gone: false,
        promises_broken: true,
        listed: String::new(),
    };
    let subject = Subject::from_static(subject::GOODBYES);
    core.link
        .publish(subject, None, wire::encode(&broken))
        .is_ok()
}

/// Reads announcements of other servers, until the subscription ends.
pub(super) async fn goodbyes(core: Arc<Core>, mut inbox: Inbox) {
    while let Some(message) = inbox.next().await {
        let Some(goodbye) = decode_or_log::<Goodbye>(&message) else {
            continue;
        };
        if goodbye.promises_broken {
            core.directory.end_leases();
            continue;
        }
        if let Ok(server) = ServerId::new(goodbye.server) {
            if goodbye.gone {
                core.watches.forget(&server);
            }
            let entry = record::read_value(goodbye.listed.as_bytes()).ok();
            let entry = entry.filter(|entry| entry.id == server).map(Arc::new);
            servers::goodbye(&core, &server, entry, goodbye.gone);
        }
    }
}
