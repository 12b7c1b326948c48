//! Topics on a frontend: one subscription for each topic that has members here.
//!
//! A topic is held by each holder of a [`Tie`]: its audience, and each join in progress. The first holder subscribes, and holding completes
//! when NATS has the subscription: later publications arrive here. The last one ends it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Message;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OnceCell, mpsc, oneshot};

use super::link::{Link, disconnected};
use super::subject;
use crate::{BoxFuture, RemoteError, Tie};
use parking_lot::{Mutex, MutexGuard};

/// Subscriptions that wait for the task that reads them. At the bound a join waits.
const OPENED: usize = 1024;

/// How long a join waits to hear that NATS has the subscription of its topic.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// The topics of this frontend, by name.
pub(super) struct Topics {
    held: Mutex<HashMap<Arc<str>, Weak<Topic>>>,
    /// New subscriptions, for the task that reads them all.
    opened: mpsc::Sender<TopicStream>,
}

pub(super) type TopicStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

/// One topic, while it is held.
struct Topic {
    name: Arc<str>,
    /// There once NATS has the subscription. Dropped, it ends that.
    subscribed: OnceCell<oneshot::Sender<()>>,
    topics: Weak<Topics>,
}

impl Topics {
    /// The table, and the subscriptions that [`delivery::read_topics`](super::delivery::read_topics) is to read.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<TopicStream>) {
        let (opened, streams) = mpsc::channel(OPENED);
        let held = Mutex::default();
        (Arc::new(Self { held, opened }), streams)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Topic>>> {
        self.held.lock()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Holds a topic. Completes when pushes to it arrive here.
    pub(super) fn hold(
        self: &Arc<Self>,
        link: &Arc<Link>,
        name: &str,
    ) -> BoxFuture<'static, Result<Tie, RemoteError>> {
        let topic = self.obtain(name);
        let (topics, link) = (Arc::clone(self), Arc::clone(link));
        Box::pin(async move {
            let open = || topics.open(&link, &topic.name);
            topic.subscribed.get_or_try_init(open).await?;
            Ok(topic as Tie)
        })
    }

    fn obtain(self: &Arc<Self>, name: &str) -> Arc<Topic> {
        let mut held = self.lock();
        if let Some(known) = held.get(name).and_then(Weak::upgrade) {
            return known;
        }
        let topic = Arc::new(Topic {
            name: name.into(),
            subscribed: OnceCell::new(),
            topics: Arc::downgrade(self),
        });
        held.insert(Arc::clone(&topic.name), Arc::downgrade(&topic));
        topic
    }

    /// Subscribes to a topic, and waits until NATS has done it. Dropped, or without an answer of NATS, it leaves nothing behind.
    async fn open(&self, link: &Link, name: &str) -> Result<oneshot::Sender<()>, RemoteError> {
        // First the place where it is read. There is none when this server leaves.
        let room = self.opened.reserve().await.map_err(|_| disconnected())?;
        let inbox = link.subscribe(subject::topic(name)).await?;
        let (stop, stopped) = oneshot::channel();
        room.send(Box::pin(inbox.take_until(stopped)));
        if link.round_trip(ROUND_TRIP).await {
            Ok(stop)
        } else {
            Err(disconnected())
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let Some(topics) = self.topics.upgrade() else {
            return;
        };
        let mut held = topics.lock();
        // The name may have another topic by now.
        if held
            .get(&*self.name)
            .is_some_and(|it| it.strong_count() == 0)
        {
            held.remove(&*self.name);
        }
    }
}
