//! Limits the open connections of an HTTP server. At the limit a new connection replaces the oldest one without a request.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// The open connections, the oldest first.
#[derive(Default)]
pub(super) struct Places {
    open: Vec<Weak<Place>>,
    idle: Arc<Notify>,
}

impl Places {
    /// Adds a connection. It counts until the returned place is dropped.
    pub(super) fn take(&mut self) -> Arc<Place> {
        self.forget_ended();
        let place = Arc::new(Place {
            requests: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            ended: Notify::new(),
            idle: Arc::clone(&self.idle),
        });
        self.open.push(Arc::downgrade(&place));
        place
    }

    /// Ends the oldest connection without a request, if there is one.
    pub(super) fn make_room(&mut self) {
        self.forget_ended();
        let idle = |place: &Weak<Place>| place.upgrade().filter(|place| place.is_idle());
        let oldest = self.open.iter().position(|place| idle(place).is_some());
        if let Some(at) = oldest
            && let Some(place) = self.open.remove(at).upgrade()
        {
            place.ended.notify_one();
        }
    }

    /// Completes when a connection has become idle. Cancel-safe.
    pub(super) async fn any_idle(&self) {
        self.idle.notified().await;
    }

    fn forget_ended(&mut self) {
        self.open.retain(|place| place.strong_count() > 0);
    }
}

/// One open connection.
pub(super) struct Place {
    /// Requests whose heads have arrived and whose responses were not sent completely.
    requests: AtomicUsize,
    /// The last write waits for the client to read.
    is_blocked: AtomicBool,
    ended: Notify,
    idle: Arc<Notify>,
}

impl Place {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Acquire) == 0 && !self.is_blocked.load(Ordering::Acquire)
    }

    /// Notes whether the last write was blocked by the client.
    pub(super) fn wrote(&self, is_blocked: bool) {
        if self.is_blocked.swap(is_blocked, Ordering::AcqRel) && !is_blocked {
            self.idle.notify_one();
        }
    }

    /// Completes when the place is needed for another connection. Cancel-safe.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Adds a request. It counts until the returned value is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Serving {
        self.requests.fetch_add(1, Ordering::AcqRel);
        Serving(Arc::clone(self))
    }
}

/// A connection with a request.
pub(super) struct Serving(Arc<Place>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
        self.0.idle.notify_one();
    }
}

impl Serving {
    /// The request lasts until its response was sent.
    pub(super) fn until_sent(self, response: Response) -> Response {
        response.map(|body| {
            Body::new(Sending {
                body,
                _serving: self,
            })
        })
    }
}

struct Sending {
    body: Body,
    _serving: Serving,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
