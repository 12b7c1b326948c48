//! Helpers of unit tests in several modules.

#[cfg_attr(
    not(feature = "nats"),
    allow(dead_code, reason = "the bytes are those of NATS")
)]
pub(crate) mod vectors;
