//! The C runtime provides the entry point and the memory functions that core asks for.
fn main() {
    println!("cargo:rustc-link-arg=-lc");
}
