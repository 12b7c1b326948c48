//! Signatures as in Standard Webhooks: HMAC-SHA256 of `id.timestamp.body`, one for each key, separated by spaces.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;
use shaddock_cluster::Secret;

use super::BackendError;

const PREFIX: &str = "whsec_";
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// One key.
#[derive(Clone)]
pub(super) struct SigningKey(hmac::Key);

impl SigningKey {
    pub(super) fn new(secret: &Secret) -> Result<Self, BackendError> {
        let text = secret.expose().trim().strip_prefix(PREFIX);
        let bytes = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
        match bytes {
            Some(bytes) if LENGTHS.contains(&bytes.len()) => {
                Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
            }
            _ => Err(BackendError::Secret),
        }
    }

    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            context.update(part);
        }
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The value of `webhook-signature`; `None` without keys.
pub(super) fn signature(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    body: &[u8],
) -> Option<String> {
    let signed: Vec<String> = keys
        .iter()
        .map(|key| key.sign(id, timestamp, body))
        .collect();
    (!signed.is_empty()).then(|| signed.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn key(text: &str) -> Result<SigningKey, BackendError> {
        SigningKey::new(&Secret::from(text))
    }

    /// The example of the specification (standardwebhooks.com).
    #[test]
    fn the_example_of_the_specification() {
        let signed = signature(
            &[key(SECRET).unwrap()],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signed.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn two_keys_sign_both_and_none_signs_nothing() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        let keys = [key(SECRET).unwrap(), key(&other).unwrap()];
        let of = |keys: &[SigningKey]| signature(keys, "a", "1", b"{}");
        let both = of(&keys).unwrap();
        let each: Vec<String> = keys
            .iter()
            .filter_map(|key| of(std::slice::from_ref(key)))
            .collect();
        assert_eq!(both, each.join(" "));
        assert_ne!(each[0], each[1]);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_shown() {
        let short = format!("whsec_{}", BASE64_STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; 65]));
        for text in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_$$$",
            &short,
            &long,
        ] {
            let error = key(text).unwrap_err();
            assert_eq!(error, BackendError::Secret, "{text}");
            assert!(text.len() < 7 || !error.to_string().contains(text));
        }
        assert_eq!(format!("{:?}", key(SECRET).unwrap()), "(hidden)");
    }
}
