//! Procedural macros of shaddock.
