//! Calls that wait for an answer, and how many may be on their way to one server.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::link::{Link, disconnected};
use super::wire;
use crate::api::Limit;
use crate::{RemoteError, RemoteErrorKind, Reply, ServerInfo, code};

/// Calls of different threads rarely meet in one of so many locks.
const SHARDS: u64 = 16;

/// The table of calls. An entry lives as long as somebody waits for it.
pub(crate) struct Calls {
    shards: [Mutex<HashMap<u64, Pending>>; SHARDS as usize],
    next: AtomicU64,
    waiting: AtomicUsize,
    /// In front of the number in reply subjects.
    answers: String,
}

struct Pending {
    sender: oneshot::Sender<Answer>,
    /// Sent, or still in its target's queue.
    sent: bool,
}

/// What came for a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Payload(Bytes),
    /// NATS says that nobody listens there.
    NoResponder,
    /// The connection broke after the call was sent.
    LinkLost,
    /// The connection broke before.
    NotSent,
}

impl Answer {
    /// The payload of an answer that came.
    pub(crate) fn into_payload(self) -> Result<Bytes, RemoteError> {
        match self {
            Self::Payload(payload) => Ok(payload),
            Self::NoResponder => Err(RemoteError::of(
                RemoteErrorKind::NoResponder,
                code::UNKNOWN,
                "nats: no responders available for request",
            )),
            Self::LinkLost => Err(RemoteError::of(
                RemoteErrorKind::LinkLost,
                code::UNAVAILABLE,
                "the connection to NATS was lost before an answer came",
            )),
            Self::NotSent => Err(disconnected()),
        }
    }
}

/// A server that is called: where, and what is on the way to it.
pub(crate) struct Target {
    pub(crate) info: Arc<ServerInfo>,
    /// Where it is called by all kinds of servers.
    pub(crate) subject: Subject,
    capacity: usize,
    max_queued: usize,
    gate: Mutex<Gate>,
}

#[derive(Default)]
struct Gate {
    /// The calls that are on their way.
    placed: HashSet<u64>,
    queue: VecDeque<Queued>,
}

struct Queued {
    number: u64,
    payload: Bytes,
}

impl Target {
    pub(crate) fn new(info: Arc<ServerInfo>, capacity: usize, max_queued: usize) -> Self {
        let subject = Subject::from(super::subject::server(&info.server_type, info.id.as_str()));
        Self {
            info,
            subject,
            capacity,
            max_queued,
            gate: Mutex::default(),
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// `answers` is the subject of answers up to the number of the call.
    pub(crate) fn new(answers: String) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            answers,
        }
    }

    /// How many calls wait.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Pending>> {
        let n = usize::try_from(number % SHARDS).unwrap_or(0);
        self.shards[n]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn reply_subject(&self, number: u64) -> Subject {
        let mut subject = String::with_capacity(self.answers.len() + 20);
        subject.push_str(&self.answers);
        // Writing into a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut subject, format_args!("{number}"));
        Subject::from(subject)
    }

    /// Opens a call; it ends when the value is dropped.
    fn open(self: &Arc<Self>, sent: bool) -> (u64, oneshot::Receiver<Answer>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.shard(number).insert(number, Pending { sender, sent });
        self.waiting.fetch_add(1, Ordering::Relaxed);
        (number, receiver)
    }

    /// Takes a call out.
    fn close(&self, number: u64) {
        if self.shard(number).remove(&number).is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An answer came. Late ones find nobody.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        if let Some(pending) = self.shard(number).remove(&number) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = pending.sender.send(answer);
        }
    }

    /// The connection broke: no answer will come.
    pub(crate) fn fail_all(&self) {
        for shard in &self.shards {
            let all: Vec<_> = shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain()
                .collect();
            self.waiting.fetch_sub(all.len(), Ordering::Relaxed);
            for (_, pending) in all {
                let _ = pending.sender.send(if pending.sent {
                    Answer::LinkLost
                } else {
                    Answer::NotSent
                });
            }
        }
    }

    /// Sends a question to a subject; no bound but that of the link.
    pub(crate) fn ask(
        self: &Arc<Self>,
        link: &Arc<Link>,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Asked, RemoteError> {
        let (number, receiver) = self.open(true);
        let guard = Guard {
            calls: Arc::clone(self),
            link: Arc::clone(link),
            number,
            target: None,
        };
        link.publish(subject, Some(self.reply_subject(number)), payload)?;
        Ok(Asked {
            receiver,
            guard,
            timeout,
        })
    }

    /// Calls a server, or queues the call behind those that are on their way.
    pub(crate) fn call(
        self: &Arc<Self>,
        link: &Arc<Link>,
        target: &Arc<Target>,
        payload: Bytes,
        limit: Limit,
    ) -> Reply {
        match self.start(link, target, payload, limit.timeout) {
            Err(error) => Reply::ready(Err(error)),
            Ok(asked) => Reply::from_future(Box::pin(async move {
                match asked.answer().await {
                    Some(answer) => wire::decode_answer(answer.into_payload()?),
                    None => Err(limit.error()),
                }
            })),
        }
    }

    fn start(
        self: &Arc<Self>,
        link: &Arc<Link>,
        target: &Arc<Target>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Asked, RemoteError> {
        if !link.is_up() {
            return Err(disconnected());
        }
        let mut gate = target.gate();
        let now = gate.placed.len() < target.capacity;
        if !now && gate.queue.len() >= target.max_queued {
            let text = format!("too many calls wait for server {}", target.info.id);
            return Err(RemoteError::of(
                RemoteErrorKind::Busy,
                code::UNAVAILABLE,
                text,
            ));
        }
        let (number, receiver) = self.open(now);
        if now {
            gate.placed.insert(number);
        } else {
            gate.queue.push_back(Queued {
                number,
                payload: payload.clone(),
            });
        }
        drop(gate);
        let target = Some(Arc::clone(target));
        let guard = Guard {
            calls: Arc::clone(self),
            link: Arc::clone(link),
            number,
            target,
        };
        if let (true, Some(target)) = (now, &guard.target) {
            link.publish(
                target.subject.clone(),
                Some(self.reply_subject(number)),
                payload,
            )?;
        }
        Ok(Asked {
            receiver,
            guard,
            timeout,
        })
    }

    /// A call is over. If it had a place on the way to its server, the next of the queue takes it.
    fn free_place(&self, link: &Link, target: &Target, number: u64) {
        let mut gate = target.gate();
        if !gate.placed.remove(&number) {
            return;
        }
        while let Some(next) = gate.queue.pop_front() {
            if !self.mark_sent(next.number) {
                continue;
            }
            gate.placed.insert(next.number);
            drop(gate);
            let reply = self.reply_subject(next.number);
            if link
                .publish(target.subject.clone(), Some(reply), next.payload)
                .is_err()
            {
                // The end of that call frees the place again.
                self.answer(next.number, Answer::NotSent);
            }
            return;
        }
    }

    /// False if the caller went away.
    fn mark_sent(&self, number: u64) -> bool {
        match self.shard(number).get_mut(&number) {
            Some(pending) => {
                pending.sent = true;
                true
            }
            None => false,
        }
    }
}

/// A question that was sent or queued.
pub(crate) struct Asked {
    receiver: oneshot::Receiver<Answer>,
    guard: Guard,
    timeout: Duration,
}

impl Asked {
    /// The answer, or nothing in time.
    pub(crate) async fn answer(self) -> Option<Answer> {
        let Self {
            receiver,
            guard,
            timeout,
        } = self;
        let _guard = guard;
        // The sender is dropped only with an answer.
        tokio::time::timeout(timeout, receiver)
            .await
            .ok()
            .map(|answer| answer.unwrap_or(Answer::LinkLost))
    }
}

/// Ends a call with its caller.
struct Guard {
    calls: Arc<Calls>,
    link: Arc<Link>,
    number: u64,
    target: Option<Arc<Target>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.calls.close(self.number);
        if let Some(target) = &self.target {
            self.calls.free_place(&self.link, target, self.number);
        }
    }
}
