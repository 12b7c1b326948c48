//! Events of the connection to NATS: lost, lame duck mode, missing permissions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Event, ServerError};
use tokio::sync::{Notify, watch};

use parking_lot::{Mutex, MutexGuard};

/// Subjects that are remembered as not allowed: the last ones.
const DENIED: usize = 16;
/// A publish that was refused counts for so long. A subscription is missing until the connection is made anew.
const PUBLISH_COUNTS: Duration = Duration::from_secs(60);

/// The known state of the connection. A state and no list of events: however often it breaks, nothing piles up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) up: bool,
    /// How often it was lost: a short loss is one too.
    pub(crate) losses: u64,
}

#[derive(Debug, Default)]
pub(super) struct Watched {
    /// This server has closed the connection itself.
    closed: AtomicBool,
    /// The NATS server is about to end and wants its clients to go elsewhere.
    pub(super) lame_duck: Notify,
    denied: Mutex<VecDeque<Denied>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Denied {
    subject: String,
    /// `None` for a subscription.
    published: Option<Instant>,
}

impl Watched {
    /// From now on nothing is sent, and nothing that arrives is read.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether this server has closed the connection itself.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn denied(&self) -> MutexGuard<'_, VecDeque<Denied>> {
        self.denied.lock()
    }

    /// The permission that this server lacks at NATS, if there is one.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut denied = self.denied();
        denied.retain(|one| one.published.is_none_or(|at| at.elapsed() < PUBLISH_COUNTS));
        let one = denied.front()?;
        let what = if one.published.is_some() {
            "publish to"
        } else {
            "subscribe to"
        };
        let (subject, more) = (&one.subject, denied.len() - 1);
        let more = if more == 0 {
            String::new()
        } else {
            format!(", and {more} more")
        };
        Some(format!(
            "NATS does not allow this server to {what} \"{subject}\"{more}; see the permissions of its user"
        ))
    }

    fn deny(&self, subject: String, published: Option<Instant>) {
        let mut denied = self.denied();
        denied
            .retain(|one| one.subject != subject || one.published.is_some() != published.is_some());
        if denied.len() >= DENIED {
            denied.pop_back();
        }
        // Subscriptions first: without them nothing arrives.
        let one = Denied { subject, published };
        if one.published.is_none() {
            denied.push_front(one);
        } else {
            denied.push_back(one);
        }
    }

    /// Something happened to the connection of a server.
    pub(super) fn record(&self, name: &str, state: &watch::Sender<LinkState>, event: &Event) {
        match event {
            Event::Connected => {
                tracing::info!(server = name, "connected to NATS");
                // It subscribes again to everything.
                self.denied().clear();
                state.send_modify(|state| state.up = true);
            }
            Event::Disconnected => {
                if self.is_closed() {
                    tracing::debug!(server = name, "disconnected from NATS");
                } else {
                    tracing::warn!(server = name, "NATS is away");
                }
                state.send_modify(|state| {
                    state.up = false;
                    state.losses += 1;
                });
            }
            Event::LameDuckMode => {
                tracing::info!(server = name, "the NATS server is about to end");
                self.lame_duck.notify_one();
            }
            Event::ServerError(ServerError::Other(text)) => {
                let Some((subject, is_publish)) = denied(text) else {
                    return tracing::warn!(server = name, text, "NATS");
                };
                tracing::error!(
                    server = name,
                    text,
                    "NATS does not allow what this server needs"
                );
                self.deny(subject, is_publish.then(Instant::now));
            }
            Event::SlowConsumer(_) => {
                tracing::error!(server = name, "messages from NATS were dropped");
            }
            other => tracing::debug!(server = name, %other, "NATS"),
        }
    }
}

/// The subject that a violation of permissions is about, and whether it was published to.
fn denied(text: &str) -> Option<(String, bool)> {
    let about = text
        .to_ascii_lowercase()
        .find("permissions violation for ")?;
    let about = text.get(about + "permissions violation for ".len()..)?;
    let is_publish = about.to_ascii_lowercase().starts_with("publish");
    let (_, subject) = about.split_once('"')?;
    let (subject, _) = subject.split_once('"')?;
    Some((subject.to_owned(), is_publish))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named() {
        let said = |text: &str| {
            denied(text).map(|(subject, is_publish)| format!("{subject} {is_publish}"))
        };
        let violation = "Permissions Violation for Subscription to \"pitaya/servers/chat/chat-1\"";
        assert_eq!(
            said(violation).as_deref(),
            Some("pitaya/servers/chat/chat-1 false")
        );
        let violation = "permissions violation for publish to \"a.b\" using queue \"c\"";
        assert_eq!(said(violation).as_deref(), Some("a.b true"));
        assert_eq!(said("maximum payload violation"), None);

        let watched = Watched::default();
        assert_eq!(watched.trouble(), None);
        let long_ago = Instant::now().checked_sub(PUBLISH_COUNTS * 2);
        watched.deny("old".into(), long_ago);
        assert_eq!(watched.trouble(), None, "it was tried once");
        for n in 0..100 {
            watched.deny(format!("p{n}"), Some(Instant::now()));
        }
        watched.deny("s".into(), None);
        let trouble = watched.trouble().unwrap();
        assert!(
            trouble.contains("subscribe to \"s\", and 15 more"),
            "{trouble}"
        );
    }
}
