//! Idempotency keys: a repeated request receives the response of the first one and is executed once.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use ring::digest;

use super::error::ApiError;

/// Time for which a response is kept.
const KEPT: Duration = Duration::from_secs(600);
/// The most responses. Above this limit the oldest are forgotten.
const MOST: usize = 1000;
/// The most characters of a key.
const LONGEST: usize = 255;

/// The known keys. Each caller has its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Once(Arc<Mutex<HashMap<(String, String), Entry>>>);

#[derive(Debug)]
struct Entry {
    since: Instant,
    /// The hash of the request's body.
    hash: Vec<u8>,
    /// `None` while the request is executed.
    answer: Option<Answer>,
}

#[derive(Debug, Clone)]
enum Answer {
    Done(Bytes),
    /// The request failed midway, and its effects are unknown.
    Broken,
}

/// A request that is being executed. When it is dropped, its key is released.
#[derive(Debug)]
pub(crate) struct Begun {
    once: Once,
    key: (String, String),
}

impl Begun {
    /// Stores the response.
    pub(crate) fn end(self, answer: Bytes) {
        if let Some(entry) = self.once.lock().get_mut(&self.key) {
            entry.answer = Some(Answer::Done(answer));
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(entry) = self.once.lock().get_mut(&self.key)
            && entry.answer.is_none()
        {
            entry.answer = Some(Answer::Broken);
        }
    }
}

/// Whether a request is executed.
pub(crate) enum First {
    /// The request is new and must be executed.
    Yes(Begun),
    /// The request was executed before, with this response.
    No(Bytes),
}

impl Once {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Entry>> {
        self.0.lock()
    }

    /// # Errors
    /// The key is invalid, was used for another request, or its request is being executed.
    pub(crate) fn begin(&self, who: &str, key: &str, body: &[u8]) -> Result<First, ApiError> {
        let is_key =
            (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_key {
            return Err(ApiError::bad_request(format!(
                "`Idempotency-Key` must have 1 to {LONGEST} visible ASCII characters"
            )));
        }
        let hash = digest::digest(&digest::SHA256, body).as_ref().to_vec();
        let mut all = self.lock();
        let now = Instant::now();
        let is_young = |entry: &Entry| now.saturating_duration_since(entry.since) < KEPT;
        all.retain(|_, entry| entry.answer.is_none() || is_young(entry));
        if let Some(entry) = all.get(&(who.to_owned(), key.to_owned())) {
            if entry.hash != hash {
                return Err(ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "idempotency_key_reused",
                    "this `Idempotency-Key` was sent with another body before; a new request needs a new key",
                ));
            }
            return match &entry.answer {
                Some(Answer::Done(answer)) => Ok(First::No(answer.clone())),
                Some(Answer::Broken) => Err(ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the request with this `Idempotency-Key` failed midway; see the log and the audit log, and send the rest with a new key",
                )),
                None => Err(ApiError::new(
                    StatusCode::CONFLICT,
                    "in_progress",
                    "the request with this `Idempotency-Key` is being executed; retry later",
                )),
            };
        }
        if all.len() >= MOST {
            let answered = all.iter().filter(|(_, entry)| entry.answer.is_some());
            let oldest = answered.min_by_key(|(_, entry)| entry.since);
            let oldest = oldest.map(|(key, _)| key.clone());
            match oldest {
                Some(oldest) => drop(all.remove(&oldest)),
                None => {
                    return Err(ApiError::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "too_many",
                        format!("{MOST} requests with an `Idempotency-Key` are being executed"),
                    ));
                }
            }
        }
        let entry = Entry {
            since: now,
            hash,
            answer: None,
        };
        let key = (who.to_owned(), key.to_owned());
        all.insert(key.clone(), entry);
        let once = self.clone();
        Ok(First::Yes(Begun { once, key }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(once: &Once, who: &str, key: &str, body: &[u8]) -> Option<Begun> {
        match once.begin(who, key, body) {
            Ok(First::Yes(begun)) => Some(begun),
            _ => None,
        }
    }

    #[test]
    fn a_request_is_carried_out_once() {
        let once = Once::default();
        let first = begun(&once, "ann", "k", b"1").unwrap();
        assert!(once.begin("ann", "k", b"1").is_err(), "it is at work");
        assert!(once.begin("ann", "k", b"2").is_err(), "another body");
        let _other = begun(&once, "bob", "k", b"2").unwrap();
        first.end(Bytes::from_static(b"done"));
        let again = once.begin("ann", "k", b"1");
        assert!(matches!(again, Ok(First::No(answer)) if answer == "done"));
        assert!(once.begin("ann", "k", b"2").is_err(), "another body");
        for key in ["", " ", "é", &"x".repeat(256)] {
            assert!(once.begin("ann", key, b"1").is_err(), "{key}");
        }
    }

    /// A key is released after a failure, but its request is not executed again, because it may have had effects.
    #[test]
    fn a_request_that_breaks_off_ends_its_key() {
        let once = Once::default();
        let first = begun(&once, "ann", "k", b"1").unwrap();
        let broken = std::thread::spawn(move || {
            let _first = first;
            panic!("on purpose");
        });
        assert!(broken.join().is_err());
        let Err(error) = once.begin("ann", "k", b"1") else {
            panic!("it is carried out again");
        };
        assert_eq!(error.into_info().code, "internal");
        let busy = Once::default();
        for n in 0..MOST + 10 {
            assert!(begun(&busy, "ann", &n.to_string(), b"").is_some(), "{n}");
        }
    }

    #[test]
    fn there_is_a_bound_on_what_is_kept() {
        let once = Once::default();
        for n in 0..MOST + 10 {
            let first = begun(&once, "ann", &n.to_string(), b"").unwrap();
            first.end(Bytes::new());
        }
        assert_eq!(once.lock().len(), MOST);
        let busy = Once::default();
        let all = (0..MOST).map(|n| begun(&busy, "ann", &n.to_string(), b"").unwrap());
        let _all: Vec<Begun> = all.collect();
        assert!(busy.begin("ann", "one more", b"").is_err());
    }
}
