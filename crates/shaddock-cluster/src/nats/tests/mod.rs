//! Tests of several parts together.

mod scale;
