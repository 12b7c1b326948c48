//! The metadata that a Pitaya frontend puts into the context of a client's message: a number of the request, its route, and when it came. Go backends
//! write them into their logs.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::{Context, ForwardedRequest};

const REQUEST_ID: &str = "request.id";
const ROUTE: &str = "req-route";
/// Nanoseconds since 1970.
const START_TIME: &str = "req-start-time";

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// So many are in Pitaya's ids.
const LENGTH: usize = 22;

/// Generates unique ids.
#[derive(Debug, Default)]
pub(super) struct RequestIds {
    key: RandomState,
    made: AtomicU64,
}

impl RequestIds {
    /// The context of `request`, with what is not in it yet.
    pub(super) fn context(&self, request: &ForwardedRequest) -> Context {
        let mut context = request.context.clone();
        let mut add = |key: &str, value: &dyn Fn() -> Value| {
            if context.get(key).is_none() {
                context.set(key, value());
            }
        };
        add(REQUEST_ID, &|| self.make().into());
        add(ROUTE, &|| (*request.route).into());
        add(START_TIME, &|| now().into());
        context
    }

    /// 128 bits that are as good as random, as letters and digits.
    fn make(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut text = String::with_capacity(LENGTH);
        for half in 0..2_u8 {
            let mut bits = self.key.hash_one((number, half));
            for _ in 0..LENGTH / 2 {
                let letter = usize::try_from(bits % 62).unwrap_or_default();
                text.push(char::from(LETTERS[letter]));
                bits /= 62;
            }
        }
        text
    }
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_letters_and_digits_and_differ() {
        let ids = RequestIds::default();
        let made: HashSet<String> = (0..1000).map(|_| ids.make()).collect();
        assert_eq!(made.len(), 1000);
        for id in made {
            assert_eq!(id.len(), LENGTH);
            assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        }
    }
}
