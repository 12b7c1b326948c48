//! Many small transactions as few large ones: one entry in etcd's log for each, however many users log in or out at the same time.
//!
//! A transaction that comes alone is sent at once. Those that come while some are on their way go together with the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::client::{Etcd, EtcdError, EtcdResult};
use super::pb::{RequestOp, TxnRequest, TxnResponse};
use crate::quiet::quiet;

/// Transactions in one. etcd's default bound is 128 operations; those inside have what is left of it, and here each has at most two.
const BATCH: usize = 120;
/// Batches on their way.
const IN_FLIGHT: usize = 8;
/// Transactions that wait. Above, one more fails at once.
const QUEUE: usize = 65_536;

/// The callback for the outcome: the revision, and the transaction's own answer. Called even if its caller no longer waits.
type Done = Box<dyn FnOnce(EtcdResult<(i64, TxnResponse)>) + Send>;

struct Job {
    key: String,
    txn: TxnRequest,
    done: Done,
}

/// Where transactions are handed in.
pub(crate) struct Batches {
    jobs: mpsc::Sender<Job>,
    /// Transactions that were rejected because too many waited.
    rejected: AtomicU64,
}

/// The transactions that wait, for [`Waiting::execute`].
pub(crate) struct Waiting(mpsc::Receiver<Job>);

impl Batches {
    pub(crate) fn new() -> (Self, Waiting) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let this = Self {
            jobs: sender,
            rejected: AtomicU64::new(0),
        };
        (this, Waiting(receiver))
    }

    /// How many transactions were rejected because too many waited.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Hands in a transaction that writes this key and no other. Those of one key are carried out in the order in which they were handed in.
    pub(crate) fn submit(
        &self,
        key: String,
        txn: TxnRequest,
        done: impl FnOnce(EtcdResult<(i64, TxnResponse)>) + Send + 'static,
    ) {
        let job = Job {
            key,
            txn,
            done: Box::new(done),
        };
        if let Err(refused) = self.jobs.try_send(job) {
            let (job, reason) = match refused {
                mpsc::error::TrySendError::Full(job) => {
                    self.rejected.fetch_add(1, Ordering::Relaxed);
                    quiet!(
                        warn,
                        "a login was rejected because too many wait for etcd",
                        waiting = QUEUE
                    );
                    (job, "too many writes wait for etcd")
                }
                mpsc::error::TrySendError::Closed(job) => (job, "this server has left"),
            };
            (job.done)(Err(EtcdError::Odd(reason)));
        }
    }
}

impl Waiting {
    /// Carries out what is handed in, for ever.
    pub(crate) async fn execute(mut self, etcd: Etcd) {
        let mut on_the_way = FuturesUnordered::new();
        let mut busy: HashSet<Arc<str>> = HashSet::new();
        // Taken from the queue, and not yet on the way: their keys are busy, or the batch was full.
        let mut held: Vec<Job> = Vec::new();
        let mut open = true;
        while open || !held.is_empty() || !on_the_way.is_empty() {
            tokio::select! {
                taken = self.0.recv_many(&mut held, BATCH), if open && held.len() < BATCH => open = taken > 0,
                Some(keys) = on_the_way.next(), if !on_the_way.is_empty() => {
                    let keys: Vec<Arc<str>> = keys;
                    for key in keys {
                        busy.remove(&key);
                    }
                }
            }
            if on_the_way.len() < IN_FLIGHT
                && let Some((keys, jobs)) = next_batch(&mut held, &mut busy)
            {
                on_the_way.push(send(etcd.clone(), keys, jobs));
            }
        }
    }
}

/// Takes the jobs that can go now: one for each key, and none whose key is on its way.
fn next_batch(
    held: &mut Vec<Job>,
    busy: &mut HashSet<Arc<str>>,
) -> Option<(Vec<Arc<str>>, Vec<Job>)> {
    let (mut keys, mut jobs, mut stay) = (Vec::new(), Vec::new(), Vec::new());
    // A job behind another one of its key waits, also if that one waits.
    let mut blocked: HashSet<String> = HashSet::new();
    for job in held.drain(..) {
        if jobs.len() == BATCH || busy.contains(&*job.key) || blocked.contains(&job.key) {
            blocked.insert(job.key.clone());
            stay.push(job);
            continue;
        }
        let key: Arc<str> = job.key.as_str().into();
        busy.insert(Arc::clone(&key));
        keys.push(key);
        jobs.push(job);
    }
    *held = stay;
    (!jobs.is_empty()).then_some((keys, jobs))
}

async fn send(etcd: Etcd, keys: Vec<Arc<str>>, jobs: Vec<Job>) -> Vec<Arc<str>> {
    let (txns, done): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.txn, job.done)).unzip();
    let answers = execute(&etcd, txns).await;
    match answers {
        Ok((revision, answers)) => {
            for (done, answer) in done.into_iter().zip(answers) {
                done(Ok((revision, answer)));
            }
        }
        Err(error) => {
            if error.is_full() {
                tracing::error!(
                    "etcd has reached its quota and accepts no writes: users cannot log in; compact and defragment it (docs/cluster.md)"
                );
            }
            for done in done {
                done(Err(error.clone()));
            }
        }
    }
    keys
}

async fn execute(etcd: &Etcd, mut txns: Vec<TxnRequest>) -> EtcdResult<(i64, Vec<TxnResponse>)> {
    let revision =
        |answer: &TxnResponse| answer.header.as_ref().map_or(0, |header| header.revision);
    if txns.len() == 1 {
        let answer = etcd.txn(txns.swap_remove(0)).await?;
        return Ok((revision(&answer), vec![answer]));
    }
    let count = txns.len();
    let together = TxnRequest {
        success: txns.into_iter().map(RequestOp::txn).collect(),
        ..TxnRequest::default()
    };
    let answer = etcd.txn(together).await?;
    let at = revision(&answer);
    let answers: Vec<_> = answer
        .responses
        .into_iter()
        .filter_map(|response| response.txn)
        .collect();
    if answers.len() != count {
        return Err(EtcdError::Odd(
            "not every transaction of a batch was answered",
        ));
    }
    Ok((at, answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(key: &str) -> Job {
        Job {
            key: key.to_owned(),
            txn: TxnRequest::default(),
            done: Box::new(|_| {}),
        }
    }

    #[test]
    fn transactions_beyond_the_limit_are_rejected_and_counted() {
        let (batches, waiting) = Batches::new();
        let failed = Arc::new(AtomicU64::new(0));
        let submit = || {
            let failed = Arc::clone(&failed);
            batches.submit("key".into(), TxnRequest::default(), move |done| {
                failed.fetch_add(u64::from(done.is_err()), Ordering::Relaxed);
            });
        };
        let count = || (batches.rejected(), failed.load(Ordering::Relaxed));
        for _ in 0..QUEUE {
            submit();
        }
        assert_eq!(count(), (0, 0));
        submit();
        assert_eq!(count(), (1, 1));
        // One that comes when this server has left fails, but not because of the limit.
        drop(waiting);
        submit();
        assert_eq!(count(), (1, 2));
    }

    #[test]
    fn a_key_is_in_one_batch_at_a_time_and_its_writes_stay_in_order() {
        let mut held: Vec<_> = ["a", "b", "a", "c", "a"].map(job).into();
        let mut busy = HashSet::new();
        let names = |held: &[Job]| held.iter().map(|job| job.key.clone()).collect::<Vec<_>>();
        let (keys, jobs) = next_batch(&mut held, &mut busy).unwrap();
        assert_eq!(names(&jobs), ["a", "b", "c"]);
        assert_eq!(names(&held), ["a", "a"]);
        assert!(
            next_batch(&mut held, &mut busy).is_none(),
            "it is on its way"
        );
        for key in keys {
            busy.remove(&key);
        }
        let (_, jobs) = next_batch(&mut held, &mut busy).unwrap();
        assert_eq!(
            (names(&jobs), names(&held)),
            (vec!["a".to_owned()], vec!["a".to_owned()])
        );

        let mut many: Vec<_> = (0..BATCH + 5).map(|n| job(&n.to_string())).collect();
        let (keys, _) = next_batch(&mut many, &mut HashSet::new()).unwrap();
        assert_eq!((keys.len(), many.len()), (BATCH, 5));
    }
}
