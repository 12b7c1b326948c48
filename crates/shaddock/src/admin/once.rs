//! Idempotency keys: a request that is repeated is answered as the first time, and carried out once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use bytes::Bytes;
use ring::digest;

use super::error::ApiError;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// How many. Above it the oldest answers are forgotten.
const MOST: usize = 1000;
/// Characters of a key.
const LONGEST: usize = 255;

/// What is known of keys. Each caller has their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Once(Arc<Mutex<HashMap<(String, String), Entry>>>);

#[derive(Debug)]
struct Entry {
    since: Instant,
    /// Of the request's body.
    hash: Vec<u8>,
    /// `None` while it is carried out.
    answer: Option<Bytes>,
}

/// What is to be done with a request.
pub(crate) enum First {
    /// It is new: carry it out.
    Yes,
    /// It was carried out, and answered with this.
    No(Bytes),
}

impl Once {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// The key is none, was used for another request, or its request is being carried out.
    pub(crate) fn begin(&self, who: &str, key: &str, body: &[u8]) -> Result<First, ApiError> {
        let is_key =
            (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_key {
            return Err(ApiError::bad_request(format!(
                "`Idempotency-Key` has 1 to {LONGEST} visible ASCII characters"
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
            return entry.answer.clone().map(First::No).ok_or_else(|| {
                ApiError::new(
                    StatusCode::CONFLICT,
                    "in_progress",
                    "the request with this `Idempotency-Key` is being carried out; ask again later",
                )
            });
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
                        format!("{MOST} requests with an `Idempotency-Key` are being carried out"),
                    ));
                }
            }
        }
        let entry = Entry {
            since: now,
            hash,
            answer: None,
        };
        all.insert((who.to_owned(), key.to_owned()), entry);
        Ok(First::Yes)
    }

    /// It was carried out.
    pub(crate) fn end(&self, who: &str, key: &str, answer: Bytes) {
        if let Some(entry) = self.lock().get_mut(&(who.to_owned(), key.to_owned())) {
            entry.answer = Some(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_new(begun: &Result<First, ApiError>) -> bool {
        matches!(begun, Ok(First::Yes))
    }

    #[test]
    fn a_request_is_carried_out_once() {
        let once = Once::default();
        assert!(is_new(&once.begin("ann", "k", b"1")));
        assert!(once.begin("ann", "k", b"1").is_err(), "it is at work");
        assert!(once.begin("ann", "k", b"2").is_err(), "another body");
        assert!(is_new(&once.begin("bob", "k", b"2")), "another caller");
        once.end("ann", "k", Bytes::from_static(b"done"));
        let again = once.begin("ann", "k", b"1");
        assert!(matches!(again, Ok(First::No(answer)) if answer == "done"));
        assert!(once.begin("ann", "k", b"2").is_err(), "another body");
        for key in ["", " ", "é", &"x".repeat(256)] {
            assert!(once.begin("ann", key, b"1").is_err(), "{key}");
        }
    }

    #[test]
    fn there_is_a_bound_on_what_is_kept() {
        let once = Once::default();
        for n in 0..MOST + 10 {
            let key = n.to_string();
            assert!(is_new(&once.begin("ann", &key, b"")), "{n}");
            once.end("ann", &key, Bytes::new());
        }
        assert_eq!(once.lock().len(), MOST);
        let busy = Once::default();
        for n in 0..MOST {
            assert!(is_new(&busy.begin("ann", &n.to_string(), b"")), "{n}");
        }
        assert!(busy.begin("ann", "one more", b"").is_err());
    }
}
