use shaddock::prelude::*;

struct Point;

#[shaddock::debug_handler]
async fn handler() -> Point {
    Point
}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.m", handler);
}
