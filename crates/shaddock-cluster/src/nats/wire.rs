//! Messages between servers, as in `cluster.proto`, and shaddock's own ones after them.
//!
//! Written by hand so that no `protoc` is needed; field numbers are the interoperable part. The order of fields in the text
//! is the order on the wire.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::{Enumeration, Message};

use crate::owners::Number;
use crate::quiet::quiet;
use crate::{ForwardedSession, RawSid, RemoteError, RemoteErrorKind, ServerId, SessionData, code};

/// The target of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum RpcType {
    /// A client message, for a handler.
    Sys = 0,
    /// A server's call, for a remote.
    User = 1,
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum MsgType {
    Request = 0,
    Notify = 1,
    Response = 2,
    Push = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Session {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Msg {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) route: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
    #[prost(string, tag = "4")]
    pub(crate) reply: String,
    #[prost(enumeration = "MsgType", tag = "5")]
    pub(crate) r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(enumeration = "RpcType", tag = "1")]
    pub(crate) r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) session: Option<Session>,
    #[prost(message, optional, tag = "3")]
    pub(crate) msg: Option<Msg>,
    #[prost(string, tag = "4")]
    pub(crate) frontend_id: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) metadata: Bytes,
    /// Not in Pitaya, which skips it.
    #[prost(message, optional, tag = "1000")]
    pub(crate) stamp: Option<Stamp>,
}

/// When a request was made, and under which claim. Only shaddock servers send it.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Stamp {
    /// The clock of the sender's incarnation; 0 for a stamp without a time.
    #[prost(fixed64, tag = "1")]
    pub(crate) clock: u64,
    /// The time on that clock, in microseconds.
    #[prost(uint64, tag = "2")]
    pub(crate) sent: u64,
    /// The type of the sending frontend, as a number: claims of two types are compared with each other never.
    #[prost(fixed32, tag = "3")]
    pub(crate) scope: u32,
    /// The number of the claim on the user in whose name the request is. 0 where sessions are not unique.
    #[prost(int64, tag = "4")]
    pub(crate) revision: i64,
    #[prost(uint64, tag = "5")]
    pub(crate) era: u64,
}

impl Stamp {
    /// The number of the claim, if there is one.
    pub(crate) fn claim(&self) -> Option<Number> {
        (self.revision != 0).then_some(Number {
            era: self.era,
            revision: self.revision,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Error {
    #[prost(string, tag = "1")]
    pub(crate) code: String,
    #[prost(string, tag = "2")]
    pub(crate) msg: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<Error>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Push {
    #[prost(string, tag = "1")]
    pub(crate) route: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
    /// Not in Pitaya, which skips it: shaddock frontends were notified of all their users by a separate message.
    #[prost(bool, tag = "1000")]
    pub(crate) not_for_shaddock: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KickMsg {
    #[prost(string, tag = "1")]
    pub(crate) user_id: String,
    /// Not in Pitaya, which skips it: shaddock frontends were called separately.
    #[prost(bool, tag = "1000")]
    pub(crate) not_for_shaddock: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KickAnswer {
    #[prost(bool, tag = "1")]
    pub(crate) kicked: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BindMsg {
    #[prost(string, tag = "1")]
    pub(crate) uid: String,
    #[prost(string, tag = "2")]
    pub(crate) fid: String,
}

// ------------------------------------------------------------ extensions, between shaddock servers only

/// One message for many clients of one frontend, subject `shaddock.<type>.<id>.mpush`; or for the members of a topic, `shaddock.topic.<name>`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MultiPush {
    #[prost(string, tag = "1")]
    pub(crate) route: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: Bytes,
    #[prost(string, repeated, tag = "3")]
    pub(crate) uids: Vec<String>,
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) sids: Vec<u64>,
    #[prost(enumeration = "Recipients", tag = "5")]
    pub(crate) everybody: i32,
    /// The sender, if it is to be notified when one of the users is bound there.
    #[prost(string, tag = "6")]
    pub(crate) watched_by: String,
    /// The key of an audience. Its members are not named: the frontend knows them.
    #[prost(string, tag = "7")]
    pub(crate) audience: String,
    /// Of an audience: a member who does not get it.
    #[prost(string, tag = "8")]
    pub(crate) except: String,
    /// Of an audience: whether the answer names missing members.
    #[prost(bool, tag = "9")]
    pub(crate) name_missing: bool,
    /// The newest message of this key is enough for a client that cannot take messages at the moment. Empty: all are needed. Frontends that do not
    /// know it keep all.
    #[prost(string, tag = "10")]
    pub(crate) latest: String,
}

/// Whether a [`MultiPush`] goes to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum Recipients {
    No = 0,
    All = 1,
    Bound = 2,
}

/// The result of a [`MultiPush`], or of a [`Push`] with a reply subject.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MultiPushAnswer {
    #[prost(uint64, tag = "1")]
    pub(crate) queued: u64,
    #[prost(string, repeated, tag = "2")]
    pub(crate) missing_uids: Vec<String>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) missing_sids: Vec<u64>,
    /// Why it cannot be encoded for connected clients; empty if it can.
    #[prost(string, tag = "4")]
    pub(crate) refused: String,
    /// The sender will be notified when one of the users is bound there.
    #[prost(bool, tag = "5")]
    pub(crate) watched: bool,
    /// Members of an audience who did not take it.
    #[prost(uint64, tag = "6")]
    pub(crate) missing: u64,
    /// There is no such audience.
    #[prost(bool, tag = "7")]
    pub(crate) no_audience: bool,
}

/// A session operation. Subject `shaddock.<type>.<id>.op`; the answer is a [`Response`] with an [`OpAnswer`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Op {
    #[prost(enumeration = "OpKind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) sid: u64,
    #[prost(string, tag = "3")]
    pub(crate) uid: String,
    /// Settings, or the argument of `Custom`.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
    #[prost(string, optional, tag = "5")]
    pub(crate) reason: Option<String>,
    #[prost(string, tag = "6")]
    pub(crate) name: String,
    /// How long the caller waits.
    #[prost(uint64, tag = "7")]
    pub(crate) timeout_ms: u64,
    /// The calling server.
    #[prost(string, tag = "8")]
    pub(crate) from: String,
    /// Settings that `Merge` takes away.
    #[prost(string, repeated, tag = "9")]
    pub(crate) removed: Vec<String>,
    /// Of `Probe` and `Release`: the claim that is asked about.
    #[prost(int64, tag = "10")]
    pub(crate) revision: i64,
    /// Of the same: the lease to which the claim is attached. Another incarnation of the server does not answer.
    #[prost(int64, tag = "11")]
    pub(crate) lease: i64,
    #[prost(message, optional, tag = "12")]
    pub(crate) stamp: Option<Stamp>,
    /// Of the operations on audiences: whether `name` is the beginning of keys (`Leave`), or members are to be named.
    #[prost(bool, tag = "14")]
    pub(crate) flag: bool,
    /// Of `Audiences`: what keys begin with.
    #[prost(string, repeated, tag = "15")]
    pub(crate) prefixes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum OpKind {
    Unknown = 0,
    Bind = 1,
    Unbind = 2,
    Merge = 3,
    Replace = 4,
    Kick = 5,
    KickUser = 6,
    Get = 7,
    GetByUid = 8,
    ClientAddress = 9,
    Custom = 10,
    /// To the owner of a user: has it sessions of the user? `from` is going to own the user.
    Probe = 11,
    /// To the owner of a user: give the user up for `from`.
    Release = 12,
    /// `from`, a frontend of the type `name`, is binding a user whom the receiver watches.
    Here = 13,
    Join = 20,
    Leave = 21,
    EndAudience = 22,
    Audience = 23,
    Audiences = 24,
    NextNotice = 25,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpAnswer {
    #[prost(uint32, tag = "1")]
    pub(crate) count: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sessions: Vec<Session>,
    #[prost(string, tag = "3")]
    pub(crate) address: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
    /// Of `Join`: why not.
    #[prost(string, tag = "5")]
    pub(crate) text: String,
    #[prost(message, repeated, tag = "6")]
    pub(crate) audiences: Vec<Audience>,
    #[prost(uint64, tag = "7")]
    pub(crate) number: u64,
}

/// The part of an audience that a frontend has.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Audience {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) uids: Vec<String>,
    #[prost(uint64, tag = "3")]
    pub(crate) count: u64,
}

/// A user joined or left an audience. Subject `shaddock.<type>.<id>.member`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Notice {
    #[prost(string, tag = "1")]
    pub(crate) frontend: String,
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    #[prost(string, tag = "3")]
    pub(crate) audience: String,
    #[prost(string, tag = "4")]
    pub(crate) uid: String,
    /// 0: they joined.
    #[prost(uint32, tag = "5")]
    pub(crate) departure: u32,
}

/// Something that happened to a session. Subject `shaddock.events`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Event {
    #[prost(enumeration = "EventKind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) session: Option<Session>,
    /// The reason of a close, or the user of an unbind.
    #[prost(string, tag = "4")]
    pub(crate) text: String,
    /// The type of the frontend, which may have left the list by the time the event is read.
    #[prost(string, tag = "5")]
    pub(crate) frontend_type: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum EventKind {
    Unknown = 0,
    Bound = 1,
    Unbound = 2,
    Closed = 3,
    Suspended = 4,
    Resumed = 5,
}

/// A server announces that it leaves, is gone, or has broken promises. Subject `shaddock.servers`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Goodbye {
    #[prost(string, tag = "1")]
    pub(crate) server: String,
    /// It is gone; otherwise it leaves the list and still serves its clients.
    #[prost(bool, tag = "2")]
    pub(crate) gone: bool,
    /// Neither: it could not notify a server of the bind of a watched user, so its promises are revoked.
    #[prost(bool, tag = "3")]
    pub(crate) promises_broken: bool,
    /// The list entry of the server, for servers that have joined since it left the list: the value of its key at etcd. Only of one that still serves.
    #[prost(string, tag = "4")]
    pub(crate) listed: String,
}

impl From<&RemoteError> for Error {
    fn from(error: &RemoteError) -> Self {
        Self {
            code: error.code().to_owned(),
            msg: error.message().to_owned(),
            metadata: error
                .metadata()
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        }
    }
}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        let metadata: BTreeMap<_, _> = error.metadata.into_iter().collect();
        // Only the serving side of the cluster itself sends these, before anything was started.
        let kind = match (&*error.code, &*error.msg) {
            (code::UNAVAILABLE, BUSY) => RemoteErrorKind::Busy,
            (code::UNAVAILABLE, MOVED) => RemoteErrorKind::Fenced,
            _ => RemoteErrorKind::Remote,
        };
        RemoteError::of(kind, error.code, error.msg).with_metadata(metadata)
    }
}

/// The text of a server that has too much to do.
pub(crate) const BUSY: &str = "server busy";
/// The text of a server that has served a later owner of the user.
pub(crate) const MOVED: &str = "another frontend owns this user now";

impl Response {
    pub(crate) fn of(result: &Result<Bytes, RemoteError>) -> Self {
        match result {
            Ok(data) => Self {
                data: data.clone(),
                error: None,
            },
            Err(error) => Self {
                data: Bytes::new(),
                error: Some(error.into()),
            },
        }
    }

    pub(crate) fn into_result(self) -> Result<Bytes, RemoteError> {
        match self.error {
            None => Ok(self.data),
            Some(error) => Err(error.into()),
        }
    }
}

/// Reads an answer of a call.
pub(crate) fn decode_answer(payload: Bytes) -> Result<Bytes, RemoteError> {
    Response::decode(payload)
        .map_err(|e| RemoteError::of(RemoteErrorKind::BadAnswer, code::UNKNOWN, e.to_string()))?
        .into_result()
}

/// Reads the payload of a reply from another shaddock server.
pub(crate) fn decode<M: Message + Default>(payload: Bytes) -> Result<M, RemoteError> {
    M::decode(payload)
        .map_err(|e| RemoteError::of(RemoteErrorKind::BadAnswer, code::UNKNOWN, e.to_string()))
}

/// Reads a message from a subject that only shaddock servers use, or logs that it is malformed.
pub(crate) fn decode_or_log<M: Message + Default>(message: &async_nats::Message) -> Option<M> {
    M::decode(message.payload.clone())
        .inspect_err(
            |error| quiet!(warn, "a malformed message", subject = %message.subject, %error),
        )
        .ok()
}

/// The session in a request, an answer or an event of this frontend.
pub(crate) fn session_of(session: Session, frontend: Option<ServerId>) -> ForwardedSession {
    ForwardedSession {
        frontend,
        sid: raw_sid(session.id),
        uid: (!session.uid.is_empty()).then(|| Arc::from(session.uid)),
        data: SessionData::from_json(session.data),
    }
}

/// The id of a session, unless the number cannot be one.
pub(crate) fn raw_sid(id: i64) -> Option<RawSid> {
    u64::try_from(id).ok().and_then(RawSid::new)
}

/// A session without its frontend, which the message names elsewhere.
pub(crate) fn session_to_wire(session: &ForwardedSession) -> Session {
    Session {
        id: session
            .sid
            .and_then(|sid| i64::try_from(sid.get()).ok())
            .unwrap_or(0),
        uid: session.uid.as_deref().unwrap_or_default().to_owned(),
        data: session.data.to_json(),
    }
}

/// The bytes of a message.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
