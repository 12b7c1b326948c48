//! Answers to handshakes: as long as a package can be, and what becomes of those that are longer.

use serde_json::{Value, json};
use shaddock::{app::DictionaryConfig, prelude::*, wire::CodecConfig};
use shaddock_client::{Client, ConnectError};

use crate::support::{start, wait::PATIENCE};

fn connector(routes: impl IntoIterator<Item = String>) -> App {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    // Megabytes take their time where the machine is slow.
    let mut codec = CodecConfig::default();
    codec.limits.handshake_timeout = PATIENCE;
    app.set(codec);
    app.set(DictionaryConfig::default().routes(routes.into_iter().collect()));
    app.route("h.echo", async |Json(body): Json<Value>| Json(body));
    app
}

/// Both transports of the first listener.
fn addresses(running: &Running) -> [String; 2] {
    let address = running.address("connector-1").unwrap();
    [format!("tcp://{address}"), format!("ws://{address}")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_reach_the_client() {
    let routes = (0..1320).map(|n| format!("room.roomHandler.somethingThatIsPushedOften{n:04}"));
    let mut app = connector(routes);
    app.on_handshake(async |info: HandshakeInfo| {
        let length: usize = info.user_as().unwrap_or_default();
        Ok::<_, HandshakeReject>(Some(json!("x".repeat(length))))
    });
    let running = start([app]).await;
    for address in addresses(&running) {
        for length in [1, 66_000, 4 << 20] {
            let client = Client::builder()
                .user(json!(length))
                .max_package_size(16 << 20)
                .connect_timeout(PATIENCE)
                .connect(&address)
                .await
                .unwrap();
            let user = client.handshake_user().and_then(Value::as_str);
            assert_eq!(user.map(str::len), Some(length), "{address}");
            // Sooner than anything would wake a connection that is not read any more.
            let one = json!(1);
            let echo = client.request::<_, Value>("connector.h.echo", &one);
            let echo = tokio::time::timeout(PATIENCE, echo).await;
            assert_eq!(echo.expect("an answer in time").unwrap(), one);
        }
    }
    running.shutdown().await;
}

/// The hook's data does not fit into a package: that client is refused, and told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_grants_too_much_rejects_its_client() {
    let mut app = connector([]);
    app.on_handshake(async |info: HandshakeInfo| {
        let length: usize = info.user_as().unwrap_or_default();
        Ok::<_, HandshakeReject>(Some(json!("x".repeat(length))))
    });
    let running = start([app]).await;
    for address in addresses(&running) {
        let with = |length: usize| {
            let builder = Client::builder().user(json!(length));
            builder.connect_timeout(PATIENCE)
        };
        let refused = with(17 << 20).connect(&address).await;
        assert!(
            matches!(refused, Err(ConnectError::Refused { code: 500, .. })),
            "{refused:?}"
        );
        assert!(with(10).connect(&address).await.is_ok(), "others come in");
    }
    running.shutdown().await;
}

/// Routes alone that do not fit are found at the start, with what to do.
#[tokio::test]
async fn routes_that_fit_no_package_are_an_error_at_start() {
    let long = "x".repeat(200);
    let routes = (0..40_000).map(|n| format!("{long}{n}"));
    let Err(error) = Servers::new().add(connector(routes)).start().await else {
        panic!("it started")
    };
    assert!(
        matches!(error, StartError::HandshakeAnswer { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("`connector-1`") && text.contains("DictionaryConfig"),
        "{text}"
    );
}
