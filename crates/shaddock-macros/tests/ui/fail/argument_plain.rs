// Without the macro: the error is at the registration, and says what a handler is.
use shaddock::prelude::*;

async fn handler(_name: String) {}

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.handle("h.m", handler);
}
