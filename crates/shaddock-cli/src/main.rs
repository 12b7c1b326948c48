//! The shaddock command.
fn main() {}
