//! File descriptors of the process: the limit of the system, and a reserve that clients cannot use.
//!
//! A descriptor gets the lowest free number. So if the number of a connection is within the last `reserve` numbers of the limit, all lower
//! numbers are taken, and it is closed immediately ([`Refusal::OutOfDescriptors`](crate::Refusal)). The reserve is for the rest of the
//! process: admin server, cluster, files. This needs no system call per connection.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for the admin server with all its connections (64 by default), and the same number for the cluster and files.
const MAX_RESERVE: u64 = 128;

/// The requested limit where there is no hard limit: macOS grants no more (`OPEN_MAX`).
const WITHOUT_HARD_LIMIT: u64 = 10_240;

/// The limit of open files, before and after [`raise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Raised {
    /// The soft limit at the start; `None`: no limit.
    pub before: Option<u64>,
    /// The soft limit now.
    pub now: Option<u64>,
}

/// Raises the soft limit of open files to the hard one, never lowers it. Listeners that start later use the new limit.
///
/// # Errors
/// The system refuses; the limit is unchanged.
pub fn raise() -> io::Result<Raised> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(before) = current {
        let wanted = maximum.unwrap_or(WITHOUT_HARD_LIMIT).max(before);
        let limit = Rlimit {
            current: Some(wanted),
            maximum,
        };
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(Raised {
        before: current,
        now: getrlimit(Resource::Nofile).current,
    })
}

/// The current soft limit of open files; `None`: there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Clients may use descriptors with numbers below this one; `None`: there is no limit. The process's own descriptors are among them.
pub fn for_clients() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile).current?;
    Some(limit - reserve(limit))
}

/// Descriptors of `limit` that are reserved: 128, or an eighth of a small limit.
fn reserve(limit: u64) -> u64 {
    (limit / 8).min(MAX_RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_an_eighth_and_has_a_bound() {
        for (limit, kept) in [
            (0, 0),
            (7, 0),
            (64, 8),
            (1024, 128),
            (1_048_576, 128),
            (u64::MAX, 128),
        ] {
            assert_eq!(reserve(limit), kept, "{limit}");
        }
    }
}
