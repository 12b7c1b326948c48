//! A frontend whose clients come back through other ones, for tests with load.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use shaddock::{prelude::*, session::ResumeConfig, wire::CodecConfig};

/// For what must happen, also with thousands of clients on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The answer to the login.
pub(crate) const JOINED: u64 = 1_000_000;

/// What ran for each user, in order.
pub(crate) type Ran = Arc<Mutex<BTreeMap<String, Vec<u64>>>>;

/// Sessions that wait, and keep as much as comes, also if the machine is slow.
pub(crate) fn sessions() -> SessionConfig {
    SessionConfig::default().resume(
        ResumeConfig::default()
            .window(Duration::from_secs(600))
            .max_messages(10_000)
            .max_bytes(4 << 20),
    )
}

/// A frontend with users who join the topic `lobby` and count.
pub(crate) fn connector(id: &str, sessions: SessionConfig, ran: &Ran) -> App {
    let mut app = App::new("connector", id);
    app.listen("127.0.0.1:0");
    app.set(CodecConfig::default());
    app.set(AppConfig::default().rpc_timeout(Duration::from_secs(30)));
    app.set(sessions);
    app.route(
        "h.join",
        async |ctx: Ctx, mut session: SessionView, Json(name): Json<String>| {
            session.bind(Uid::new(name)?).await?;
            ctx.topic("lobby").join(&session).await.unwrap();
            Ok::<_, HandlerError>(Json(JOINED))
        },
    );
    let ran = Arc::clone(ran);
    app.route(
        "h.count",
        move |session: SessionView, Json(n): Json<u64>| {
            let ran = Arc::clone(&ran);
            async move {
                let uid = session.uid().unwrap().to_string();
                ran.lock().unwrap().entry(uid).or_default().push(n);
                if n % 3 == 0 {
                    // One that waits: it may run on while its client is away.
                    super::wait::breathe().await;
                }
                Json(n)
            }
        },
    );
    app
}
