//! The server of the row "push" of `bench/http/run`: a topic whose members hear what a handler, or the server API, pushes to it.
//!
//! `hall_push [--set SECTION.KEY=VALUE]..`: the flags of every server, such as `listen.address` and `admin.address`.
//!
//! | route | what it does |
//! | --- | --- |
//! | `bench.hall.enter` | binds the session to `uid` and adds the user to the topic `hall` |
//! | `bench.hall.say` | pushes the body to the topic on `onSay`, then answers |

use std::error::Error;

use serde::{Deserialize, Serialize};
use shaddock::{launch::Launcher, prelude::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HALL: &str = "hall";

#[derive(Deserialize)]
struct Login {
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct Said {
    text: String,
}

async fn enter(
    Ctx(app): Ctx,
    mut session: SessionView,
    Json(login): Json<Login>,
) -> Result<(), HandlerError> {
    session.bind(Uid::new(login.uid)?).await?;
    app.topic(HALL).join(&session).await?;
    Ok(())
}

async fn say(Ctx(app): Ctx, Json(said): Json<Said>) -> Result<(), HandlerError> {
    app.topic(HALL).push("onSay", &said).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let launcher = Launcher::from_args()?;
    let mut app = App::new("bench", "bench-1");
    launcher.configure_frontend(&mut app)?;
    app.handle("hall.enter", enter);
    app.handle("hall.say", say);
    launcher.run(Servers::new().add(app))?;
    Ok(())
}
