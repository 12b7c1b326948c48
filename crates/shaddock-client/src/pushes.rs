//! Pushes and their subscribers.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::body::{DecodeError, from_json};

/// A message that the server sent without a request. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    route: Arc<str>,
    body: Bytes,
}

impl Push {
    /// The route, for example `onChat`.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The body: JSON text, whatever the wire format. Pitaya: the bytes of the server's serializer.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body, decoded as your type.
    ///
    /// # Errors
    ///
    /// The body is not JSON of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        from_json(&self.body)
    }
}

/// The pushes of one route (or of all), since the subscription.
///
/// A subscription is a bounded queue. If it is full, a new push **is dropped and counted** ([`Subscription::missed`]): the connection never
/// waits for a slow reader, and the queue stays in order, without gaps before the first loss. The memory of a full queue is its capacity
/// times the length of the bodies in it, each of at most [`max_package_size`](crate::ClientBuilder::max_package_size) (converted protobuf:
/// more).
///
/// Dropping it ends the subscription. When the connection ends, queued pushes can still be received, followed by `None`.
pub struct Subscription {
    queue: mpsc::Receiver<Push>,
    missed: Arc<AtomicU64>,
    place: Place,
}

impl Subscription {
    /// The next push; `None` after the last one of an ended connection.
    ///
    /// Cancel-safe: a push is either returned or still in the queue.
    pub async fn recv(&mut self) -> Option<Push> {
        self.queue.recv().await
    }

    /// The next push, if one is queued.
    pub fn try_recv(&mut self) -> Option<Push> {
        self.queue.try_recv().ok()
    }

    /// The number of pushes dropped so far because the queue was full.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }
}

/// As [`Subscription::recv`].
impl Stream for Subscription {
    type Item = Push;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Push>> {
        self.queue.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.place.leave();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("route", &self.place.route)
            .field("queued", &self.queue.len())
            .field("missed", &self.missed())
            .finish_non_exhaustive()
    }
}

/// A handler registered with [`Client::on`](crate::Client::on). Dropping this value has no effect: the handler stays until
/// [`Handler::off`], or until the connection ends.
#[derive(Debug)]
pub struct Handler {
    place: Place,
}

impl Handler {
    pub(crate) fn new(place: Place) -> Self {
        Self { place }
    }

    /// Ends the handler. Queued pushes are still handled.
    pub fn off(self) {
        self.place.leave();
    }
}

/// All subscriptions of one connection. The lock is held for map operations only.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last_id: u64,
    routes: HashMap<Arc<str>, List>,
    /// Subscriptions to all routes.
    all: List,
}

/// Shared with a running delivery, copied on change.
type List = Arc<Vec<Subscriber>>;

#[derive(Clone, Debug)]
struct Subscriber {
    id: u64,
    queue: mpsc::Sender<Push>,
    missed: Arc<AtomicU64>,
}

/// The place of a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    hub: Weak<Hub>,
    /// `None`: every route.
    route: Option<Arc<str>>,
    id: u64,
}

impl Place {
    fn leave(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.leave(self);
        }
    }
}

impl Hub {
    /// Adds a subscription. A `capacity` of 0 counts as 1.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        route: Option<&str>,
        capacity: usize,
    ) -> Subscription {
        let (sender, queue) = mpsc::channel(capacity.max(1));
        let missed = Arc::new(AtomicU64::new(0));
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        let subscriber = Subscriber {
            id,
            queue: sender,
            missed: missed.clone(),
        };
        let route = route.map(|route| {
            let known = state
                .routes
                .get_key_value(route)
                .map(|(key, _)| key.clone());
            known.unwrap_or_else(|| route.into())
        });
        if !state.closed {
            let list = match &route {
                Some(route) => state.routes.entry(route.clone()).or_default(),
                None => &mut state.all,
            };
            Arc::make_mut(list).push(subscriber);
        }
        Subscription {
            queue,
            missed,
            place: Place {
                hub: Arc::downgrade(self),
                route,
                id,
            },
        }
    }

    /// Delivers a push to all subscribers. `body` is computed only if there are any.
    pub(crate) fn deliver<E>(
        &self,
        route: &str,
        body: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<(), E> {
        let (route, of_route, all) = {
            let state = self.lock();
            match state.routes.get_key_value(route) {
                Some((key, list)) => (key.clone(), Some(list.clone()), state.all.clone()),
                None if state.all.is_empty() => return Ok(()),
                None => (route.into(), None, state.all.clone()),
            }
        };
        // Decoding takes time and sending wakes tasks: neither is done under the lock.
        let push = Push {
            route,
            body: body()?,
        };
        for subscriber in of_route
            .iter()
            .flat_map(|list| list.iter())
            .chain(all.iter())
        {
            if let Err(mpsc::error::TrySendError::Full(_)) = subscriber.queue.try_send(push.clone())
            {
                subscriber.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The connection has ended: subscriptions end after their queued pushes.
    pub(crate) fn close(&self) {
        let closed = State {
            closed: true,
            ..State::default()
        };
        // Dropping the queues wakes their readers, after the lock is released.
        let subscribers = std::mem::replace(&mut *self.lock(), closed);
        drop(subscribers);
    }

    fn leave(&self, place: &Place) {
        let mut state = self.lock();
        let list = match &place.route {
            None => &mut state.all,
            Some(route) => match state.routes.get_mut(route) {
                Some(list) => list,
                None => return,
            },
        };
        Arc::make_mut(list).retain(|subscriber| subscriber.id != place.id);
        if let Some(route) = place.route.as_ref().filter(|_| list.is_empty()) {
            state.routes.remove(route);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // As in the table of requests: the data behind a poisoned lock are consistent.
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(hub: &Hub, route: &str, body: &'static str) {
        let body = || Ok::<_, DecodeError>(Bytes::from_static(body.as_bytes()));
        hub.deliver(route, body).unwrap();
    }

    #[test]
    fn a_full_queue_drops_the_new_and_counts() {
        let hub = Arc::new(Hub::default());
        let mut slow = hub.subscribe(Some("onChat"), 2);
        let mut all = hub.subscribe(None, 10);
        for body in ["1", "2", "3"] {
            deliver(&hub, "onChat", body);
        }
        deliver(&hub, "onAdd", "4");
        let bodies = |subscription: &mut Subscription| {
            std::iter::from_fn(|| subscription.try_recv())
                .map(|push| push.json::<i32>().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!((bodies(&mut slow), slow.missed()), (vec![1, 2], 1));
        assert_eq!((bodies(&mut all), all.missed()), (vec![1, 2, 3, 4], 0));
    }

    #[test]
    fn nothing_stays_behind() {
        let hub = Arc::new(Hub::default());
        let first = hub.subscribe(Some("onChat"), 1);
        let second = Handler::new(hub.subscribe(Some("onChat"), 1).place());
        let all = hub.subscribe(None, 1);
        drop((first, all));
        second.off();
        let state = hub.lock();
        assert!(state.routes.is_empty() && state.all.is_empty());
    }

    #[test]
    fn a_body_is_encoded_only_for_a_subscriber() {
        let hub = Arc::new(Hub::default());
        hub.deliver("onChat", || -> Result<Bytes, ()> { unreachable!() })
            .unwrap();
        let _all = hub.subscribe(None, 1);
        assert!(hub.deliver("onChat", || Err(())).is_err());
    }

    #[tokio::test]
    async fn the_end_comes_after_what_is_queued() {
        let hub = Arc::new(Hub::default());
        let mut before = hub.subscribe(Some("onChat"), 2);
        deliver(&hub, "onChat", "1");
        hub.close();
        assert_eq!(before.recv().await.unwrap().route(), "onChat");
        assert!(before.recv().await.is_none());
        assert!(hub.subscribe(Some("onChat"), 2).recv().await.is_none());
    }
}
