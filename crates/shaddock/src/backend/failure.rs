//! Failures of an exchange: the text and the advice for the log, and the error for the client.

use std::{
    fmt,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

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
    Broken(Fault, Excerpt),
}

/// What is invalid in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The status is 401 or 403.
    Refused,
    /// The status is 404 or 405.
    NoRoute,
    /// The status is 500 or higher.
    ServerError,
    /// Another status, and not 200, 204 or a redirect.
    Status,
    Redirect,
    /// The body is a page or other text.
    NotJson,
    /// The body is JSON, and not a response as the guide describes it.
    Form,
    /// An action is invalid.
    Action,
    /// The connection ended before the response was complete.
    Cut,
    TooLong,
}

impl Failure {
    /// Numbers of [`kind`](Self::kind).
    const KINDS: usize = 13;

    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self::Down(Excerpt::new(reason))
    }

    pub(super) fn broken(fault: Fault, reason: impl Into<String>) -> Self {
        Self::Broken(fault, Excerpt::new(reason))
    }

    /// The kind of failure, less than [`KINDS`](Self::KINDS).
    const fn kind(&self) -> usize {
        match self {
            Self::Down(_) => 0,
            Self::Busy(_) => 1,
            Self::Slow(_) => 2,
            Self::Broken(fault, _) => 3 + *fault as usize,
        }
    }

    /// What an operator or the author of the service can do.
    pub(super) const fn advice(&self) -> &'static str {
        match self {
            Self::Down(_) => "check that the service runs, and that `url` is its address",
            Self::Busy(_) => {
                "run the service more than once and list all its URLs in `url`, or raise `max_connections` or `queue`"
            }
            Self::Slow(_) => {
                "raise `timeout`, or let the service respond at once and push the result later with the server API"
            }
            Self::Broken(fault, _) => fault.advice(),
        }
    }

    /// The reason for the counters.
    pub(super) const fn reason(&self) -> NoAnswer {
        match self {
            Self::Down(_) => NoAnswer::Down,
            Self::Busy(_) => NoAnswer::Busy,
            Self::Slow(_) => NoAnswer::Timeout,
            Self::Broken(..) => NoAnswer::Broken,
        }
    }

    /// The name in traces.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Down(_) => "down",
            Self::Busy(_) => "busy",
            Self::Slow(_) => "timeout",
            Self::Broken(..) => "broken",
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
            Self::Broken(..) => HandlerError::new(codes::INTERNAL, "the backend failed"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) | Self::Broken(_, reason) => reason.fmt(f),
            Self::Busy(queue) => write!(
                f,
                "all connections are in use, and {queue} requests wait for one (`max_connections`, `queue`)"
            ),
            Self::Slow(limit) => write!(f, "no complete response within {limit:?} (`timeout`)"),
        }
    }
}

impl Fault {
    const fn advice(self) -> &'static str {
        match self {
            Self::Refused => {
                "the service rejects the signature or the caller: compare its key with `secret`, and its clock with this one"
            }
            Self::NoRoute => {
                "compare the path of `url` with the paths that the service serves; a route that does not exist is better answered with 200 and an `error`"
            }
            Self::ServerError => {
                "look for the `webhook-id` in the log of the service; 502, 503 and 504 often come from a proxy in front of it"
            }
            Self::Status => {
                "respond with 200 and a JSON object, or with 204; an error for the client is 200 with {\"error\": {\"code\": .., \"message\": ..}}"
            }
            Self::Redirect => {
                "set `url` to the address that the service redirects to: a redirect is not followed, because the request would be sent twice"
            }
            Self::NotJson => {
                "respond with a JSON object such as {\"body\": ..} and nothing before it; check that `url` is not that of a web page, and that the language writes its warnings to a log"
            }
            Self::Form => {
                "respond with {\"body\": .., \"actions\": [..]} or {\"error\": {\"code\": .., \"message\": ..}}; docs/http-backends.md lists the members"
            }
            Self::Action => {
                "correct the action in the service; no action of this response was executed"
            }
            Self::Cut => {
                "look for a crash or a limit in the log of the service or of a proxy; its keep-alive time must be longer than `max_idle`"
            }
            Self::TooLong => "respond with less, or raise `max_body`",
        }
    }
}

/// The time between two lines about the same kind of failure of one backend.
const QUIET: Duration = Duration::from_secs(60);

/// Limits the lines about failures of one backend: the first failure of each kind is logged at once, later ones once a minute. So a
/// backend that fails all the time hides neither another failure nor another backend.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<[Complaint; Failure::KINDS]>);

#[derive(Debug, Default, Clone, Copy)]
struct Complaint {
    last: Option<Instant>,
    left_out: u64,
}

impl Complaints {
    /// Whether a line about this failure is written; if so, the number of failures of this kind since the previous line, without it.
    pub(super) fn allow(&self, failure: &Failure, now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        let one = all.get_mut(failure.kind())?;
        if one
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < QUIET)
        {
            one.left_out += 1;
            return None;
        }
        one.last = Some(now);
        Some(std::mem::take(&mut one.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULTS: [Fault; 10] = [
        Fault::Refused,
        Fault::NoRoute,
        Fault::ServerError,
        Fault::Status,
        Fault::Redirect,
        Fault::NotJson,
        Fault::Form,
        Fault::Action,
        Fault::Cut,
        Fault::TooLong,
    ];

    /// Each kind has its own line and its own advice, and one that repeats is counted until its next line.
    #[test]
    fn each_kind_of_failure_is_told_once_a_minute() {
        let mut all = vec![
            Failure::down("a"),
            Failure::Busy(1),
            Failure::Slow(Duration::ZERO),
        ];
        all.extend(FAULTS.map(|fault| Failure::broken(fault, "a")));
        assert_eq!(all.len(), Failure::KINDS);
        let advice: std::collections::HashSet<_> = all.iter().map(Failure::advice).collect();
        assert_eq!(advice.len(), all.len());
        let (complaints, start) = (Complaints::default(), Instant::now());
        for (count, after, said) in [(0, 0, true), (1, 59, false), (2, 59, false), (3, 60, true)] {
            let now = start + Duration::from_secs(after);
            for failure in &all {
                let left_out = if count == 3 { 2 } else { 0 };
                let expected = said.then_some(left_out);
                assert_eq!(
                    complaints.allow(failure, now),
                    expected,
                    "{failure:?}, {count}"
                );
            }
        }
    }

    /// Data of a service is truncated in the log.
    #[test]
    fn what_a_service_wrote_is_cut_off() {
        let long = "房".repeat(10_000);
        for failure in [Failure::down(&long), Failure::broken(Fault::Form, &long)] {
            let text = failure.to_string();
            assert!(
                text.len() <= MOST_TEXT + 2 && text.ends_with(".."),
                "{text}"
            );
        }
        assert_eq!(Failure::broken(Fault::Form, "short").to_string(), "short");
    }
}
