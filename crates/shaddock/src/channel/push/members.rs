//! Pushes to the members of a channel or topic.

use std::sync::Arc;

use serde::Serialize;
use shaddock_cluster::{AudienceKey, BoxFuture, Receivers, RemoteError, ServerId};
use shaddock_core::{Channel, FanOutGroup, Place};

use super::{Content, Delivered, FailedFrontend, Push, PushError, Pushes, Sent, collect};
use crate::channel::{Deliveries, gone::is_gone};

/// Which members of a channel or topic get a message.
pub(in crate::channel) struct ToMembers<'a> {
    pub(in crate::channel) key: AudienceKey,
    pub(in crate::channel) except: Option<&'a str>,
    pub(in crate::channel) name_missing: bool,
}

impl ToMembers<'_> {
    pub(in crate::channel) fn receivers(&self) -> Receivers {
        Receivers::Audience {
            key: self.key.clone(),
            except: self.except.map(Arc::from),
            name_missing: self.name_missing,
        }
    }

    /// The members by name without the one who does not get it.
    fn without_exception(&self, plan: Arc<[FanOutGroup]>) -> Arc<[FanOutGroup]> {
        let Some(except) = self.except else {
            return plan;
        };
        let all = plan.iter().flat_map(|group| {
            let uids = group.uids.iter().filter(|uid| uid.as_str() != except);
            uids.map(|uid| (uid.clone(), group.frontend.clone()))
        });
        FanOutGroup::plan(all).into()
    }
}

impl Pushes<'_> {
    /// Sends one message to each frontend that has members of a channel, and to members by name as to other users.
    pub(in crate::channel) fn to_channel<T: Serialize + ?Sized>(
        self,
        content: &Content<'_, T>,
        channel: &Arc<Channel>,
        to: &ToMembers<'_>,
    ) -> Push {
        let (plan, message) = match channel.fan_out().map_err(PushError::from).and_then(|plan| {
            let message = content.message()?;
            Ok((to.without_exception(plan), message))
        }) {
            Ok(both) => both,
            Err(error) => return Push::failed(error),
        };
        let places = channel.places();
        if let ([place], true) = (&places[..], plan.is_empty())
            && self.is_here(&place.frontend)
        {
            let here =
                Deliveries::of(self.app).to_audience(&message, &to.key, to.except, to.name_missing);
            if here.no_audience {
                channel.leave_place(place.frontend.as_str(), Some(place.joins));
            }
            return self.delivered_here(place.frontend.clone(), here);
        }
        let membership = match self.app.membership() {
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
        for group in plan.iter() {
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

    /// As [`to_channel`](Self::to_channel), without answers. An error if no frontend could be reached.
    pub(in crate::channel) fn to_channel_unconfirmed<T: Serialize + ?Sized>(
        self,
        content: &Content<'_, T>,
        channel: &Channel,
        to: &ToMembers<'_>,
    ) -> Result<(), PushError> {
        let plan = channel.fan_out()?;
        let message = content.message()?;
        let membership = self.app.membership()?;
        let places = channel.places();
        let (mut reached, mut delivered) =
            (places.is_empty() && plan.is_empty(), Delivered::default());
        let by_name = plan.iter().map(|group| {
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
                    if is_gone(&error) && joins.is_some() {
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

    /// Sends to the members of a topic, wherever they are. It is on its way when this returns; the future completes when more
    /// can be sent.
    pub(in crate::channel) fn to_topic<T: Serialize + ?Sized>(
        self,
        content: &Content<'_, T>,
        topic: &str,
        receivers: Receivers,
    ) -> Result<BoxFuture<'static, ()>, PushError> {
        let message = content.message()?;
        let membership = self.app.membership()?;
        Ok(membership.deliver_to_topic(topic, message.to(receivers))?)
    }
}
