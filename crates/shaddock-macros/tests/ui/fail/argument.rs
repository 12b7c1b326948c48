use shaddock::prelude::*;

#[shaddock::debug_handler]
async fn handler(_name: String, Json(_body): Json<u8>) {}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.m", handler);
}
