//! Calls that wait for an answer, and how many may be on their way to one server.

mod answer;
mod number;
mod table;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub(super) use self::answer::Answer;
use self::number::{DIGITS, decimal};
use self::table::{Call, CallTable};
use self::target::Queued;
pub(super) use self::target::Target;
use super::detector::Probed;
use super::health::Health;
use super::link::{Link, disconnected};
use super::wire;
use crate::quiet::quiet;
use crate::reply::Limit;
use crate::{RemoteError, RemoteErrorKind, Reply, ServerId, code};

/// Time between looks for abandoned calls.
const SWEEP: Duration = Duration::from_millis(200);
/// The longest time that a call waits, for any timeout of its caller.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Calls of other servers. An entry lives until there is a reply or its caller no longer waits, whichever is later; but not longer than its
/// caller's timeout.
pub(super) struct Calls {
    link: Arc<Link>,
    health: Arc<Health>,
    /// The shortest timeout that counts against a server.
    fair_wait: Duration,
    /// A call that is pending for longer than this causes an early probe of its server.
    patience: Duration,
    table: CallTable,
    /// In front of the number in reply subjects.
    answers: String,
    /// Users of requests that a called server rejected because another frontend owns the user. At the limit a rejection is not passed on; the
    /// next one is.
    refused: mpsc::Sender<Arc<str>>,
    /// How many were rejected because too many waited.
    rejected: AtomicU64,
}

impl Calls {
    /// `answers` is the subject of answers up to the number of the call.
    pub(super) fn new(
        link: Arc<Link>,
        health: Arc<Health>,
        (fair_wait, patience): (Duration, Duration),
        answers: String,
        refused: mpsc::Sender<Arc<str>>,
    ) -> Self {
        Self {
            link,
            health,
            fair_wait,
            patience,
            table: CallTable::new(),
            answers,
            refused,
            rejected: AtomicU64::new(0),
        }
    }

    /// How many calls wait.
    pub(super) fn pending(&self) -> usize {
        self.table.waiting()
    }

    /// How many calls were rejected because too many waited for their server.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Rejects a call: counts it, and names the limit in the log.
    fn too_many(&self, target: &Target) -> RemoteError {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        let server = &target.info.id;
        quiet!(
            warn,
            "a call was rejected because too many wait for its server: it is slow, or calls_per_server or waiting_calls_per_server of [cluster] is too low",
            %server,
            in_flight = target.capacity,
            waiting = target.max_queued
        );
        let text = format!("too many calls wait for server {server}");
        RemoteError::of(RemoteErrorKind::Busy, code::UNAVAILABLE, text)
    }

    fn reply_subject(&self, number: u64) -> Subject {
        let mut digits = [0; DIGITS];
        let digits = decimal(number, &mut digits);
        let mut subject = String::with_capacity(self.answers.len() + digits.len());
        subject.push_str(&self.answers);
        subject.push_str(digits);
        Subject::from(subject)
    }

    fn open(
        self: &Arc<Self>,
        sent: bool,
        timeout: Duration,
        target: Option<&Arc<Target>>,
        has_place: bool,
    ) -> (oneshot::Receiver<Answer>, Guard) {
        let (sender, receiver) = oneshot::channel();
        let number = self.table.insert(sender, sent, target.cloned());
        let until = Instant::now() + timeout.min(LONGEST);
        let guard = Guard {
            calls: Arc::clone(self),
            number,
            until,
            target: target.cloned(),
            has_place,
        };
        (receiver, guard)
    }

    /// A reply arrived. A late one has no caller, but its server has one call less.
    pub(super) fn answer(&self, number: u64, answer: Answer) {
        match self.table.remove(number) {
            None => {}
            Some(Call::Waiting { sender, .. }) => {
                let _ = sender.send(answer);
            }
            Some(Call::Abandoned { target, .. }) => self.free_place(&target, number),
        }
    }

    /// The number of the next call.
    pub(super) fn mark(&self) -> u64 {
        self.table.next_number()
    }

    /// The connection broke: no answer will come.
    pub(super) fn fail_all(&self) {
        self.fail_before(u64::MAX);
    }

    /// No answer will come to calls with smaller numbers.
    pub(super) fn fail_before(&self, mark: u64) {
        for (number, call) in self.table.take_out(|number, _| number < mark) {
            match call {
                Call::Waiting { sender, sent, .. } => {
                    let _ = sender.send(if sent {
                        Answer::LinkLost
                    } else {
                        Answer::NotSent
                    });
                }
                Call::Abandoned { target, .. } => self.free_place(&target, number),
            }
        }
    }

    /// The server with this id, if calls are on their way to it.
    pub(super) fn target_of(&self, server: &ServerId) -> Option<Arc<Target>> {
        self.table.target_of(server)
    }

    /// The server died: no answer will come to the calls that were sent to it. Returns how many.
    pub(super) fn fail_calls_to(&self, server: &ServerId) -> usize {
        let calls = self.table.take_out(|_, call| call.is_to(server));
        let count = calls.len();
        for (number, call) in calls {
            match call {
                Call::Waiting { sender, sent, .. } => {
                    let _ = sender.send(if sent {
                        Answer::Died
                    } else {
                        Answer::NoResponder
                    });
                }
                Call::Abandoned { target, .. } => self.free_place(&target, number),
            }
        }
        count
    }

    /// Frees the places of calls whose callers no longer wait and whose time has expired.
    pub(super) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            if !self.table.has_abandoned() {
                continue;
            }
            let now = Instant::now();
            for (number, call) in self.table.take_out(|_, call| call.is_over(now)) {
                if let Call::Abandoned { target, .. } = call {
                    self.free_place(&target, number);
                }
            }
        }
    }

    /// Sends a question to a subject; no bound but that of the link. `peer` is the server that is asked, if its answer shows that it lives.
    pub(super) fn ask(
        self: &Arc<Self>,
        peer: Option<&Arc<Target>>,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Asked, RemoteError> {
        let (receiver, guard) = self.open(true, timeout, peer, false);
        let reply = self.reply_subject(guard.number);
        self.link
            .publish_for(timeout, subject, Some(reply), payload)?;
        Ok(Asked {
            receiver,
            guard,
            timeout,
        })
    }

    /// Calls a server, or queues the call behind those that are on their way. `user` is the user of the request, if the number of their claim
    /// goes with it.
    pub(super) fn call(
        self: &Arc<Self>,
        target: &Arc<Target>,
        payload: Bytes,
        limit: Limit,
        user: Option<Arc<str>>,
    ) -> Reply {
        match self.start(target, payload, limit.timeout) {
            Err(error) => Reply::ready(Err(error)),
            Ok(asked) => Reply::from_future(Box::pin(async move {
                let calls = user.map(|user| (user, Arc::clone(&asked.guard.calls)));
                let Some(answer) = asked.answer().await else {
                    return Err(limit.error());
                };
                let result = wire::decode_answer(answer.into_payload()?);
                if let (Err(error), Some((user, calls))) = (&result, calls)
                    && error.kind() == RemoteErrorKind::Fenced
                {
                    let _ = calls.refused.try_send(user);
                }
                result
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
            drop(gate);
            return Err(self.too_many(target));
        }
        let (receiver, guard) = self.open(now, timeout, Some(target), true);
        if now {
            gate.placed.insert(guard.number);
            drop(gate);
            let reply = self.reply_subject(guard.number);
            let subject = target.subject.clone();
            let sent = self
                .link
                .publish_for(timeout, subject, Some(reply), payload);
            if let Err(error) = sent {
                guard.was_not_sent();
                return Err(error);
            }
        } else {
            let life = timeout;
            gate.queue.insert(guard.number, Queued { payload, life });
            drop(gate);
        }
        Ok(Asked {
            receiver,
            guard,
            timeout,
        })
    }

    /// A call is over. If it had a place on the way to its server, the next of the queue takes it; if it waited for one, it waits no more.
    fn free_place(&self, target: &Target, number: u64) {
        let mut gate = target.gate();
        if !gate.placed.remove(&number) {
            gate.queue.remove(&number);
            return;
        }
        while let Some((number, next)) = gate.queue.pop_first() {
            if !self.table.mark_sent(number) {
                continue;
            }
            gate.placed.insert(number);
            drop(gate);
            let reply = Some(self.reply_subject(number));
            let subject = target.subject.clone();
            if self
                .link
                .publish_for(next.life, subject, reply, next.payload)
                .is_err()
            {
                // The end of that call frees the place again.
                self.answer(number, Answer::NotSent);
            }
            return;
        }
    }
}

/// A question that was sent or queued.
pub(super) struct Asked {
    receiver: oneshot::Receiver<Answer>,
    guard: Guard,
    timeout: Duration,
}

impl Asked {
    /// The answer, or nothing in time.
    pub(super) async fn answer(self) -> Option<Answer> {
        // Counted from the call, however late the future is polled.
        let until = tokio::time::Instant::from_std(self.guard.until);
        let (calls, target) = (&self.guard.calls, &self.guard.target);
        let long = self.timeout.min(LONGEST).checked_sub(calls.patience);
        let long = long.filter(|long| target.is_some() && !long.is_zero());
        let slow = || {
            if let Some(target) = target
                && calls.table.is_sent(self.guard.number)
            {
                calls.health.call_is_slow(target);
            }
        };
        let answer = awaited(self.receiver, long.map(|long| until - long), until, slow).await;
        // The sender is dropped only with an answer.
        let answer = answer.map(|answer| answer.unwrap_or(Answer::LinkLost));
        if let Some(target) = target {
            match &answer {
                Some(Answer::Payload(_)) => calls.health.replied(target),
                Some(Answer::NoResponder) => calls.health.no_subscriber(target),
                None if self.timeout >= calls.fair_wait
                    && calls.table.is_sent(self.guard.number) =>
                {
                    calls.health.timed_out(target);
                }
                Some(Answer::LinkLost | Answer::NotSent | Answer::Died) | None => {}
            }
        }
        answer
    }

    /// The answer to a probe.
    pub(super) async fn probed(self) -> Probed {
        match self.answer().await {
            Some(Answer::Payload(_)) => Probed::Replied,
            Some(Answer::NoResponder) => Probed::NoSubscriber,
            _ => Probed::Silent,
        }
    }
}

/// Waits for an answer until the deadline. Calls `slow` once if there is none at `patience_ends`.
async fn awaited<T>(
    mut answer: oneshot::Receiver<T>,
    patience_ends: Option<tokio::time::Instant>,
    until: tokio::time::Instant,
    slow: impl FnOnce(),
) -> Option<Result<T, oneshot::error::RecvError>> {
    if let Some(end) = patience_ends {
        if let Ok(answer) = tokio::time::timeout_at(end, &mut answer).await {
            return Some(answer);
        }
        slow();
    }
    tokio::time::timeout_at(until, answer).await.ok()
}

/// Ends a call with its caller.
struct Guard {
    calls: Arc<Calls>,
    number: u64,
    /// Its deadline, which its server knows too.
    until: Instant,
    target: Option<Arc<Target>>,
    /// It counts among the calls on their way to its target.
    has_place: bool,
}

impl Guard {
    /// The call never left: its place is free at once.
    fn was_not_sent(mut self) {
        self.calls.table.mark_unsent(self.number);
        self.until = Instant::now();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let calls = &self.calls;
        let place = self.target.take().filter(|_| self.has_place);
        let served_by = || {
            let is_served = Instant::now() < self.until && calls.link.is_up();
            place
                .clone()
                .filter(|_| is_served)
                .map(|target| (target, self.until))
        };
        // A call still counts for a server that works on it.
        if calls.table.caller_left(self.number, served_by) {
            return;
        }
        if let Some(target) = place {
            calls.free_place(&target, self.number);
        }
    }
}

#[cfg(test)]
mod tests;
