//! The smallest server: answers every request to `connector.entryHandler.echo` with its own body.
//!
//! `cargo run --example echo`, then connect a client of Pomelo or Pitaya to port 3010, over TCP or WebSocket.

use shaddock::prelude::*;

async fn echo(Json(body): Json<serde_json::Value>) -> Json<serde_json::Value> {
    Json(body)
}

fn main() -> Result<(), StartError> {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:3010");
    app.handle("entryHandler.echo", echo);
    Servers::new().add(app).run_blocking()
}
