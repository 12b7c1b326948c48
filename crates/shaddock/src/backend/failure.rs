//! Failures of an exchange, with a text for the log and another one for the client.

use std::{fmt, time::Duration};

use crate::{
    error::{HandlerError, codes},
    metrics::NoAnswer,
};

/// The most bytes of a text for the log: a response may contain an unknown name of a megabyte.
const MOST_TEXT: usize = 500;

/// A text for the log that may contain data of a service, truncated after [`MOST_TEXT`] bytes.
#[derive(Debug)]
pub(super) struct Excerpt(String);

impl Excerpt {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MOST_TEXT {
            let whole = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(whole.unwrap_or_default());
            text.push_str("..");
        }
        Self(text)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason why there is no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent: there is no connection.
    Down(Excerpt),
    /// Nothing was sent: too many requests are waiting.
    Busy(usize),
    /// The response was not complete in time. The request may have been executed.
    Slow(Duration),
    /// The response is invalid.
    Broken(Excerpt),
}

impl Failure {
    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self::Down(Excerpt::new(reason))
    }

    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(Excerpt::new(reason))
    }

    /// The reason for the counters.
    pub(super) const fn reason(&self) -> NoAnswer {
        match self {
            Self::Down(_) => NoAnswer::Down,
            Self::Busy(_) => NoAnswer::Busy,
            Self::Slow(_) => NoAnswer::Timeout,
            Self::Broken(_) => NoAnswer::Broken,
        }
    }

    /// The name in traces.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Down(_) => "down",
            Self::Busy(_) => "busy",
            Self::Slow(_) => "timeout",
            Self::Broken(_) => "broken",
        }
    }

    /// The error for the client, which contains only the kind of failure. Names and addresses are logged.
    pub(super) fn into_error(self) -> HandlerError {
        match self {
            Self::Down(_) => HandlerError::new(
                shaddock_cluster::code::UNAVAILABLE,
                "the backend cannot be reached; try again later",
            ),
            Self::Busy(_) => HandlerError::too_many("too many requests wait for the backend"),
            Self::Slow(_) => HandlerError::timeout("the backend did not respond in time"),
            Self::Broken(_) => HandlerError::new(codes::INTERNAL, "the backend failed"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) | Self::Broken(reason) => reason.fmt(f),
            Self::Busy(queue) => write!(
                f,
                "all connections are in use, and {queue} requests wait for one (`max_connections`, `queue`)"
            ),
            Self::Slow(limit) => write!(f, "no complete response within {limit:?} (`timeout`)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data of a service is truncated in the log.
    #[test]
    fn what_a_service_wrote_is_cut_off() {
        let long = "房".repeat(10_000);
        for failure in [Failure::down(&long), Failure::broken(&long)] {
            let text = failure.to_string();
            assert!(
                text.len() <= MOST_TEXT + 2 && text.ends_with(".."),
                "{text}"
            );
        }
        assert_eq!(Failure::broken("short").to_string(), "short");
    }
}
