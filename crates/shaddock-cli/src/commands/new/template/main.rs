//! A server: clients log in with their handshake, and say hello.

use serde::Deserialize;
use shaddock::{
    launch::{LaunchError, Launcher},
    prelude::*,
};

#[derive(Deserialize)]
struct Login {
    name: String,
}

/// Ask your account service here, with a token instead of a name.
async fn log_in(info: HandshakeInfo) -> Result<Accept, HandshakeReject> {
    let login: Login = info
        .user_as()
        .map_err(|_| HandshakeReject::new("no name"))?;
    let uid = Uid::new(login.name).map_err(|_| HandshakeReject::new("not a name"))?;
    Ok(Accept::new().bind(uid))
}

/// Clients call it as `connector.hello.say`.
async fn say(User(uid): User, Json(text): Json<String>) -> Json<String> {
    Json(format!("{uid} says {text}"))
}

/// The routes and hooks of the server, which its configuration does not change.
fn server(app: &mut App) {
    app.on_handshake(log_in).require_user();
    app.handle("hello.say", say);
}

fn main() -> Result<(), LaunchError> {
    let launcher = Launcher::from_args()?;
    let mut app = App::new("connector", "connector-1");
    launcher.configure_frontend(&mut app)?;
    server(&mut app);
    launcher.run(Servers::new().add(app))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shaddock::testing::TestServers;
    use shaddock_client::Client;

    #[tokio::test(start_paused = true)]
    async fn a_login_is_greeted() {
        let mut app = App::new("connector", "connector-1");
        app.listen("127.0.0.1:3010");
        server(&mut app);
        let servers = TestServers::start(Servers::new().add(app)).await.unwrap();
        assert!(servers.connect("connector-1").await.is_err(), "no name");
        let ann = Client::builder().user(json!({"name": "ann"}));
        let ann = servers.connect_with("connector-1", &ann).await.unwrap();
        let said: String = ann
            .request("connector.hello.say", &json!("hello"))
            .await
            .unwrap();
        assert_eq!(said, "ann says hello");
        servers.shutdown().await;
    }
}
