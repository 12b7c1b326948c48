//! Verifiable bodies: `{"i":"<24 hex digits>","p":"<padding>"}`.
//!
//! The digits are two numbers: 8 digits for the session, 16 for the message. All bodies of a run have the same length, and writing one
//! changes only the digits.
//!
//! Alternatively a body given by the user, the same for all requests, for servers without a route that echoes the body.

use serde_json::Value;

/// The position of the digits.
const DIGITS: usize = br#"{"i":""#.len();
const FIRST: usize = 8;
const SECOND: usize = 16;
/// The shortest body, in bytes: no padding.
pub(crate) const MIN_LEN: usize = br#"{"i":"","p":""}"#.len() + FIRST + SECOND;

/// Writes and checks the bodies of one length.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    template: Vec<u8>,
    /// The body given by the user.
    given: Option<Vec<u8>>,
}

impl Bodies {
    /// Bodies of `length` bytes, or of [`MIN_LEN`] if that is more.
    pub(crate) fn new(length: usize) -> Self {
        let padding = "x".repeat(length.saturating_sub(MIN_LEN));
        let zeros = "0".repeat(FIRST + SECOND);
        Self {
            template: format!(r#"{{"i":"{zeros}","p":"{padding}"}}"#).into_bytes(),
            given: None,
        }
    }

    /// Sets the body of requests, whose responses may be anything that is not an error.
    #[must_use]
    pub(crate) fn with_request(mut self, body: &str) -> Self {
        self.given = Some(body.as_bytes().to_vec());
        self
    }

    /// The body of a request.
    pub(crate) fn request(&mut self, first: u64, second: u64) -> &[u8] {
        match self.given {
            Some(ref given) => given,
            None => self.get(first, second),
        }
    }

    /// Whether this is the correct response to the request with these numbers.
    pub(crate) fn is_answer(&mut self, first: u64, second: u64, body: &[u8]) -> bool {
        match self.given {
            Some(_) => !is_error(body),
            None => self.get(first, second) == body,
        }
    }

    /// The body with these numbers. Only the low 32 bits of `first` are used.
    pub(crate) fn get(&mut self, first: u64, second: u64) -> &[u8] {
        put_hex(first, &mut self.template[DIGITS..DIGITS + FIRST]);
        put_hex(
            second,
            &mut self.template[DIGITS + FIRST..DIGITS + FIRST + SECOND],
        );
        &self.template
    }

    /// The numbers of a body, if it was generated here, checked to the last byte.
    pub(crate) fn numbers(&mut self, body: &[u8]) -> Option<(u64, u64)> {
        let first = hex(body.get(DIGITS..DIGITS + FIRST)?)?;
        let second = hex(body.get(DIGITS + FIRST..DIGITS + FIRST + SECOND)?)?;
        (self.get(first, second) == body).then_some((first, second))
    }
}

/// Whether a body reports an error: `{"code":500}` as in Pomelo, or invalid JSON. An empty body is not an error, nor is `{"code":200}`.
pub(crate) fn is_error(body: &[u8]) -> bool {
    match serde_json::from_slice::<Value>(body) {
        Ok(answer) => answer["code"].as_u64().is_some_and(|code| code != 200),
        Err(_) => !body.is_empty(),
    }
}

fn put_hex(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_length_and_gives_its_numbers_back() {
        let mut bodies = Bodies::new(64);
        let body = bodies.get(0xabcd, 0x0123_4567_89ab_cdef).to_vec();
        assert_eq!(body.len(), 64);
        assert!(serde_json::from_slice::<Value>(&body).is_ok());
        assert_eq!(bodies.numbers(&body), Some((0xabcd, 0x0123_4567_89ab_cdef)));
    }

    #[test]
    fn one_changed_byte_is_noticed_wherever_it_is() {
        let mut bodies = Bodies::new(48);
        let body = bodies.get(3, 4).to_vec();
        for index in 0..body.len() {
            let mut changed = body.clone();
            changed[index] ^= 0x20;
            assert_ne!(bodies.numbers(&changed), Some((3, 4)), "byte {index}");
        }
        assert_eq!(bodies.numbers(&body[..body.len() - 1]), None);
        assert_eq!(bodies.numbers(b""), None);
    }

    #[test]
    fn to_a_given_body_any_answer_is_right_that_is_no_error() {
        let mut bodies = Bodies::new(64).with_request(r#"{"room":1}"#);
        assert_eq!(bodies.request(1, 2), br#"{"room":1}"#);
        assert!(bodies.is_answer(1, 2, br#"{"code":200,"users":[]}"#));
        assert!(bodies.is_answer(1, 2, br#"{"users":[]}"#));
        assert!(bodies.is_answer(1, 2, b"null") && bodies.is_answer(1, 2, b""));
        for error in [&br#"{"code":500}"#[..], b"{\"users\":"] {
            assert!(!bodies.is_answer(1, 2, error), "{error:?}");
        }
        // Pushes are still checked.
        let push = bodies.get(7, 8).to_vec();
        assert_eq!(bodies.numbers(&push), Some((7, 8)));
    }

    #[test]
    fn the_shortest_body_is_longer_than_asked_for() {
        assert_eq!(Bodies::new(0).get(0, 0).len(), MIN_LEN);
    }
}
