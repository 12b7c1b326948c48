//! The frontend's side of a push: encode once per variant, hand the same bytes to every receiver.

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shaddock_cluster::{AudienceKey, Delivered, Delivery, RawSid, Receivers, RemoteError};
use shaddock_core::{Offer, Room, SendError, Session, SessionService, Sid};
use shaddock_protocol::{Codec, Variant};

use super::{Schedule, push::Message};
use crate::{
    app::{AppHandle, Part},
    guarded::guard,
    session::SessionError,
};

/// Sessions that one push waits for, with `on_full = "wait"`. Others may be as full; the next push to them finds out.
const MAX_WAITED: usize = 64;

/// The operation that asks a frontend to broadcast through its filter.
pub(crate) const BROADCAST: &str = "shaddock.broadcast";

/// A broadcast through the filters of frontends, as it travels.
#[derive(Serialize, Deserialize)]
pub(crate) struct FilteredBroadcast {
    route: String,
    body: Box<RawValue>,
    bound_only: bool,
    parameter: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest: Option<String>,
}

/// What a frontend answers to it.
#[derive(Serialize, Deserialize)]
pub(crate) struct FilteredAnswer {
    pub(crate) queued: usize,
    #[serde(default)]
    pub(crate) refused: Option<String>,
}

impl FilteredBroadcast {
    pub(crate) fn new(message: &Message, bound_only: bool, parameter: &Value) -> Self {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        Self {
            route: message.route.to_string(),
            // It was serialised a moment ago.
            body: RawValue::from_string(text).unwrap_or_default(),
            bound_only,
            parameter: parameter.clone(),
            latest: message.latest.as_deref().map(str::to_owned),
        }
    }

    pub(crate) fn to_json(&self) -> Bytes {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }
}

/// One message, encoded at most once for each variant of clients that reads it differently. The error says why it cannot be encoded, which was logged.
struct Encoded<'a> {
    codec: &'a Codec,
    message: &'a Message,
    /// Whether browsers read it otherwise than the other clients of Pomelo.
    differs: OnceCell<bool>,
    pomelo: OnceCell<Result<Bytes, Arc<str>>>,
    browser: OnceCell<Result<Bytes, Arc<str>>>,
    pitaya: OnceCell<Result<Bytes, Arc<str>>>,
}

impl<'a> Encoded<'a> {
    const fn new(codec: &'a Codec, message: &'a Message) -> Self {
        Self {
            codec,
            message,
            differs: OnceCell::new(),
            pomelo: OnceCell::new(),
            browser: OnceCell::new(),
            pitaya: OnceCell::new(),
        }
    }

    fn of(&self, variant: Variant) -> Result<&Bytes, &Arc<str>> {
        let Message { route, body, .. } = self.message;
        let differs = || self.codec.differs_for_browsers(route, body);
        let (variant, place) = match variant {
            Variant::Browser if *self.differs.get_or_init(differs) => (variant, &self.browser),
            Variant::Pomelo | Variant::Browser => (Variant::Pomelo, &self.pomelo),
            Variant::Pitaya => (variant, &self.pitaya),
        };
        let encode = || match self.codec.encode_push(variant, route, body) {
            Ok(package) => Ok(package),
            Err(error) => {
                shaddock_net::quiet!(error, "a push cannot be encoded", route = &**route, dialect = %variant.dialect(), %error);
                Err(Arc::from(error.to_string()))
            }
        };
        place.get_or_init(encode).as_ref()
    }
}

/// Hands one message to sessions of this frontend.
struct Sender<'a> {
    app: &'a AppHandle,
    encoded: Encoded<'a>,
    schedule: Schedule,
    /// Cut off: perhaps another frontend owns the users of this one by now, so only who has no user gets anything.
    fenced: bool,
    queued: usize,
    /// Why it cannot be written for some who are there.
    refused: Option<Arc<str>>,
    /// The receivers that the sender waits for.
    full: Vec<RawSid>,
}

/// Why a session did not take a message.
enum NotSent {
    Send(SendError),
    /// Its client is there and cannot be written to. The sender remembers why.
    Refused,
}

impl<'a> Sender<'a> {
    fn new(app: &'a AppHandle, message: &'a Message) -> Self {
        Self {
            app,
            encoded: Encoded::new(app.codec(), message),
            schedule: app.scheduler().choose(&message.route),
            fenced: app.is_fenced(),
            queued: 0,
            refused: None,
            full: Vec::new(),
        }
    }

    fn send(&mut self, session: &Arc<Session>) -> Result<(), NotSent> {
        if self.must_not_reach(session) {
            return Err(NotSent::Send(SendError::Closed));
        }
        let package = match self.encoded.of(session.variant()) {
            Ok(package) => package,
            Err(reason) => {
                self.refused.get_or_insert_with(|| Arc::clone(reason));
                return Err(NotSent::Refused);
            }
        };
        let how = Offer {
            latest: self.encoded.message.latest.as_ref(),
            is_buffered: self.schedule == Schedule::Buffered,
        };
        let sent = session.offer(package.clone(), how);
        match sent {
            Ok(room) => self.note(session, room),
            Err(error @ SendError::TooLarge { .. }) => {
                self.refused.get_or_insert_with(|| error.to_string().into());
                return Err(NotSent::Refused);
            }
            Err(error) => return Err(NotSent::Send(error)),
        }
        if self.schedule == Schedule::Buffered {
            self.app.scheduler().flush_later(session);
        }
        self.queued += 1;
        Ok(())
    }

    /// Whether the sender had better wait.
    fn note(&mut self, session: &Arc<Session>, room: Room) {
        match room {
            Room::Pressed if self.schedule == Schedule::Direct => {
                self.app.scheduler().pressure().note(session);
            }
            Room::Full if self.full.len() < MAX_WAITED => {
                self.full.push(crate::session::raw_sid(session.id()));
            }
            _ => {}
        }
    }

    fn must_not_reach(&self, session: &Session) -> bool {
        self.fenced && session.uid().is_some()
    }

    fn finish(self, mut delivered: Delivered) -> Delivered {
        delivered.queued = self.queued;
        delivered.refused = self.refused;
        delivered.full = self.full;
        let stats = self.app.stats();
        stats.pushed.add(self.queued as u64);
        let missing = delivered.missing.max(delivered.missing_uids.len());
        stats
            .missing
            .add((missing + delivered.missing_sids.len()) as u64);
        delivered
    }
}

/// The users of these sessions who have no other session. Those that are there were meant too.
fn missing(service: &SessionService, not_taken: &[Arc<Session>]) -> Vec<Arc<str>> {
    let mut missing: Vec<Arc<str>> = Vec::new();
    for uid in not_taken.iter().filter_map(|session| session.uid()) {
        let mut is_there = false;
        service.for_each_session_of(uid.as_str(), |session| {
            is_there |= !not_taken.iter().any(|one| Arc::ptr_eq(one, session));
        });
        if !is_there && !missing.contains(uid.shared()) {
            missing.push(Arc::clone(uid.shared()));
        }
    }
    missing
}

/// Delivers messages to sessions of this frontend.
#[derive(Clone, Copy)]
pub(crate) struct Deliveries<'a> {
    app: &'a AppHandle,
}

impl<'a> Deliveries<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Delivers to sessions of this frontend.
    pub(crate) fn deliver(self, delivery: Delivery) -> Delivered {
        let message = Message {
            route: delivery.route,
            body: delivery.body,
            latest: delivery.latest,
        };
        match delivery.to {
            Receivers::Uids(uids) => self.to_uids(&message, uids.iter()),
            Receivers::Sids(sids) => self.to_sids(&message, &sids),
            Receivers::Audience {
                key,
                except,
                name_missing,
            } => self.to_audience(&message, &key, except.as_deref(), name_missing),
            Receivers::All { bound_only } => self.to_all(&message, bound_only, |_| true),
            _ => Delivered::default(),
        }
    }

    /// To every session of each user. A user counts as missing if no session of theirs is there to take the message.
    pub(super) fn to_uids<'u>(
        self,
        message: &Message,
        uids: impl Iterator<Item = &'u Arc<str>>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(service) = self.app.session_service() else {
            delivered.missing_uids = uids.cloned().collect();
            return delivered;
        };
        let mut sender = Sender::new(self.app, message);
        for uid in uids {
            let mut is_there = false;
            service.for_each_session_of(uid, |session| {
                // A session that closed meanwhile, or does not read, is not reached.
                is_there |= !matches!(sender.send(session), Err(NotSent::Send(_)));
            });
            if !is_there {
                delivered.missing_uids.push(Arc::clone(uid));
            }
        }
        sender.finish(delivered)
    }

    /// To every session of each member. A member counts as missing if no session of theirs took it.
    pub(super) fn to_audience(
        self,
        message: &Message,
        key: &AudienceKey,
        except: Option<&str>,
        name_missing: bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(service) = self.app.session_service() else {
            delivered.no_audience = true;
            return delivered;
        };
        let mut sender = Sender::new(self.app, message);
        let mut not_taken: Vec<Arc<Session>> = Vec::new();
        let members = service.visit_audience(key.as_str(), |session| {
            let is_meant =
                except.is_none_or(|except| session.uid().is_none_or(|uid| uid.as_str() != except));
            if is_meant && matches!(sender.send(session), Err(NotSent::Send(_))) {
                not_taken.push(Arc::clone(session));
            }
        });
        delivered.no_audience = members == 0;
        for uid in missing(service, &not_taken) {
            delivered.missing += 1;
            if name_missing {
                delivered.missing_uids.push(uid);
            }
        }
        sender.finish(delivered)
    }

    fn to_sids(self, message: &Message, sids: &[RawSid]) -> Delivered {
        let mut delivered = Delivered::default();
        let service = self.app.session_service();
        let mut sender = Sender::new(self.app, message);
        for raw in sids {
            let session = service
                .as_ref()
                .and_then(|service| service.get(Sid::new(raw.get())?));
            let sent = session.map(|session| sender.send(&session));
            if matches!(sent, None | Some(Err(NotSent::Send(_)))) {
                delivered.missing_sids.push(*raw);
            }
        }
        sender.finish(delivered)
    }

    fn to_all(
        self,
        message: &Message,
        bound_only: bool,
        wants: impl Fn(&Arc<Session>) -> bool,
    ) -> Delivered {
        let Some(service) = self.app.session_service() else {
            return Delivered::default();
        };
        let mut sender = Sender::new(self.app, message);
        let each = |session: &Arc<Session>| {
            if wants(session) {
                let _ = sender.send(session);
            }
        };
        if bound_only {
            service.for_each_bound_session(each);
        } else {
            service.visit_sessions(each);
        }
        sender.finish(Delivered::default())
    }

    /// A broadcast that runs this frontend's filter for each session. Without a filter all sessions receive it.
    pub(crate) fn filtered_broadcast(self, broadcast: &FilteredBroadcast) -> Bytes {
        let message = Message {
            route: broadcast.route.as_str().into(),
            body: Bytes::copy_from_slice(broadcast.body.get().as_bytes()),
            latest: broadcast.latest.as_deref().map(Arc::from),
        };
        let filter = self.app.scheduler().filter();
        let part = Part::of(self.app, "broadcast filter");
        let wants = |session: &Arc<Session>| match &filter {
            // A filter that panics rejects the session.
            Some(filter) => guard(&part, || filter(session, &broadcast.parameter)).unwrap_or(false),
            None => true,
        };
        let delivered = self.to_all(&message, broadcast.bound_only, wants);
        let answer = FilteredAnswer {
            queued: delivered.queued,
            refused: delivered.refused.map(|reason| reason.to_string()),
        };
        serde_json::to_vec(&answer)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Sends a message to one session of this frontend. True: the sender is to wait for room.
    pub(crate) fn to_session(
        self,
        session: &Arc<Session>,
        message: &Message,
    ) -> Result<bool, SessionError> {
        let mut sender = Sender::new(self.app, message);
        if sender.must_not_reach(session) {
            return Err(RemoteError::fenced().into());
        }
        let sent = sender.send(session);
        let Delivered { refused, full, .. } = sender.finish(Delivered::default());
        match sent {
            Ok(()) => Ok(!full.is_empty()),
            Err(NotSent::Send(error)) => Err(error.into()),
            Err(NotSent::Refused) => Err(SessionError::refused(refused.as_deref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use shaddock_protocol::{CodecConfig, Protos, Schema};

    use super::*;

    #[test]
    fn a_push_is_encoded_once_for_each_variant() {
        let server = r#"{"onChat": {"required string msg": 1}}"#;
        let protos = Protos::new(
            Schema::parse(server).expect("a schema"),
            Schema::parse("{}").expect("a schema"),
        );
        let codec = Codec::new(CodecConfig::default().protos(Arc::new(protos)));
        for (route, text, shared) in [
            ("onChat", "hello 你好", true),
            ("onOther", "hello 😀", true),
            ("onChat", "hello 😀", false),
        ] {
            let message = Message {
                route: route.into(),
                body: serde_json::json!({ "msg": text }).to_string().into(),
                latest: None,
            };
            let encoded = Encoded::new(&codec, &message);
            let of = |variant| encoded.of(variant).expect("it fits").as_ptr();
            let each = [Variant::Pomelo, Variant::Browser, Variant::Pitaya].map(of);
            assert_eq!(each[0] == each[1], shared, "{route} {text}");
            assert_ne!(each[0], each[2]);
            // And never again.
            assert_eq!(
                each,
                [Variant::Pomelo, Variant::Browser, Variant::Pitaya].map(of)
            );
        }
    }
}
