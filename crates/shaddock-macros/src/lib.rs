//! Procedural macros of shaddock. Use them through the `shaddock` crate.

use proc_macro::TokenStream;

mod debug_handler;

/// Makes the compiler report what is wrong with a handler, at the place of the error.
///
/// Without it the compiler only reports that the function is not a handler, at the line of its registration. With it each argument, the
/// return type and the future are checked separately, and the errors point at them:
///
/// ```ignore
/// #[shaddock::debug_handler]
/// async fn enter(Json(body): Json<Enter>, session: SessionView) -> Json<Entered> {
///     // error: `Json` reads the body of the request, so it must be the last argument
/// }
/// ```
///
/// The function itself is unchanged. The checks exist in builds with `debug_assertions` only, and cost nothing at run time. Use it for free
/// functions: not for methods, and not for functions with type parameters.
#[proc_macro_attribute]
pub fn debug_handler(attributes: TokenStream, item: TokenStream) -> TokenStream {
    debug_handler::expand(&attributes.into(), &item.into()).into()
}
