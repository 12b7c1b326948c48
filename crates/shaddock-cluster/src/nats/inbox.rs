//! Messages to this server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_nats::Subscriber;
use futures_util::Stream;

use super::watched::Watched;

/// The messages of one subscription, until the link is closed: this server has left, or another incarnation has its id. Unread messages
/// have no receiver here any more, so the stream ends.
///
/// There is no other way to read a subscription, so messages for the next incarnation of an id are never served.
#[derive(Debug)]
pub(crate) struct Inbox<S = Subscriber> {
    messages: S,
    link: Arc<Watched>,
}

impl<S> Inbox<S> {
    pub(super) const fn new(messages: S, link: Arc<Watched>) -> Self {
        Self { messages, link }
    }
}

impl Inbox {
    /// Ends the subscription. The stream continues with messages that NATS has delivered before. False if the request cannot be sent.
    pub(crate) async fn drain(&mut self) -> bool {
        self.messages.drain().await.is_ok()
    }
}

impl<S: Stream + Unpin> Stream for Inbox<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let next = ready!(Pin::new(&mut self.messages).poll_next(context));
        Poll::Ready(next.filter(|_| !self.link.is_closed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream};

    #[test]
    fn nothing_is_read_from_a_link_that_is_closed() {
        let link = Arc::new(Watched::default());
        let mut inbox = Inbox::new(stream::iter(1..=9), Arc::clone(&link));
        let mut next = || inbox.next().now_or_never().unwrap();
        assert_eq!((next(), next()), (Some(1), Some(2)));
        link.close();
        assert_eq!((next(), next()), (None, None));
    }
}
