//! A backend for `shaddock serve`: one hall, in which every message goes to all users. `deploy/` runs it; any number of instances may run.
//!
//! ```sh
//! shaddock serve &
//! cargo run -p shaddock --features admin,logs,nats --example hall
//! ```
//!
//! Clients of the frontend ask for `hall.hall.enter` with `{"name": ..}`, then send `hall.hall.say` with `{"text": ..}` and hear `onSay`. It wants
//! NATS on port 4222 and etcd on port 2379 of this machine, unless `$SHADDOCK_CONFIG` or the environment say otherwise.

use std::error::Error;

use serde::{Deserialize, Serialize};
use shaddock::{config::Sources, launch::Launcher, prelude::*};

#[derive(Deserialize)]
struct Enter {
    name: String,
}

#[derive(Serialize)]
struct Welcome {
    hall: String,
}

#[derive(Deserialize)]
struct Say {
    text: String,
}

#[derive(Serialize)]
struct Said<'a> {
    from: &'a str,
    text: &'a str,
}

/// The session is on a frontend, and so is what is bound there.
async fn enter(
    Ctx(app): Ctx,
    mut session: SessionView,
    Json(enter): Json<Enter>,
) -> Result<Json<Welcome>, HandlerError> {
    session.bind(Uid::new(enter.name)?).await?;
    Ok(Json(Welcome {
        hall: app.id().to_owned(),
    }))
}

/// To all users on all frontends of type `connector`.
async fn say(
    session: SessionView,
    channels: Channels,
    Json(say): Json<Say>,
) -> Result<(), HandlerError> {
    let Some(from) = session.uid() else {
        return Err(HandlerError::bad_request("enter first"));
    };
    let said = Said {
        from: from.as_str(),
        text: &say.text,
    };
    channels
        .broadcast("connector", "onSay", &said, BroadcastOptions::bound())
        .await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let sources = Sources::of_process(None, Vec::new()).preset("cluster.mode=nats");
    let launcher = Launcher::new(sources)?;
    // Unique in the cluster. In containers the host name is.
    let id = match launcher.config().server.id.as_str() {
        "" => std::env::var("HOSTNAME").unwrap_or_else(|_| format!("hall-{}", std::process::id())),
        id => id.to_owned(),
    };
    let mut app = App::new("hall", &id);
    launcher.configure(&mut app);
    app.handle("hall.enter", enter);
    app.handle("hall.say", say);
    launcher.run(Servers::new().add(app))?;
    Ok(())
}
