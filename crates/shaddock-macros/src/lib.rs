//! Procedural macros of shaddock.

use proc_macro::TokenStream;

mod debug_handler;

/// placeholder
#[proc_macro_attribute]
pub fn debug_handler(attributes: TokenStream, item: TokenStream) -> TokenStream {
    debug_handler::expand(attributes.into(), item.into()).into()
}
