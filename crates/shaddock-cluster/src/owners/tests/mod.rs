//! Tests of the decisions together.

mod model;
