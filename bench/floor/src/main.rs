//! The floor: the price of the kernel.
fn main() {}
