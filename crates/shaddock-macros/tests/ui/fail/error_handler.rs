use shaddock::prelude::*;

fn main() {
    let mut app = App::new("chat", "chat-1");
    app.error_handler(|error: HandlerError| Err::<Reply, _>(error));
}
