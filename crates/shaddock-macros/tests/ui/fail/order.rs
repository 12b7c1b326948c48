use shaddock::prelude::*;

#[shaddock::debug_handler]
async fn handler(Json(_body): Json<u8>, _session: SessionView) {}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.m", handler);
}
