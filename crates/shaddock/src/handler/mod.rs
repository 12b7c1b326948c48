//! Handlers: plain async functions.
//!
//! A handler takes up to eight [extractors](crate::extract) and, as its last argument, at most one that reads the body. It returns anything
//! that [`IntoReply`] takes. Its future must be `Send` and own what it uses:
//!
//! ```
//! use shaddock::prelude::*;
//!
//! #[derive(serde::Deserialize)]
//! struct Enter { name: String }
//!
//! async fn enter(mut session: SessionView, Json(enter): Json<Enter>) -> Result<Json<String>, HandlerError> {
//!     let uid = Uid::try_from(enter.name.as_str())?;
//!     session.bind(uid).await?;
//!     Ok(Json(enter.name))
//! }
//! # let mut app = App::new("connector", "connector-1");
//! app.handle("entryHandler.enter", enter);
//! ```
//!
//! Arguments are extracted before the future is made, from a borrowed request. So the future holds the typed values only, and not the
//! request's bytes: a slow handler pins no read buffer.
//!
//! When the compiler does not accept a handler, put [`#[debug_handler]`](crate::debug_handler) on it: the error then points at the argument
//! that is wrong.

mod names;
mod run;
mod table;
mod typed;

use std::future::Future;

pub use self::table::{RemoteEntry, RouteEntry};
pub(crate) use self::{
    names::RouteNames,
    run::{Complete, ToCaller, Work},
    table::{Erased, HandlerEntry, HandlerTable},
    typed::Typed,
};
pub use crate::boxed::BoxFuture;
use crate::{
    error::HandlerError,
    extract::{FromBody, FromParts, Parts, Requirements},
    reply::IntoReply,
};

/// An async function that serves a route.
///
/// It is implemented for functions and closures of 0 to 8 arguments, all of them [`FromParts`] but the last, which may be
/// [`FromBody`], whose futures are `Send + 'static` and answer with something that is [`IntoReply`]. `T` stands for the argument types; it
/// keeps the implementations apart and never has to be written.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "a handler is an `async fn` of up to eight extractors (`SessionView`, `State<T>`, `Ctx`, ..), with at most one that reads \
            the body (`Json<T>`, `Body`), in the last place; it returns something that implements `IntoReply`, and its future is `Send`",
    note = "put `#[shaddock::debug_handler]` on the function to see which argument is wrong"
)]
pub trait Handler<T>: Send + Sync + 'static {
    /// The output of the handler.
    type Reply: IntoReply;
    /// The handler at work.
    type Future: Future<Output = Self::Reply> + Send + 'static;

    /// Extracts the arguments and makes the future.
    ///
    /// # Errors
    /// The first extractor's that refused; the request is answered with it.
    fn call(&self, parts: &Parts<'_>) -> Result<Self::Future, HandlerError>;

    /// What the arguments need of the app; looked at when it starts.
    fn requirements(needs: &mut Requirements);
}

macro_rules! handler_of {
    ([$($part:ident),*] $($last:ident)?) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_variables, clippy::unused_unit)]
        impl<F, Fut, R, M, $($part,)* $($last)?> Handler<(M, $($part,)* $($last)?)> for F
        where
            F: Fn($($part,)* $($last)?) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = R> + Send + 'static,
            R: IntoReply,
            $($part: FromParts,)*
            $($last: FromBody<M>,)?
        {
            type Reply = R;
            type Future = Fut;

            fn call(&self, parts: &Parts<'_>) -> Result<Fut, HandlerError> {
                $(let $part = $part::from_parts(parts)?;)*
                $(let $last = $last::from_body(parts, parts.body())?;)?
                Ok(self($($part,)* $($last)?))
            }

            fn requirements(needs: &mut Requirements) {
                $($part::requirements(needs);)*
                $($last::requirements(needs);)?
            }
        }
    };
}

#[diagnostic::do_not_recommend]
impl<F, Fut, R> Handler<((),)> for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'static,
    R: IntoReply,
{
    type Reply = R;
    type Future = Fut;

    fn call(&self, _parts: &Parts<'_>) -> Result<Fut, HandlerError> {
        Ok(self())
    }

    fn requirements(_needs: &mut Requirements) {}
}

handler_of!([] A);
handler_of!([A] B);
handler_of!([A, B] C);
handler_of!([A, B, C] D);
handler_of!([A, B, C, D] E);
handler_of!([A, B, C, D, E] G);
handler_of!([A, B, C, D, E, G] H);
handler_of!([A, B, C, D, E, G, H] I);
handler_of!([A, B, C, D, E, G, H, I] J);
