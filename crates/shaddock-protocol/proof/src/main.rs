//! Links `shaddock-protocol` into a program that has no std. If anything in its tree used std, rustc would find two panic
//! handlers and refuse.
#![no_std]
#![no_main]

extern crate alloc;

use core::{
    alloc::{GlobalAlloc, Layout},
    panic::PanicInfo,
};

/// Never gives memory: the program is built, not run.
struct Nothing;

// SAFETY: returning null from `alloc` is always allowed, and so nothing is ever deallocated.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Precompiled `core` unwinds in debug builds and refers to this; nothing here ever calls it.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// The function that the C runtime calls.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    let package = shaddock_protocol::encode_package(shaddock_protocol::PackageType::Heartbeat, &[]);
    i32::from(package.is_err())
}
