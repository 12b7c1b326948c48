//! Random parts of tokens, drawn from the operating system in blocks: a client that comes back does not wait for a system call.

use std::cell::RefCell;

use ring::rand::{SecureRandom as _, SystemRandom};
use shaddock_core::ResumeSecret;

/// Secrets per block.
const BLOCK: usize = 32;

thread_local! {
    /// Unused ones of this worker.
    static DRAWN: RefCell<Vec<ResumeSecret>> = const { RefCell::new(Vec::new()) };
}

/// A new secret. `None` if the operating system has no random bytes: then resumption is not granted.
pub(crate) fn new_secret() -> Option<ResumeSecret> {
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.is_empty() {
            draw(drawn);
        }
        drawn.pop()
    })
}

fn draw(drawn: &mut Vec<ResumeSecret>) {
    let mut bytes = [[0; 16]; BLOCK];
    if SystemRandom::new().fill(bytes.as_flattened_mut()).is_ok() {
        drawn.extend(bytes.map(ResumeSecret));
    } else {
        crate::quiet!(
            error,
            "the operating system returned no random bytes; sessions cannot be resumed"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_secret_is_given_twice() {
        let drawn = |_| new_secret().unwrap().0;
        let secrets: HashSet<_> = (0..3 * BLOCK).map(drawn).collect();
        assert_eq!(secrets.len(), 3 * BLOCK);
        assert!(!secrets.contains(&[0; 16]));
    }
}
