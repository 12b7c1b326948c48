//! Why there is no answer: one text for the log, another one for the client.

use std::{fmt, time::Duration};

use crate::{
    error::{HandlerError, codes},
    metrics::NoAnswer,
};

/// Bytes of a text for the log: an answer may be a megabyte of one unknown name.
const MOST_TEXT: usize = 500;

/// A text for the log that may repeat what a service wrote, cut off after [`MOST_TEXT`] bytes.
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

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent: no connection.
    Down(Excerpt),
    /// Nothing was sent: too many requests wait.
    Busy(usize),
    /// No whole answer in time. What was sent may have been carried out.
    Slow(Duration),
    /// An answer that is none.
    Broken(Excerpt),
}

impl Failure {
    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self::Down(Excerpt::new(reason))
    }

    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(Excerpt::new(reason))
    }

    /// As what it is counted.
    pub(super) const fn reason(&self) -> NoAnswer {
        match self {
            Self::Down(_) => NoAnswer::Down,
            Self::Busy(_) => NoAnswer::Busy,
            Self::Slow(_) => NoAnswer::Timeout,
            Self::Broken(_) => NoAnswer::Broken,
        }
    }

    /// For traces.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Down(_) => "down",
            Self::Busy(_) => "busy",
            Self::Slow(_) => "timeout",
            Self::Broken(_) => "broken",
        }
    }

    /// What the client is told: what kind of failure it is. Names and addresses are for the log.
    pub(super) fn into_error(self) -> HandlerError {
        match self {
            Self::Down(_) => HandlerError::new(
                shaddock_cluster::code::UNAVAILABLE,
                "the backend cannot be reached; try again later",
            ),
            Self::Busy(_) => HandlerError::too_many("too many requests wait for the backend"),
            Self::Slow(_) => HandlerError::timeout("the backend did not answer in time"),
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
            Self::Slow(limit) => write!(f, "no whole answer within {limit:?} (`timeout`)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a service writes is repeated in one line of the log, not in a megabyte of it.
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
