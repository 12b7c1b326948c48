//! The conversion of every other error into a [`HandlerError`]: which errors keep their code or text, and which stay hidden from clients.

use std::any::Any;

use shaddock_cluster::RemoteError;

use super::{HandlerError, INTERNAL_ERROR, Source, codes};
use crate::{channel::PushError, remote::RpcError, session::SessionError};

impl<E> From<E> for HandlerError
where
    E: Into<Source> + 'static,
{
    fn from(error: E) -> Self {
        // There can be one conversion only, so the few types that are treated otherwise are found here.
        let mut error = Some(error);
        let slot: &mut dyn Any = &mut error;
        let known = if let Some(rpc) = slot.downcast_mut::<Option<RpcError>>() {
            match rpc.take() {
                Some(RpcError::Remote(remote)) => Some(Self::from_remote(remote)),
                other => {
                    *rpc = other;
                    None
                }
            }
        } else if let Some(session) = slot.downcast_mut::<Option<SessionError>>() {
            match session.take() {
                Some(SessionError::Refused(refused)) => Some(refused),
                Some(SessionError::Remote(remote)) => Some(Self::from_remote(remote)),
                // The texts are ours, and Pitaya's clients read them from Go servers too.
                Some(error) if !matches!(error, SessionError::Encode(_)) => {
                    Some(Self::new(codes::UNKNOWN, error.to_string()))
                }
                other => {
                    *session = other;
                    None
                }
            }
        } else if let Some(push) = slot.downcast_mut::<Option<PushError>>() {
            match push.take() {
                Some(PushError::Cluster(remote)) => Some(Self::from_remote(remote)),
                other => {
                    *push = other;
                    None
                }
            }
        } else {
            slot.downcast_mut::<Option<RemoteError>>()
                .and_then(Option::take)
                .map(Self::from_remote)
        };
        let plain = Self::new(codes::UNKNOWN, INTERNAL_ERROR);
        match (known, error) {
            (Some(known), _) => known,
            (None, Some(error)) => plain.with_source(error),
            (None, None) => plain,
        }
    }
}
