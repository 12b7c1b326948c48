//! Calls that wait for an answer, and how many may be on their way to one server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::detector::Probed;
use super::health::Health;
use super::link::{Link, disconnected};
use super::wire;
use crate::reply::Limit;
use crate::{RemoteError, RemoteErrorKind, Reply, ServerId, ServerInfo, code};

/// Calls of different threads rarely meet in one of so many locks.
const SHARDS: usize = 16;
/// Time between looks for abandoned calls.
const SWEEP: Duration = Duration::from_millis(200);
/// No call waits longer, whatever its caller says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A table of calls by number.
type ByNumber<T> = HashMap<u64, T, BuildHasherDefault<OfNumber>>;

/// A hash of internal sequence numbers: callers cannot choose them, so they cannot force collisions.
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

/// The table of calls. An entry lives until there is a reply or its caller no longer waits, whichever is later; but not longer than its
/// caller's timeout.
pub(crate) struct Calls {
    link: Arc<Link>,
    health: Arc<Health>,
    /// A time-out of a call that had less time says nothing about its server.
    fair_wait: Duration,
    /// A call that waits for longer than this makes its server doubted.
    patience: Duration,
    shards: [Mutex<ByNumber<Call>>; SHARDS],
    next: AtomicU64,
    waiting: AtomicUsize,
    /// Entries that are [`Call::Abandoned`].
    abandoned: AtomicUsize,
    /// In front of the number in reply subjects.
    answers: String,
    /// Users in whose name this server acted, and who are another's as the called server says. At the bound one is not told; the next refusal tells.
    refused: mpsc::Sender<Arc<str>>,
}

/// A call is in one table from its start to its end, so that an answer always finds what it ends.
enum Call {
    /// Its caller waits.
    Waiting {
        sender: oneshot::Sender<Answer>,
        /// Sent, or still in its target's queue.
        sent: bool,
        /// The called server. `None`: its answer does not show that it lives.
        target: Option<Arc<Target>>,
    },
    /// Its caller went away, but its server works on it: it still has its place there.
    Abandoned { target: Arc<Target>, until: Instant },
}

impl Call {
    fn target(&self) -> Option<&Arc<Target>> {
        match self {
            Self::Waiting { target, .. } => target.as_ref(),
            Self::Abandoned { target, .. } => Some(target),
        }
    }
}

/// Digits of the largest number.
const DIGITS: usize = 20;

/// A number in decimal, without the machinery of `format!`: each call has one.
fn decimal(mut number: u64, digits: &mut [u8; DIGITS]) -> &str {
    let mut start = DIGITS;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

/// What came for a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Payload(Bytes),
    /// NATS reports that the server has no subscriber.
    NoResponder,
    /// The connection broke after the call was sent.
    LinkLost,
    /// The connection broke before.
    NotSent,
    /// The server died after the call was sent.
    Died,
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
            Self::Died => Err(RemoteError::of(
                RemoteErrorKind::LinkLost,
                code::UNAVAILABLE,
                "the server died before its answer came",
            )),
        }
    }
}

/// A server that is called: where, and what is on the way to it.
pub(crate) struct Target {
    pub(crate) info: Arc<ServerInfo>,
    /// Where it is called by all kinds of servers.
    pub(crate) subject: Subject,
    /// Whether it understands this crate's own subjects.
    pub(crate) is_ours: bool,
    capacity: usize,
    max_queued: usize,
    gate: Mutex<Gate>,
    /// It did not answer a call (in time), and has answered none since.
    pub(super) in_doubt: AtomicBool,
    /// When it was last doubted because a call takes long, in milliseconds; 0: never.
    doubted: AtomicU64,
}

#[derive(Default)]
struct Gate {
    /// The calls that are on their way.
    placed: HashSet<u64, BuildHasherDefault<OfNumber>>,
    /// Those that wait for a place, by number, which is their order. A call leaves with its caller, so all that are here are waited for.
    queue: BTreeMap<u64, Queued>,
}

struct Queued {
    payload: Bytes,
    life: Duration,
}

impl Target {
    pub(crate) fn new(info: Arc<ServerInfo>, capacity: usize, max_queued: usize) -> Self {
        let subject = Subject::from(super::subject::server(&info.server_type, info.id.as_str()));
        Self {
            is_ours: info.is_shaddock(),
            info,
            subject,
            capacity,
            max_queued,
            gate: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            doubted: AtomicU64::new(0),
        }
    }

    /// Whether a call that takes long makes the server doubted at this moment: not again before the pause is over.
    pub(super) fn may_doubt(&self, now: Duration, pause: Duration) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now).saturating_add(1);
        let last = self.doubted.load(Ordering::Relaxed);
        let may = last == 0 || now >= last.saturating_add(millis(pause));
        if may {
            self.doubted.store(now, Ordering::Relaxed);
        }
        may
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// `answers` is the subject of answers up to the number of the call.
    pub(crate) fn new(
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
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            answers,
            refused,
        }
    }

    /// How many calls wait.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, ByNumber<Call>> {
        let n = usize::try_from(number).unwrap_or(usize::MAX) % SHARDS;
        self.shards[n]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let call = Call::Waiting {
            sender,
            sent,
            target: target.cloned(),
        };
        self.shard(number).insert(number, call);
        self.waiting.fetch_add(1, Ordering::Relaxed);
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

    /// Counts an entry that was taken out.
    fn left(&self, call: &Call) {
        let count = match call {
            Call::Waiting { .. } => &self.waiting,
            Call::Abandoned { .. } => &self.abandoned,
        };
        count.fetch_sub(1, Ordering::Relaxed);
    }

    /// A reply arrived. A late one has no caller, but its server has one call less.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        let call = self.shard(number).remove(&number);
        let Some(call) = call else { return };
        self.left(&call);
        match call {
            Call::Waiting { sender, .. } => {
                let _ = sender.send(answer);
            }
            Call::Abandoned { target, .. } => self.free_place(&target, number),
        }
    }

    /// The number of the next call.
    pub(crate) fn mark(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// The connection broke: no answer will come.
    pub(crate) fn fail_all(&self) {
        self.fail_before(u64::MAX);
    }

    /// No answer will come to calls with smaller numbers.
    pub(crate) fn fail_before(&self, mark: u64) {
        for (number, call) in self.take_out(|number, _| number < mark) {
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

    /// The server that is called by this id, if calls are on their way to it.
    pub(super) fn target_of(&self, server: &ServerId) -> Option<Arc<Target>> {
        self.shards.iter().find_map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut targets = shard.values().filter_map(Call::target);
            targets.find(|target| target.info.id == *server).cloned()
        })
    }

    /// The server died: no answer will come to the calls that were sent to it. Returns how many.
    pub(super) fn fail_calls_to(&self, server: &ServerId) -> usize {
        let is_to = |_, call: &Call| call.target().is_some_and(|it| it.info.id == *server);
        let calls = self.take_out(is_to);
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

    fn take_out(&self, which: impl Fn(u64, &Call) -> bool) -> Vec<(u64, Call)> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            out.extend(shard.extract_if(|number, call| which(*number, call)));
        }
        for (_, call) in &out {
            self.left(call);
        }
        out
    }

    /// Frees the places of calls whose callers no longer wait and whose time has expired.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            if self.abandoned.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let now = Instant::now();
            let is_over =
                |_, call: &Call| matches!(call, Call::Abandoned { until, .. } if *until <= now);
            for (number, call) in self.take_out(is_over) {
                if let Call::Abandoned { target, .. } = call {
                    self.free_place(&target, number);
                }
            }
        }
    }

    /// Sends a question to a subject; no bound but that of the link. `peer` is the server that is asked, if its answer shows that it lives.
    pub(crate) fn ask(
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

    /// Calls a server, or queues the call behind those that are on their way. `user`: in whose name, if their claim has a number.
    pub(crate) fn call(
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
            let text = format!("too many calls wait for server {}", target.info.id);
            return Err(RemoteError::of(
                RemoteErrorKind::Busy,
                code::UNAVAILABLE,
                text,
            ));
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
            if !self.mark_sent(number) {
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

    /// False if the caller went away.
    fn mark_sent(&self, number: u64) -> bool {
        match self.shard(number).get_mut(&number) {
            Some(Call::Waiting { sent, .. }) => {
                *sent = true;
                true
            }
            _ => false,
        }
    }

    fn is_sent(&self, number: u64) -> bool {
        let shard = self.shard(number);
        matches!(shard.get(&number), Some(Call::Waiting { sent: true, .. }))
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
        // Counted from the call, however late the future is polled.
        let until = tokio::time::Instant::from_std(self.guard.until);
        let (calls, target) = (&self.guard.calls, &self.guard.target);
        let long = self.timeout.min(LONGEST).checked_sub(calls.patience);
        let long = long.filter(|long| target.is_some() && !long.is_zero());
        let doubt = || {
            if let Some(target) = target
                && calls.is_sent(self.guard.number)
            {
                calls.health.doubt(target);
            }
        };
        let answer = awaited(self.receiver, long.map(|long| until - long), until, doubt).await;
        // The sender is dropped only with an answer.
        let answer = answer.map(|answer| answer.unwrap_or(Answer::LinkLost));
        if let Some(target) = target {
            match &answer {
                Some(Answer::Payload(_)) => calls.health.answered(target),
                Some(Answer::NoResponder) => calls.health.nobody_there(target),
                None if self.timeout >= calls.fair_wait && calls.is_sent(self.guard.number) => {
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

/// Waits for an answer until the deadline. If there is none at `patience_ends` it says so, once, and waits on.
async fn awaited<T>(
    mut answer: oneshot::Receiver<T>,
    patience_ends: Option<tokio::time::Instant>,
    until: tokio::time::Instant,
    doubt: impl FnOnce(),
) -> Option<Result<T, oneshot::error::RecvError>> {
    if let Some(end) = patience_ends {
        if let Ok(answer) = tokio::time::timeout_at(end, &mut answer).await {
            return Some(answer);
        }
        doubt();
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
        if let Some(Call::Waiting { sent, .. }) =
            self.calls.shard(self.number).get_mut(&self.number)
        {
            *sent = false;
        }
        self.until = Instant::now();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let calls = &self.calls;
        let place = self.target.take().filter(|_| self.has_place);
        {
            let mut shard = calls.shard(self.number);
            if let Some(call) = shard.get_mut(&self.number) {
                calls.waiting.fetch_sub(1, Ordering::Relaxed);
                let is_out = matches!(call, Call::Waiting { sent: true, .. })
                    && Instant::now() < self.until
                    && calls.link.is_up();
                if let Some(target) = &place
                    && is_out
                {
                    // Its caller went away, but the server works on it: it still counts there. One step, so that its answer finds either
                    // the caller or this.
                    *call = Call::Abandoned {
                        target: Arc::clone(target),
                        until: self.until,
                    };
                    calls.abandoned.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                shard.remove(&self.number);
            }
        }
        if let Some(target) = place {
            calls.free_place(&target, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::detector::Rules;
    use crate::nats::health::probe_with;
    use crate::{Members, ServerId};
    use std::cell::Cell;

    fn seconds(n: f32) -> Duration {
        Duration::from_secs_f32(n)
    }

    /// A server with calls that may take 30 s each. `answers`: how long it takes to answer a probe.
    struct World {
        members: Members,
        health: Health,
        target: Target,
        probes: Cell<usize>,
        answers: Duration,
    }

    impl World {
        fn new(answers: Duration) -> Self {
            let members = Members::new();
            let info = Arc::new(ServerInfo::new("chat-1", "chat", false).unwrap());
            members.add(Arc::clone(&info));
            let rules = Rules {
                timeouts: 3,
                pause: seconds(1.0),
            };
            Self {
                health: Health::new(members.clone(), rules),
                members,
                target: Target::new(info, 1024, 0),
                probes: Cell::new(0),
                answers,
            }
        }

        fn is_suspect(&self) -> bool {
            self.members.is_suspect("chat-1")
        }

        async fn probe(&self, server: ServerId) -> (ServerId, Probed) {
            self.probes.set(self.probes.get() + 1);
            let wait = tokio::time::timeout(seconds(2.0), pass(self.answers));
            let replied = wait.await.is_ok();
            (
                server,
                if replied {
                    Probed::Replied
                } else {
                    Probed::Silent
                },
            )
        }

        /// A call that waits for so long, and gets its answer then if that is not too late.
        async fn call(&self, answered_after: Duration) -> bool {
            let start = tokio::time::Instant::now();
            let (sender, receiver) = oneshot::channel();
            let answer = async {
                pass(answered_after).await;
                self.health.answered(&self.target);
                let _ = sender.send(());
                std::future::pending::<()>().await;
            };
            let doubt = || self.health.doubt(&self.target);
            let (patience, until) = (start + seconds(5.0), start + seconds(30.0));
            tokio::select! {
                answered = awaited(receiver, Some(patience), until, doubt) => answered.is_some(),
                () = answer => false,
            }
        }

        /// Runs a story while servers are probed.
        async fn run(&self, story: impl Future<Output = ()>) {
            tokio::select! {
                () = probe_with(&self.health, |server| self.probe(server), |_| {}) => {}
                () = story => {}
            }
        }
    }

    const NEVER: Duration = Duration::from_secs(3600);

    /// Lets so much of the test's time pass: the clock is paused.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for number in around.chain([u64::MAX]) {
            let mut digits = [0; DIGITS];
            assert_eq!(decimal(number, &mut digits), number.to_string());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_server_is_suspected_long_before_its_calls_end() {
        let world = World::new(NEVER);
        let look = async {
            pass(seconds(4.9)).await;
            assert_eq!((world.probes.get(), world.is_suspect()), (0, false));
            pass(seconds(0.2)).await;
            assert_eq!((world.probes.get(), world.is_suspect()), (1, false));
            pass(seconds(2.0)).await;
            assert!(world.is_suspect(), "7 s after the first call");
        };
        let call = async { assert!(!world.call(NEVER).await) };
        world
            .run(async {
                tokio::join!(call, look);
            })
            .await;
        assert_eq!(world.health.suspected(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_is_asked_now_and_then_and_never_suspected() {
        let world = World::new(seconds(0.1));
        let start = tokio::time::Instant::now();
        // A call begins every tenth of a second, and each takes 20 s.
        let calls = (0..600_u16).map(|n| {
            let world = &world;
            async move {
                pass(Duration::from_millis(100) * u32::from(n)).await;
                assert!(world.call(seconds(20.0)).await);
                assert!(!world.is_suspect());
            }
        });
        let all = async {
            futures_util::future::join_all(calls).await;
        };
        world.run(all).await;
        assert_eq!(world.health.suspected(), 0);
        let took = usize::try_from(start.elapsed().as_secs()).unwrap();
        let probes = world.probes.get();
        assert!(
            (took / 2..=took).contains(&probes),
            "{probes} probes in {took} s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_answered_soon_raise_no_doubt() {
        let world = World::new(NEVER);
        let calls = async {
            for _ in 0..10 {
                assert!(world.call(seconds(4.9)).await);
            }
        };
        world.run(calls).await;
        assert_eq!(world.probes.get(), 0);
    }
}
