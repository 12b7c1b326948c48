//! What the compiler says about handlers of the wrong shape. The texts belong to the toolchain that the repository pins; with
//! `TRYBUILD=overwrite` they are written anew.

#[allow(
    clippy::all,
    clippy::pedantic,
    reason = "all shapes are shown, also unusual ones"
)]
#[path = "ui/right.rs"]
mod right;

#[test]
fn wrong_handlers_give_errors_that_a_person_can_act_on() {
    let cases = trybuild::TestCases::new();
    // Without programs that must run, trybuild only checks the dependencies. It is a test of this crate, because it would check those of
    // all features and tests of `shaddock`.
    cases.compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn right_handlers_are_taken() {
    assert_eq!(right::app().id(), "chat-1");
}
