//! The sender's side of a push: one message per frontend, and what came of it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use shaddock_cluster::{
    AudienceKey, BoxFuture, Delivered as ClusterDelivered, Delivery, Receivers, RemoteError,
    RemoteErrorKind, ServerId, SessionAnswer, SessionOp,
};
use shaddock_core::{Channel, ChannelError, FanOut, FrontendId, Place, Sid, Uid};

use super::deliver::{BROADCAST, FilteredAnswer, FilteredBroadcast};
use super::join::is_gone;
use crate::{app::AppHandle, received, session::SessionError};

/// A route and a body, serialised once.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) route: Arc<str>,
    pub(crate) body: Bytes,
}

impl Message {
    pub(crate) fn new<T: Serialize + ?Sized>(route: &str, value: &T) -> Result<Self, PushError> {
        if let Some(body) = crate::extract::raw_bytes(value) {
            if body.is_empty() {
                return Err(PushError::Empty);
            }
            let route = route.into();
            return Ok(Self { route, body });
        }
        let body = serde_json::to_vec(value).map_err(PushError::Value)?;
        // Pomelo's falsy messages: no client could read them.
        if matches!(&body[..], b"" | b"null" | b"\"\"" | b"0" | b"false") {
            return Err(PushError::Empty);
        }
        Ok(Self {
            route: route.into(),
            body: body.into(),
        })
    }

    pub(crate) fn to(&self, to: Receivers) -> Delivery {
        Delivery {
            route: Arc::clone(&self.route),
            body: self.body.clone(),
            to,
        }
    }
}

/// What became of a push.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Delivered {
    /// In how many sessions' queues it is.
    pub queued: usize,
    /// Users without a session where they were looked for.
    pub missing: Vec<Uid>,
    /// Users to whom it was sent through a Pitaya frontend, which does not say whether they are there.
    pub unconfirmed: Vec<Uid>,
    /// Frontends that could not be reached or did not answer in time, and who was meant there.
    pub failed: Vec<FailedFrontend>,
    /// What became of it on each frontend that answered, in numbers. (Of users whose frontends are not known: nothing.)
    pub frontends: Vec<AtFrontend>,
}

/// What became of a push on one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtFrontend {
    /// The frontend.
    pub frontend: FrontendId,
    /// In how many sessions' queues it is.
    pub queued: usize,
    /// How many who were meant there have no session that took it.
    pub missing: usize,
}

/// A frontend that could not be reached.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedFrontend {
    /// The frontend.
    pub frontend: FrontendId,
    /// Who was meant; empty if everybody was, or the members of a channel.
    pub uids: Vec<Uid>,
    /// Why.
    pub error: RemoteError,
}

impl Delivered {
    /// Everybody who is known not to have been reached: missing, or on a frontend that failed. (Pomelo's `fails`, without its defect 34.)
    pub fn not_reached(&self) -> impl Iterator<Item = &Uid> {
        self.missing
            .iter()
            .chain(self.failed.iter().flat_map(|failed| &failed.uids))
    }

    /// How many who were meant are known to have no session that took it: those of [`missing`](Self::missing), and members of a channel, who are
    /// only named if that was asked for.
    pub fn missing_count(&self) -> usize {
        let counted: usize = self.frontends.iter().map(|one| one.missing).sum();
        counted.max(self.missing.len())
    }

    /// Adds what this frontend said.
    #[must_use]
    fn add_from(&mut self, frontend: FrontendId, other: ClusterDelivered) -> Option<Arc<str>> {
        self.frontends.push(AtFrontend {
            frontend,
            queued: other.queued,
            missing: other.missing.max(other.missing_uids.len()),
        });
        self.add(other)
    }

    /// Adds what a frontend said, and gives back why it cannot send the message, if it cannot.
    #[must_use]
    fn add(&mut self, other: ClusterDelivered) -> Option<Arc<str>> {
        let uids = |list: Vec<Arc<str>>| list.into_iter().filter_map(|uid| Uid::new(uid).ok());
        self.queued += other.queued;
        self.missing.extend(uids(other.missing_uids));
        self.unconfirmed.extend(uids(other.unconfirmed));
        let failed = other.failed.into_iter().filter_map(|failed| {
            Some(FailedFrontend {
                frontend: FrontendId::new(failed.frontend.as_str()).ok()?,
                uids: uids(failed.uids).collect(),
                error: failed.error,
            })
        });
        self.failed.extend(failed);
        other.refused
    }

    /// An error if there are frontends and nobody at any of them can have it.
    fn unless_nobody(self) -> Result<Self, PushError> {
        let nobody = self.queued == 0 && self.missing.is_empty() && self.unconfirmed.is_empty();
        if nobody && !self.failed.is_empty() {
            return Err(PushError::NobodyReached(self));
        }
        Ok(self)
    }
}

/// Why nobody got a push.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The list of receivers is empty.
    #[error("uids should not be empty")]
    NoReceivers,
    /// The message is nothing: `null`, `0`, `false` or an empty text.
    #[error("can not send empty message.")]
    Empty,
    /// The message cannot be serialised.
    #[error("the message cannot be serialised: {0}")]
    Value(#[source] serde_json::Error),
    /// The channel was destroyed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// There are frontends to send to, and none could be reached.
    #[error("all uids push message fail")]
    NobodyReached(Delivered),
    /// Clients who are there did not get it, because it cannot be written for them: it is too long for a package or for their queue, its route
    /// has more than 255 bytes, or it does not fit the schema of its route. Clients of another dialect may have got it.
    #[error("the message cannot be sent: {reason}")]
    NotSendable {
        /// Why, as the frontend says.
        reason: Arc<str>,
        /// What became of it elsewhere.
        delivered: Delivered,
    },
    /// This server is not in the cluster.
    #[error(transparent)]
    Cluster(#[from] RemoteError),
}

/// The result of a push from what the frontends said: `delivered`, and why some of them cannot send it.
fn outcome(delivered: Delivered, refused: Option<Arc<str>>) -> Result<Delivered, PushError> {
    match refused {
        None => Ok(delivered),
        Some(reason) => Err(PushError::NotSendable { reason, delivered }),
    }
}

impl From<PushError> for SessionError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Cluster(error) => Self::Remote(error),
            other => Self::Encode(Box::new(other)),
        }
    }
}

/// A push that is on its way. Await it to learn who was not reached; dropping it does not take the push back.
#[must_use = "the result names who was not reached; drop it explicitly if that does not matter"]
pub struct Push(State);

enum State {
    Done(Option<Result<Delivered, PushError>>),
    Waiting(BoxFuture<'static, Result<Delivered, PushError>>),
}

impl Push {
    pub(crate) const fn failed(error: PushError) -> Self {
        Self(State::Done(Some(Err(error))))
    }

    /// Does not wait: the push goes on, and who was not reached stays unknown.
    pub fn forget(self) {}
}

impl Future for Push {
    type Output = Result<Delivered, PushError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Done(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            State::Waiting(future) => future.as_mut().poll(task),
        }
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").finish_non_exhaustive()
    }
}

/// Whom a broadcast reaches.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BroadcastOptions {
    /// Only sessions that are bound to a user.
    pub bound_only: bool,
    /// Given to the [filter](super::PushConfig::filter) of each frontend, which decides for each session. Without it the filter is not asked.
    pub filter: Option<Value>,
}

impl BroadcastOptions {
    /// To everybody.
    pub fn all() -> Self {
        Self::default()
    }

    /// To everybody who is bound to a user.
    pub fn bound() -> Self {
        Self {
            bound_only: true,
            filter: None,
        }
    }

    /// Asks the frontends' filters, with this parameter.
    #[must_use]
    pub fn filtered(mut self, parameter: impl Into<Value>) -> Self {
        self.filter = Some(parameter.into());
        self
    }
}

/// One message on its way to one frontend.
struct Sent {
    frontend: FrontendId,
    uids: Vec<Uid>,
    /// Of a channel: the place there, and how many were sent to join before.
    place: Option<(Arc<Channel>, u64)>,
    answer: BoxFuture<'static, Result<ClusterDelivered, RemoteError>>,
}

/// A frontend that has no members any more is not sent the next push.
fn forget_place(place: Option<&(Arc<Channel>, u64)>, frontend: &FrontendId) {
    if let Some((channel, joins)) = place {
        channel.leave_place(frontend.as_str(), *joins);
    }
}

/// Which members of a channel or topic get a message.
pub(super) struct ToMembers<'a> {
    pub(super) key: AudienceKey,
    pub(super) except: Option<&'a str>,
    pub(super) name_missing: bool,
}

impl ToMembers<'_> {
    pub(super) fn receivers(&self) -> Receivers {
        Receivers::Audience {
            key: self.key.clone(),
            except: self.except.map(Arc::from),
            name_missing: self.name_missing,
        }
    }

    /// The members by name without the one who does not get it.
    fn without_exception(&self, plan: Arc<FanOut>) -> Arc<FanOut> {
        let Some(except) = self.except else {
            return plan;
        };
        let all = plan.groups().iter().flat_map(|group| {
            let uids = group.uids.iter().filter(|uid| uid.as_str() != except);
            uids.map(|uid| (uid.clone(), group.frontend.clone()))
        });
        Arc::new(FanOut::from_targets(all))
    }
}

/// What is sent when all frontends have answered.
fn collect(sent: Vec<Sent>) -> Push {
    Push(State::Waiting(Box::pin(async move {
        let (mut delivered, mut reached) = (Delivered::default(), sent.is_empty());
        let mut refused = None;
        for Sent {
            frontend,
            uids,
            place,
            answer,
        } in sent
        {
            match answer.await {
                Ok(answer) => {
                    reached = true;
                    if answer.no_audience {
                        forget_place(place.as_ref(), &frontend);
                    }
                    let reason = delivered.add_from(frontend, answer);
                    refused = refused.or(reason);
                }
                Err(error) => {
                    if is_gone(&error) {
                        forget_place(place.as_ref(), &frontend);
                    }
                    shaddock_net::quiet!(warn, "a push did not reach a frontend", %frontend, %error);
                    delivered.failed.push(FailedFrontend {
                        frontend,
                        uids,
                        error,
                    });
                }
            }
        }
        if reached {
            outcome(delivered, refused)
        } else {
            Err(PushError::NobodyReached(delivered))
        }
    })))
}

impl AppHandle {
    /// Sends one message per group.
    pub(super) fn push_to<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        plan: &FanOut,
    ) -> Push {
        let message = match Message::new(route, value) {
            Ok(message) => message,
            Err(error) => return Push::failed(error),
        };
        let own = |frontend: &FrontendId| frontend.as_str() == self.id() && self.is_frontend();
        if let [group] = plan.groups()
            && own(&group.frontend)
        {
            // Everybody is here: nobody has to be waited for.
            let here = self.deliver_to_uids(&message, group.uids.iter().map(Uid::shared));
            return self.delivered_here(group.frontend.clone(), here);
        }
        let membership = match self.membership() {
            Ok(membership) => membership,
            Err(error) => return Push::failed(error.into()),
        };
        // Either it can be sent to all, or nobody gets it.
        if !plan.groups().iter().all(|group| own(&group.frontend))
            && let Err(error) = membership.check_delivery(&message.route, &message.body)
        {
            return Push::failed(error.into());
        }
        let sent = plan.groups().iter().map(|group| {
            let uids: Arc<[Arc<str>]> = group
                .uids
                .iter()
                .map(|uid| Arc::clone(uid.shared()))
                .collect();
            let answer: BoxFuture<'static, _> = match ServerId::new(group.frontend.as_str()) {
                Ok(frontend) => membership.deliver(&frontend, message.to(Receivers::Uids(uids))),
                Err(_) => Box::pin(std::future::ready(Err(RemoteError::server_not_found()))),
            };
            Sent {
                frontend: group.frontend.clone(),
                uids: group.uids.clone(),
                place: None,
                answer,
            }
        });
        collect(sent.collect())
    }

    /// The result of a push whose receivers are all on this server.
    fn delivered_here(&self, frontend: FrontendId, here: ClusterDelivered) -> Push {
        let mut delivered = Delivered::default();
        let refused = delivered.add_from(frontend, here);
        let result = outcome(delivered, refused);
        Push(match self.scheduler().pressure().wait() {
            None => State::Done(Some(result)),
            Some(room) => State::Waiting(Box::pin(async move {
                room.await;
                result
            })),
        })
    }

    /// Sends one message to each frontend that has members of a channel, and to members by name as to other users.
    pub(super) fn push_to_channel<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        channel: &Arc<Channel>,
        to: &ToMembers<'_>,
    ) -> Push {
        let (plan, message) = match channel.fan_out().map_err(PushError::from).and_then(|plan| {
            let message = Message::new(route, value)?;
            Ok((to.without_exception(plan), message))
        }) {
            Ok(both) => both,
            Err(error) => return Push::failed(error),
        };
        let places = channel.places();
        if let ([place], true) = (&places[..], plan.is_empty())
            && self.is_here(&place.frontend)
        {
            let here = self.deliver_to_audience(&message, &to.key, to.except, to.name_missing);
            if here.no_audience {
                channel.leave_place(place.frontend.as_str(), place.joins);
            }
            return self.delivered_here(place.frontend.clone(), here);
        }
        let membership = match self.membership() {
            Ok(membership) => membership,
            Err(error) => return Push::failed(error.into()),
        };
        let elsewhere = |place: &Place| !self.is_here(&place.frontend);
        if (!plan.is_empty() || places.iter().any(elsewhere))
            && let Err(error) = membership.check_delivery(&message.route, &message.body)
        {
            return Push::failed(error.into());
        }
        let to_place = |place: Place| Sent {
            answer: self.send(&place.frontend, message.to(to.receivers())),
            frontend: place.frontend,
            uids: Vec::new(),
            place: Some((Arc::clone(channel), place.joins)),
        };
        let mut sent: Vec<Sent> = places.into_iter().map(to_place).collect();
        for group in plan.groups() {
            let uids = group.uids.iter().map(|uid| Arc::clone(uid.shared()));
            sent.push(Sent {
                answer: self.send(&group.frontend, message.to(Receivers::Uids(uids.collect()))),
                frontend: group.frontend.clone(),
                uids: group.uids.clone(),
                place: None,
            });
        }
        collect(sent)
    }

    fn is_here(&self, frontend: &FrontendId) -> bool {
        frontend.as_str() == self.id() && self.is_frontend()
    }

    fn send(
        &self,
        frontend: &FrontendId,
        delivery: Delivery,
    ) -> BoxFuture<'static, Result<ClusterDelivered, RemoteError>> {
        let sent = ServerId::new(frontend.as_str())
            .map_err(|_| RemoteError::server_not_found())
            .and_then(|id| Ok(self.membership()?.deliver(&id, delivery)));
        sent.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }

    /// As [`push_to_channel`](Self::push_to_channel), without answers. An error if no frontend could be reached.
    pub(super) fn push_to_channel_unconfirmed<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        channel: &Channel,
        to: &ToMembers<'_>,
    ) -> Result<(), PushError> {
        let plan = channel.fan_out()?;
        let message = Message::new(route, value)?;
        let membership = self.membership()?;
        let places = channel.places();
        let (mut reached, mut delivered) =
            (places.is_empty() && plan.is_empty(), Delivered::default());
        let by_name = plan.groups().iter().map(|group| {
            let uids = group.uids.iter().map(|uid| Arc::clone(uid.shared()));
            let receivers = Receivers::Uids(uids.collect());
            (&group.frontend, None, &group.uids[..], receivers)
        });
        let at_places = places.iter().map(|place| {
            let joins = Some(place.joins);
            (&place.frontend, joins, &[][..], to.receivers())
        });
        for (frontend, joins, uids, receivers) in at_places.chain(by_name) {
            let sent = ServerId::new(frontend.as_str())
                .map_err(|_| RemoteError::server_not_found())
                .and_then(|id| membership.deliver_unconfirmed(&id, message.to(receivers)));
            match sent {
                Ok(()) => reached = true,
                Err(error) => {
                    shaddock_net::quiet!(warn, "a push did not reach a frontend", %frontend, %error);
                    if let (true, Some(joins)) = (is_gone(&error), joins) {
                        channel.leave_place(frontend.as_str(), joins);
                    }
                    delivered.failed.push(FailedFrontend {
                        frontend: frontend.clone(),
                        uids: uids.to_vec(),
                        error,
                    });
                }
            }
        }
        if reached {
            Ok(())
        } else {
            Err(PushError::NobodyReached(delivered))
        }
    }

    /// Sends to the members of a topic, wherever they are. It is on its way when this returns.
    pub(super) fn push_to_topic<T: Serialize + ?Sized>(
        &self,
        route: &str,
        value: &T,
        topic: &str,
        receivers: Receivers,
    ) -> Result<BoxFuture<'static, ()>, PushError> {
        let message = Message::new(route, value)?;
        let membership = self.membership()?;
        Ok(membership.deliver_to_topic(topic, message.to(receivers))?)
    }

    pub(super) fn push_to_users<T: Serialize + ?Sized>(
        &self,
        frontend_type: &str,
        route: &str,
        value: &T,
        users: &[Uid],
    ) -> Push {
        let sent = Message::new(route, value).and_then(|message| {
            let uids = users.iter().map(|uid| Arc::clone(uid.shared())).collect();
            Ok(self.membership()?.deliver_to_users(
                frontend_type,
                message.route,
                message.body,
                uids,
            ))
        });
        match sent {
            Ok(answer) => Push(State::Waiting(Box::pin(async move {
                let mut delivered = Delivered::default();
                let refused = delivered.add(answer.await?);
                match refused {
                    None => delivered.unless_nobody(),
                    refused => outcome(delivered, refused),
                }
            }))),
            Err(error) => Push::failed(error),
        }
    }

    pub(super) fn broadcast<T: Serialize + ?Sized>(
        &self,
        frontend_type: &str,
        route: &str,
        value: &T,
        options: &BroadcastOptions,
    ) -> Push {
        let (message, membership) = match Message::new(route, value)
            .and_then(|message| Ok((message, self.membership()?)))
        {
            Ok(both) => both,
            Err(error) => return Push::failed(error),
        };
        // A frontend that drains has left the list and still has clients.
        let mut servers = membership.departing();
        servers.extend(
            membership
                .members()
                .servers_of(frontend_type)
                .iter()
                .cloned(),
        );
        servers.retain(|server| *server.server_type == *frontend_type);
        // Either it can be sent to all, or nobody gets it.
        if servers.iter().any(|server| server.id.as_str() != self.id())
            && let Err(error) = membership.check_delivery(&message.route, &message.body)
        {
            return Push::failed(error.into());
        }
        if options.filter.is_some()
            && serde_json::from_slice::<&serde_json::value::RawValue>(&message.body).is_err()
        {
            let text = "a broadcast through the filters of frontends takes JSON only";
            let kind = RemoteErrorKind::Refused;
            return Push::failed(
                RemoteError::of(kind, shaddock_cluster::code::UNKNOWN, text).into(),
            );
        }
        let filtered = options
            .filter
            .as_ref()
            .map(|parameter| FilteredBroadcast::new(&message, options.bound_only, parameter));
        let sent = servers
            .iter()
            .filter(|server| server.frontend)
            .filter_map(|server| {
                let answer = match &filtered {
                    None => membership.deliver(
                        &server.id,
                        message.to(Receivers::All {
                            bound_only: options.bound_only,
                        }),
                    ),
                    Some(broadcast) => {
                        let op = SessionOp::Custom {
                            name: BROADCAST.into(),
                            argument: broadcast.to_json(),
                        };
                        let wait = self.config().rpc_timeout.min(membership.push_timeout());
                        let asked = membership.session_op(&server.id, op, received::for_call(wait));
                        Box::pin(async move { asked.await.map(|answer| filtered_answer(&answer)) })
                    }
                };
                let frontend = FrontendId::new(server.id.as_str()).ok()?;
                Some(Sent {
                    frontend,
                    uids: Vec::new(),
                    place: None,
                    answer,
                })
            });
        collect(sent.collect())
    }

    /// Sends a message to one session of another frontend; where that is a Pitaya server, which only knows users, to its user.
    pub(crate) async fn send_there(
        &self,
        frontend: &ServerId,
        sid: Sid,
        uid: Option<&Uid>,
        message: Message,
    ) -> Result<(), SessionError> {
        let membership = self.membership()?;
        let session = Receivers::Sids(Arc::from([crate::session::raw_sid(sid)]));
        let sent = membership.deliver(frontend, message.to(session)).await;
        let delivered = match (sent, uid) {
            (Err(error), Some(uid)) if error.kind() == RemoteErrorKind::Refused => {
                let user = Receivers::Uids(Arc::from([Arc::clone(uid.shared())]));
                membership.deliver(frontend, message.to(user)).await?
            }
            (sent, _) => sent?,
        };
        if delivered.refused.is_some() {
            Err(SessionError::refused(delivered.refused.as_deref()))
        } else if delivered.missing_sids.is_empty() {
            Ok(())
        } else {
            Err(shaddock_core::SendError::Closed.into())
        }
    }
}

fn filtered_answer(answer: &SessionAnswer) -> ClusterDelivered {
    let answer = match answer {
        SessionAnswer::Custom(json) => serde_json::from_slice::<FilteredAnswer>(json).ok(),
        _ => None,
    };
    answer.map_or_else(ClusterDelivered::default, |answer| ClusterDelivered {
        queued: answer.queued,
        refused: answer.refused.map(Arc::from),
        ..ClusterDelivered::default()
    })
}
