//! The whole way, over real sockets on free ports: TCP and WebSocket, both dialects, handshake hooks, order, kick, drain.

use std::time::Duration;

use serde_json::{Value, json};
use shaddock::{app::DictionaryConfig, prelude::*, wire::CodecConfig};
use shaddock_client::{Client, CloseKind, RequestError};

use crate::support::{eventually, start};

async fn enter(
    mut session: SessionView,
    Json(name): Json<String>,
) -> Result<Json<Value>, HandlerError> {
    session.bind(Uid::new(name)?).await?;
    Ok(Json(json!({"sid": session.id()})))
}

fn connector() -> App {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    app.set(CodecConfig::default().heartbeat(Duration::from_secs(3)));
    app.set(DictionaryConfig::default().routes(vec!["onChat".to_owned()]));
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    app.route("h.enter", enter);
    app.route("h.panic", async || -> () {
        panic!("expected in this test")
    });
    app.route(
        "h.say",
        async |channels: Channels, Json(text): Json<String>| {
            let options = BroadcastOptions::bound();
            let sent = channels
                .broadcast("connector", "onChat", &text, options)
                .await?;
            Ok::<_, HandlerError>(Json(sent.queued))
        },
    );
    app.route("h.leave", async |session: SessionView| {
        session.kick("bye").await.map_err(HandlerError::from)
    });
    app
}

fn chat() -> App {
    let mut app = App::new("chat", "chat-1");
    app.route("h.who", async |session: SessionView| {
        Json(session.uid().map(ToString::to_string))
    });
    app
}

fn addresses(running: &Running) -> [String; 2] {
    let address = running.address("connector-1").unwrap();
    [format!("tcp://{address}"), format!("ws://{address}")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_transports_and_dialects_are_served() {
    let running = start([connector(), chat()]).await;
    for address in addresses(&running) {
        for dialect in [
            shaddock_client::Dialect::Pomelo,
            shaddock_client::Dialect::Pitaya,
        ] {
            let client = Client::builder()
                .dialect(dialect)
                .connect(&address)
                .await
                .unwrap();
            let body = json!({"text": "grüße 中文 😀", "n": [1.5, -1]});
            let echoed: Value = client.request("connector.h.echo", &body).await.unwrap();
            assert_eq!(echoed, body);
            let who = format!("{dialect:?}-{}", &address[..3]);
            let mut said = client.subscribe("onChat");
            let _: Value = client.request("connector.h.enter", &who).await.unwrap();
            let forwarded: String = client.request("chat.h.who", &json!({})).await.unwrap();
            assert_eq!(forwarded, who);
            let reached: usize = client.request("connector.h.say", &"hello").await.unwrap();
            assert_eq!(reached, 1);
            assert_eq!(
                said.recv().await.unwrap().json::<String>().unwrap(),
                "hello"
            );
            for route in ["connector.h.panic", "connector.h.unknown", "nowhere.h.m"] {
                let error = client
                    .request::<_, Value>(route, &json!({}))
                    .await
                    .unwrap_err();
                assert!(matches!(error, RequestError::Server(_)), "{route}: {error}");
            }
            client
                .notify("connector.h.leave", &json!({}))
                .await
                .unwrap();
            let kind = client.closed().await;
            assert!(matches!(&kind, CloseKind::Kicked { .. }), "{kind:?}");
        }
    }
    let service = running.apps()[0].session_service().unwrap().clone();
    eventually("nobody is left", || service.session_count() == 0).await;
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handshake_hook_answers_or_refuses() {
    let mut app = connector();
    app.check_client(|_, version| version != Some("0.0.0"));
    app.on_handshake(
        async |info: HandshakeInfo| match info.user()["token"].as_str() {
            Some("good") => Ok(Some(json!({"welcome": info.address().ip().to_string()}))),
            Some("panics") => panic!("expected in this test"),
            _ => Err(HandshakeReject::new("no token")),
        },
    );
    let running = start([app]).await;
    for address in addresses(&running) {
        let with = |token: &str| Client::builder().user(json!({"token": token}));
        let client = with("good").connect(&address).await.unwrap();
        assert_eq!(
            client.handshake_user(),
            Some(&json!({"welcome": "127.0.0.1"}))
        );
        for refused in [
            with("bad"),
            with("panics"),
            with("good").client("rust", "0.0.0"),
        ] {
            assert!(refused.connect(&address).await.is_err());
        }
    }
    running.shutdown().await;
}
