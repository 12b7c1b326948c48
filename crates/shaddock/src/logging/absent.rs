//! Stands for the module `logging` in a build without the feature `logs`: there is no handle.

use std::{convert::Infallible, time::Duration};

/// Never exists.
#[derive(Debug, Clone)]
pub(crate) enum LogHandle {}

impl LogHandle {
    pub(crate) fn set_filter(&self, _: &str) -> Result<(), Infallible> {
        match *self {}
    }

    pub(crate) fn flush(&self, _: Duration) -> bool {
        match *self {}
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        match *self {}
    }
}

/// The text is not used: setting the key is a mistake without the feature ([`Config::load`](crate::config::Config::load)).
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(crate) fn check_filter(_: &str) -> Result<(), String> {
    Ok(())
}
