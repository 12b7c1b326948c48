//! Calls that wait for an answer, and how many may be on their way to one server.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::link::{Link, disconnected};
use super::wire;
use crate::reply::Limit;
use crate::{Members, RemoteError, RemoteErrorKind, Reply, ServerInfo, code};

/// Calls of different threads rarely meet in one of so many locks.
const SHARDS: usize = 16;
/// Time between looks for abandoned calls.
const SWEEP: Duration = Duration::from_millis(200);
/// No call waits longer, whatever its caller says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A table of calls by number.
type ByNumber<T> = HashMap<u64, T, BuildHasherDefault<OfNumber>>;

/// A hash of numbers that we count ourselves: nobody can choose them so that they meet.
#[derive(Default)]
struct OfNumber(u64);

impl Hasher for OfNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: the table looks at the highest and the lowest bits.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The table of calls. An entry lives as long as somebody waits for it.
pub(crate) struct Calls {
    link: Arc<Link>,
    members: Members,
    shards: [Mutex<ByNumber<Pending>>; SHARDS],
    next: AtomicU64,
    waiting: AtomicUsize,
    /// Calls that nobody waits for any more and that still have a place on the way to their server. Not more than places.
    abandoned: Mutex<ByNumber<Abandoned>>,
    /// In front of the number in reply subjects.
    answers: String,
}

struct Pending {
    sender: oneshot::Sender<Answer>,
    /// Sent, or still in its target's queue.
    sent: bool,
}

struct Abandoned {
    target: Arc<Target>,
    until: Instant,
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
    placed: HashSet<u64, BuildHasherDefault<OfNumber>>,
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
    pub(crate) fn new(link: Arc<Link>, members: Members, answers: String) -> Self {
        Self {
            link,
            members,
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            abandoned: Mutex::default(),
            answers,
        }
    }

    /// How many calls wait.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, ByNumber<Pending>> {
        let n = usize::try_from(number).unwrap_or(usize::MAX) % SHARDS;
        self.shards[n]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn abandoned(&self) -> MutexGuard<'_, ByNumber<Abandoned>> {
        self.abandoned
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

    fn open(
        self: &Arc<Self>,
        sent: bool,
        timeout: Duration,
        target: Option<Arc<Target>>,
    ) -> (oneshot::Receiver<Answer>, Guard) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.shard(number).insert(number, Pending { sender, sent });
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + timeout.min(LONGEST);
        (
            receiver,
            Guard {
                calls: Arc::clone(self),
                number,
                until,
                target,
            },
        )
    }

    /// Takes a call out, unless it has an answer.
    fn close(&self, number: u64) -> Option<Pending> {
        let pending = self.shard(number).remove(&number)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(pending)
    }

    /// An answer came. A late one finds nobody, but its server has one call less.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        if let Some(pending) = self.close(number) {
            let _ = pending.sender.send(answer);
            return;
        }
        let abandoned = self.abandoned().remove(&number);
        if let Some(abandoned) = abandoned {
            self.free_place(&abandoned.target, number);
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
                let reason = if pending.sent {
                    Answer::LinkLost
                } else {
                    Answer::NotSent
                };
                let _ = pending.sender.send(reason);
            }
        }
        self.give_up_abandoned(|_| true);
    }

    /// Frees the places of calls that nobody waits for and whose time is over, for ever.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            self.give_up_abandoned(|abandoned| abandoned.until <= now);
        }
    }

    fn give_up_abandoned(&self, which: impl Fn(&Abandoned) -> bool) {
        let over: Vec<_> = self
            .abandoned()
            .extract_if(|_, abandoned| which(abandoned))
            .collect();
        for (number, abandoned) in over {
            self.free_place(&abandoned.target, number);
        }
    }

    /// Sends a question to a subject; no bound but that of the link.
    pub(crate) fn ask(
        self: &Arc<Self>,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Asked, RemoteError> {
        let (receiver, guard) = self.open(true, timeout, None);
        self.link
            .publish(subject, Some(self.reply_subject(guard.number)), payload)?;
        Ok(Asked { receiver, guard })
    }

    /// Calls a server, or queues the call behind those that are on their way.
    pub(crate) fn call(
        self: &Arc<Self>,
        target: &Arc<Target>,
        payload: Bytes,
        limit: Limit,
    ) -> Reply {
        match self.start(target, payload, limit.timeout) {
            Err(error) => Reply::ready(Err(error)),
            Ok(asked) => Reply::from_future(Box::pin(async move {
                let calls = Arc::clone(&asked.guard.calls);
                match asked.answer().await {
                    Some(answer @ Answer::NoResponder) => {
                        calls.members.avoid(&limit.target);
                        wire::decode_answer(answer.into_payload()?)
                    }
                    Some(answer) => wire::decode_answer(answer.into_payload()?),
                    None => Err(limit.error()),
                }
            })),
        }
    }

    fn start(
        self: &Arc<Self>,
        target: &Arc<Target>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Asked, RemoteError> {
        if !self.link.is_up() {
            return Err(disconnected());
        }
        let mut gate = target.gate();
        let now = gate.placed.len() < target.capacity;
        if !now && gate.queue.len() >= target.max_queued {
            // Those whose callers went away need no room.
            gate.queue
                .retain(|queued| self.shard(queued.number).contains_key(&queued.number));
            if gate.queue.len() >= target.max_queued {
                let text = format!("too many calls wait for server {}", target.info.id);
                return Err(RemoteError::of(
                    RemoteErrorKind::Busy,
                    code::UNAVAILABLE,
                    text,
                ));
            }
        }
        let (receiver, guard) = self.open(now, timeout, Some(Arc::clone(target)));
        if now {
            gate.placed.insert(guard.number);
            drop(gate);
            let reply = self.reply_subject(guard.number);
            self.link
                .publish(target.subject.clone(), Some(reply), payload)?;
        } else {
            gate.queue.push_back(Queued {
                number: guard.number,
                payload,
            });
            drop(gate);
        }
        Ok(Asked { receiver, guard })
    }

    /// A call is over. If it had a place on the way to its server, the next of the queue takes it.
    fn free_place(&self, target: &Target, number: u64) {
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
            let reply = Some(self.reply_subject(next.number));
            if self
                .link
                .publish(target.subject.clone(), reply, next.payload)
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
}

impl Asked {
    /// The answer, or nothing in time.
    pub(crate) async fn answer(self) -> Option<Answer> {
        let Self { receiver, guard } = self;
        // Counted from the call, however late somebody asks.
        let until = tokio::time::Instant::from_std(guard.until);
        let answer = tokio::time::timeout_at(until, receiver).await.ok()?;
        // The sender is dropped only with an answer.
        Some(answer.unwrap_or(Answer::LinkLost))
    }
}

/// Ends a call with its caller.
struct Guard {
    calls: Arc<Calls>,
    number: u64,
    /// Its deadline, which its server knows too.
    until: Instant,
    target: Option<Arc<Target>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let unanswered = self
            .calls
            .close(self.number)
            .is_some_and(|pending| pending.sent);
        let Some(target) = self.target.take() else {
            return;
        };
        if unanswered && Instant::now() < self.until && self.calls.link.is_up() {
            // Its caller went away, but the server works on it: it still counts there.
            let abandoned = Abandoned {
                target,
                until: self.until,
            };
            self.calls.abandoned().insert(self.number, abandoned);
        } else {
            self.calls.free_place(&target, self.number);
        }
    }
}
