//! Pushes to users by name, and to one session.

use std::sync::Arc;

use serde::Serialize;
use shaddock_cluster::{BoxFuture, RawSid, Receivers, RemoteError, RemoteErrorKind, ServerId};
use shaddock_core::{FanOutGroup, FrontendId, Uid};
use shaddock_net::MaybeReady;

use super::{Content, Delivered, Message, Push, Pushes, Sent, collect, outcome::outcome};
use crate::{channel::Deliveries, session::SessionError};

impl Pushes<'_> {
    /// Sends one message per group.
    pub(in crate::channel) fn to_plan<T: Serialize + ?Sized>(
        self,
        content: &Content<'_, T>,
        plan: &[FanOutGroup],
    ) -> Push {
        let message = match content.message() {
            Ok(message) => message,
            Err(error) => return Push::failed(error),
        };
        let own =
            |frontend: &FrontendId| frontend.as_str() == self.app.id() && self.app.is_frontend();
        if let [group] = plan
            && own(&group.frontend)
        {
            // All users are on this server, so there is nothing to wait for.
            let here =
                Deliveries::of(self.app).to_uids(&message, group.uids.iter().map(Uid::shared));
            return self.delivered_here(group.frontend.clone(), here);
        }
        let membership = match self.app.membership() {
            Ok(membership) => membership,
            Err(error) => return Push::failed(error.into()),
        };
        // The message must be valid for all receivers, or none receives it.
        if !plan.iter().all(|group| own(&group.frontend))
            && let Err(error) = membership.check_delivery(&message.route, &message.body)
        {
            return Push::failed(error.into());
        }
        let sent = plan.iter().map(|group| {
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

    pub(in crate::channel) fn to_users<T: Serialize + ?Sized>(
        self,
        frontend_type: &str,
        content: &Content<'_, T>,
        users: &[Uid],
    ) -> Push {
        let sent = content.message().and_then(|message| {
            let uids = users.iter().map(|uid| Arc::clone(uid.shared())).collect();
            let delivery = message.to(Receivers::Uids(uids));
            Ok(self
                .app
                .membership()?
                .deliver_to_type(frontend_type, delivery))
        });
        match sent {
            Ok(answer) => Push(MaybeReady::later(async move {
                let mut delivered = Delivered::default();
                let refused = delivered.add(answer.await?);
                match refused {
                    None => delivered.unless_unreached(),
                    refused => outcome(delivered, refused),
                }
            })),
            Err(error) => Push::failed(error),
        }
    }

    /// Sends a message to one session of another frontend; where that is a Pitaya server, which only knows users, to its user.
    pub(crate) async fn to_session(
        self,
        frontend: &ServerId,
        sid: RawSid,
        uid: Option<&Uid>,
        message: Message,
    ) -> Result<(), SessionError> {
        let membership = self.app.membership()?;
        let session = Receivers::Sids(Arc::from([sid]));
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
