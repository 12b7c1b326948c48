//! What the compiler says about handlers of the wrong shape. The texts belong to the toolchain that the repository pins; with
//! `TRYBUILD=overwrite` they are written anew.

#[test]
fn wrong_handlers_give_errors_that_a_person_can_act_on() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
