//! The state that one driver of a resumable session leaves for the next.

use std::any::Any;

use shaddock_core::Handover;

use super::{
    phase::{Phase, Unopened},
    state::Driver,
    waiting::Waiting,
    work::Work,
};
use crate::{rate::Bucket, ready::BoxFuture};

/// The state that one driver leaves for the next.
#[derive(Default)]
pub(super) struct Left {
    pub(super) handler: Option<BoxFuture<()>>,
    pub(super) messages: Option<Box<Waiting>>,
    pub(super) rate: Option<Box<Bucket>>,
    pub(super) unopened: Option<Box<Unopened>>,
}

/// A [`Left`] with nothing in it. It takes no memory.
struct NothingLeft;

impl Left {
    pub(super) fn into_handover(self) -> Handover {
        match self {
            Self {
                handler: None,
                messages: None,
                rate: None,
                unopened: None,
            } => Box::new(NothingLeft),
            left => Box::new(left),
        }
    }

    fn from_handover(handover: Handover) -> Self {
        let handover: Box<dyn Any> = handover;
        handover
            .downcast::<Self>()
            .map_or_else(|_nothing| Self::default(), |left| *left)
    }
}

impl Driver {
    /// Takes over what another driver has left.
    pub(super) fn adopt(&mut self, left: Handover) {
        let left = Left::from_handover(left);
        if let Some(handler) = left.handler {
            self.work = Work::Handler(handler);
        }
        let own = std::mem::replace(&mut self.waiting, left.messages);
        // Read on this connection while the session was waited for.
        if let Some(own) = own
            && own.holds_input()
        {
            let waiting = self.waiting.get_or_insert_default();
            (waiting.input, waiting.frames) = (own.input, own.frames);
        }
        self.rate = left.rate.or_else(|| self.rate.take());
        match (&mut self.opening, &mut self.phase) {
            (Some(opening), _) => {
                // Data that the application returned for the handshake that is acknowledged is newer, if there is any.
                if let Some(unopened) = left.unopened {
                    opening.is_new = true;
                    opening.carried = opening.carried.take().or(unopened.carried);
                }
            }
            (None, Phase::Suspended(away)) => {
                away.unopened = left.unopened;
            }
            _ => {}
        }
    }
}
