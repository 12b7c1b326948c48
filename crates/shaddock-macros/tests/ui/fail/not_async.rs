use shaddock::prelude::*;

#[shaddock::debug_handler]
fn handler(Json(body): Json<u8>) -> Json<u8> {
    Json(body)
}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.m", handler);
}
