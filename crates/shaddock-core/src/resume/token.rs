//! The tokens with which clients resume their sessions.

use crate::Sid;
use sha2::{Digest, Sha256};
use shaddock_protocol::ReturningClient;

/// Random bytes of a token: 128 bits.
pub(crate) const SECRET_LEN: usize = 16;

/// The random part of a new token. The caller fills it from the operating system's random source.
#[derive(Clone, Copy)]
pub struct ResumeSecret(pub [u8; SECRET_LEN]);

impl std::fmt::Debug for ResumeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeSecret(..)")
    }
}

impl ResumeSecret {
    /// The token of the session `sid`: 16 digits identify the session, 32 authenticate its client.
    pub fn token(&self, sid: Sid) -> String {
        let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half & 15)]);
        let bytes = sid.get().to_be_bytes().into_iter().chain(self.0);
        bytes
            .flat_map(|byte| [digit(byte >> 4), digit(byte)])
            .collect()
    }
}

/// The claim of a returning client, read once: the session that its token names, the hash of the token's secret, and its counts.
#[derive(Clone, Copy, Debug)]
pub struct Credentials {
    /// `None` if the token is malformed: it is the token of no session.
    pub(crate) token: Option<(Sid, TokenHash)>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl From<&ReturningClient> for Credentials {
    /// Does not check whether there is such a session.
    fn from(back: &ReturningClient) -> Self {
        Self {
            token: read(&back.token).map(|(sid, secret)| (sid, TokenHash::of(&secret))),
            received: back.received,
            sent: back.sent,
        }
    }
}

/// The part of a token that the server stores: half a SHA-256 of its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenHash([u8; 16]);

impl TokenHash {
    pub(crate) fn of(secret: &ResumeSecret) -> Self {
        let digest = Sha256::digest(secret.0);
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
    }

    /// Compares in constant time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0).map(|(a, b)| a ^ b);
        std::hint::black_box(differences.fold(0, |all, one| all | one)) == 0
    }
}

impl Sid {
    /// The session id in a token of a client, if the token is well-formed. Does not check whether the client may have the session.
    pub fn of_token(token: &str) -> Option<Self> {
        read(token).map(|(sid, _)| sid)
    }
}

/// The sid and the secret of a token, if it is well-formed.
pub(crate) fn read(token: &str) -> Option<(Sid, ResumeSecret)> {
    let digits = token.as_bytes();
    if digits.len() != 2 * (size_of::<u64>() + SECRET_LEN) {
        return None;
    }
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; size_of::<u64>() + SECRET_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(&pair[0])? << 4 | digit(&pair[1])?;
    }
    let (sid, secret) = bytes.split_first_chunk::<8>()?;
    let sid = Sid::new(u64::from_be_bytes(*sid))?;
    Some((sid, ResumeSecret(secret.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_there_and_back_and_only_they() {
        let sid = Sid::new(0x0123_4567_89ab_cdef).unwrap();
        let secret = ResumeSecret(std::array::from_fn(|n| u8::try_from(n * 17).unwrap()));
        let token = secret.token(sid);
        assert_eq!(token, "0123456789abcdef00112233445566778899aabbccddeeff");
        let (found, again) = read(&token).unwrap();
        assert_eq!((found, again.0), (sid, secret.0));
        for wrong in [
            "",
            &token[1..],
            &format!("{token}0"),
            &token.to_uppercase(),
            &token.replace('0', "g"),
            &format!("{}{}", "0".repeat(16), &token[16..]),
            &format!("{}\u{e9}", &token[2..]),
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_that_of_one_secret() {
        let hash = TokenHash::of(&ResumeSecret([1; 16]));
        assert!(hash.is(&TokenHash::of(&ResumeSecret([1; 16]))));
        for place in 0..16 {
            let mut secret = [1; 16];
            secret[place] = 2;
            assert!(!hash.is(&TokenHash::of(&ResumeSecret(secret))));
        }
    }
}
