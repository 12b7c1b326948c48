//! Failures.
mod support;
