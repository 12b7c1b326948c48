use shaddock::prelude::*;

struct Rooms;

#[shaddock::debug_handler]
async fn generic<T: 'static>(_state: State<T>) {}

#[shaddock::debug_handler]
async fn reference(_session: &SessionView) {}

#[shaddock::debug_handler]
async fn many(_1: Ctx, _2: Ctx, _3: Ctx, _4: Ctx, _5: Ctx, _6: Ctx, _7: Ctx, _8: Ctx, _9: Ctx, _10: Ctx) {}

#[shaddock::debug_handler(yes)]
async fn arguments() {}

#[shaddock::debug_handler]
struct NoFunction;

fn main() {}
