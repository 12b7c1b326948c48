use shaddock::prelude::*;

struct Point;

#[shaddock::debug_handler]
async fn handler() -> Point {
    Point
}

#[shaddock::debug_handler]
async fn with_error() -> Result<Json<u8>, String> {
    Ok(Json(1))
}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.route("h.m", handler);
}
