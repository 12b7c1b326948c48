//! Handlers of every right shape.

use std::future::Future;

use shaddock::{extract::Caller, prelude::*};

#[shaddock::debug_handler]
async fn nothing() {}

#[shaddock::debug_handler]
async fn last_is_any(_app: Ctx, _session: Option<FrontendSession>) -> Option<Json<u8>> {
    None
}

#[shaddock::debug_handler]
async fn nine(
    _1: Ctx,
    _2: Ctx,
    _3: Ctx,
    _4: Ctx,
    _5: Ctx,
    _6: Channels,
    _7: RequestId,
    _8: RoutePath,
    Json(_): Json<u8>,
) -> Result<(), HandlerError> {
    Ok(())
}

#[shaddock::debug_handler]
async fn other_errors(
    mut session: SessionView,
    Body(body): Body,
) -> Result<Reply, std::num::ParseIntError> {
    session.set("bytes", body.len());
    "1".parse::<u8>()?;
    Ok(Reply::empty())
}

#[shaddock::debug_handler]
fn by_hand(Json(n): Json<u8>) -> impl Future<Output = String> + Send {
    async move { n.to_string() }
}

#[shaddock::debug_handler]
async fn remote(_caller: Caller, _state: State<String>) {}

/// An app with all of them.
pub(crate) fn app() -> App {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.nothing", nothing).concurrent();
    app.handle("h.last", last_is_any);
    app.handle("h.nine", nine);
    app.handle("h.errors", other_errors);
    app.handle("h.byHand", by_hand);
    app.handle("h.closure", async |Json(n): Json<u8>| Json(n));
    app.remote("r.remote", remote);
    app
}
