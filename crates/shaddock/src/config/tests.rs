#![cfg(all(feature = "admin", feature = "logs"))]

use std::{io::Write as _, time::Duration};

use super::*;

/// A file that is deleted with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!(
            "shaddock-config-{}-{name}.toml",
            std::process::id()
        ));
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        Self(path)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&Sources::default().file(&self.0))
    }

    /// The messages, with the file's name cut to `FILE`.
    fn problems(&self) -> Vec<String> {
        let error = self.load().unwrap_err();
        let name = self.0.display().to_string();
        error
            .problems()
            .iter()
            .map(|problem| problem.to_string().replace(&name, "FILE"))
            .collect()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Names of the fields that two configurations have in common, by the text of `Debug`.
fn same_fields(one: &impl std::fmt::Debug, other: &impl std::fmt::Debug) -> Vec<String> {
    fn fields(value: &impl std::fmt::Debug) -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        for line in format!("{value:#?}").lines() {
            match (line.strip_prefix("    "), fields.last_mut()) {
                (Some(field), _) if !field.starts_with([' ', '}', ']', ')']) => {
                    fields.push(field.to_owned());
                }
                (Some(rest), Some(field)) => field.push_str(rest),
                _ => {}
            }
        }
        fields
    }
    let (one, other) = (fields(one), fields(other));
    assert!(one.len() > 2 && one.len() == other.len());
    let same = one.iter().zip(&other).filter(|(one, other)| one == other);
    same.map(|(field, _)| field.split(':').next().unwrap_or_default().to_owned())
        .collect()
}

/// A field of the layers below that no key sets would have its default here.
#[test]
fn every_field_of_the_layers_below_is_set_by_a_key() {
    let file = File::new(
        "every-field",
        r#"
        [session]
        single_session = true
        outbox_bytes = "8 KiB"
        max_listeners = 7
        max_settings = 7
        max_memberships = 7
        [session.resume]
        window = "7s"
        ack = 7
        max_messages = 7
        max_bytes = "7 KiB"
        max_total_bytes = "7 MiB"
        max_suspended = 7
        on_full = "wait"
        max_wait = "7s"
        [protocol]
        dialect = "pomelo"
        max_package_size = "70 KiB"
        max_handshake_size = "7 KiB"
        max_inflated_size = "7 KiB"
        handshake_timeout = "7s"
        idle_timeout = "7s"
        heartbeat = "7s"
        heartbeat_timeout = "30s"
        crypto = "sha2"
        unsigned_pitaya = true
        pomelo_errors = "text"
        browser_clients = ["x"]
        pitaya_serializer = "protobuf"
        compress_pitaya = true
        [listen]
        backlog = 7
        nodelay = false
        proxy_protocol = true
        origins = ["https://a.example"]
        address_header = "x-real-ip"
        subprotocols = ["x"]
        messages_per_second = 7
        burst = 7
        pings_per_second = 7
        waiting_messages = 7
        waiting_bytes = "7 KiB"
        slow_after = "7s"
        linger = "7s"
        [access]
        allow = ["10.0.0.0/8"]
        deny = ["10.1.0.0/16"]
        trusted_proxies = ["10.2.0.1/32"]
        max_connections = 7
        max_connections_per_address = 7
        "#,
    );
    let config = file.load().unwrap();
    let (session, default) = (
        config.session_config(),
        shaddock_core::SessionConfig::default(),
    );
    let none: [&str; 0] = [];
    assert_eq!(same_fields(&session, &default), none);
    assert_eq!(same_fields(&session.resume, &default.resume), none);
    assert_eq!(
        same_fields(&config.limits(), &shaddock_protocol::Limits::default()),
        none
    );
    // Set by the application, not in the file.
    assert_eq!(
        same_fields(
            &config.codec_config(),
            &shaddock_protocol::CodecConfig::default()
        ),
        ["dictionary", "protos"]
    );
    let ours = config.listen_config(([127, 0, 0, 1], 1).into());
    let default = shaddock_net::ListenConfig::new(([127, 0, 0, 1], 1).into());
    // The address is an argument, and TLS has files.
    assert_eq!(same_fields(&ours, &default), ["address", "tls"]);
    assert_eq!(same_fields(&ours.access, &default.access), none);
    assert_eq!(same_fields(&ours.limits, &default.limits), none);
    assert_eq!(same_fields(&ours.upgrade, &default.upgrade), none);
}

#[test]
fn defaults_are_those_of_the_layers_below() {
    let config = Config::default();
    assert_eq!(
        config.session_config(),
        shaddock_core::SessionConfig::default()
    );
    assert_eq!(config.limits(), shaddock_protocol::Limits::default());
    assert_eq!(config.app_config(), crate::app::AppConfig::default());
    #[cfg(feature = "nats")]
    assert_eq!(
        format!("{:?}", config.nats_config()),
        format!("{:?}", shaddock_cluster::NatsConfig::default())
    );
    let ours = config.listen_config(([127, 0, 0, 1], 1).into());
    let theirs = shaddock_net::ListenConfig::new(([127, 0, 0, 1], 1).into());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    let codec = shaddock_protocol::CodecConfig::default();
    assert_eq!(format!("{:?}", config.codec_config()), format!("{codec:?}"));
}

/// A program without the admin server and without logs says so, instead of ignoring what is configured.
#[test]
fn keys_of_a_part_that_was_not_built_are_mistakes() {
    use super::check::{Built, Found};

    let problems = |built: Built, flags: &[&str]| {
        let sources = flags
            .iter()
            .fold(Sources::default(), |all, flag| all.flag(*flag));
        let (config, mut problems) = (Config::load(&sources).unwrap(), Vec::new());
        config.check_features(
            &built,
            &mut Found {
                config: &config,
                problems: &mut problems,
            },
        );
        let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
        texts.join("\n")
    };
    let built = |admin, logs| Built { admin, logs };
    let all = ["admin.address=127.0.0.1:4000", "log.filter=debug"];
    assert_eq!(problems(built(true, true), &all), "");
    let text = problems(built(false, true), &all);
    assert!(text.contains("`admin.address`: this program was built without the feature `admin`"));
    assert!(!text.contains("log.filter"), "{text}");
    let text = problems(built(true, false), &all);
    assert!(text.contains("`log.filter`: this program was built without the feature `logs`"));
    assert!(!text.contains("admin.address"), "{text}");
    // Defaults, and a configuration that turns the server off, are right for every program.
    assert_eq!(problems(built(false, false), &[]), "");
    assert_eq!(problems(built(false, false), &["admin.address="]), "");
}

#[test]
fn the_environment_weighs_more_than_the_file_and_flags_more_than_both() {
    let file = File::new(
        "weight",
        "[session]\nmax_listeners = 1\nmax_settings = 1\noutbox_bytes = \"8 KiB\"\n",
    );
    let sources = Sources::default()
        .flag("session.max_settings=3")
        .preset("session.outbox_bytes=1 MiB")
        .preset("drain.deadline=99s")
        .variable("SHADDOCK_SESSION__MAX_SETTINGS", "2")
        .variable("SHADDOCK_SESSION__MAX_LISTENERS", "2")
        .file(&file.0);
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.session.outbox_bytes, Size(8192));
    assert_eq!(config.session.max_listeners, 2);
    assert_eq!(config.session.max_settings, 3);
    assert_eq!(
        *config.origin("session.outbox_bytes"),
        Origin::File {
            path: file.0.clone(),
            line: 4
        }
    );
    assert_eq!(
        config.origin("session.max_listeners").to_string(),
        "environment SHADDOCK_SESSION__MAX_LISTENERS"
    );
    assert_eq!(config.drain.deadline, Time::secs(99));
    assert_eq!(*config.origin("drain.deadline"), Origin::Preset);
    assert_eq!(*config.origin("session.max_settings"), Origin::Flag);
    assert_eq!(*config.origin("session.single_session"), Origin::Default);
}

#[test]
fn every_mistake_is_named_with_key_and_line() {
    let file = File::new(
        "mistakes",
        "# a comment\n[session]\nsingel_session = true\noutbox_bytes = \"12 parsecs\"\n\n[access]\ndeny = [\"10.0.0.0/33\"]\n\
         [protocol]\nheartbeat = \"1500ms\"\nmax_package_size = 1\nidle_timeout = true\n[sesion]\nsingle_session = true\n",
    );
    let problems = file.problems();
    let expected = [
        (
            "FILE:3: `session.singel_session`: unknown key; did you mean `session.single_session`?",
            true,
        ),
        (
            "FILE:4: `session.outbox_bytes`: \"12 parsecs\" is not a size",
            false,
        ),
        (
            "FILE:7: `access.deny`: \"10.0.0.0/33\" is not a network",
            false,
        ),
        (
            "FILE:9: `protocol.heartbeat`: 1s500ms is not a number of whole seconds",
            false,
        ),
        (
            "FILE:10: `protocol.max_package_size`: 1 is outside of the range 1 KiB to",
            false,
        ),
        (
            "FILE:11: `protocol.idle_timeout`: expected a time span, found a TOML boolean",
            true,
        ),
        (
            "FILE:13: `sesion.single_session`: unknown key; did you mean `session.single_session`?",
            true,
        ),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for ((text, whole), problem) in expected.into_iter().zip(&problems) {
        assert!(
            if whole {
                problem == text
            } else {
                problem.starts_with(text)
            },
            "{text}\n{problems:#?}"
        );
    }
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    let problems = File::new("syntax", "[session]\nsingle_session = = true\n").problems();
    assert!(problems[0].starts_with("FILE:2: "), "{problems:#?}");
    let problems = File::new(
        "twice",
        "[session]\nsingle_session = true\nsingle_session = true\n",
    )
    .problems();
    assert!(problems[0].starts_with("FILE:3: "), "{problems:#?}");
    let problems = File::new("nosection", "session = 3\n").problems();
    assert_eq!(
        problems,
        ["FILE:1: `session`: this is a section; write `[session]` and the keys below it"]
    );
}

#[test]
fn variables_and_flags_are_named_too() {
    let load = |sources: Sources| Config::load(&sources).unwrap_err().to_string();
    let text = load(Sources::default().variable("SHADDOCK_SESSION__SINGLE_SESSION", "perhaps"));
    assert!(
        text.starts_with(
            "environment SHADDOCK_SESSION__SINGLE_SESSION: `session.single_session`: "
        ),
        "{text}"
    );
    assert!(text.contains("true or false"), "{text}");
    let text = load(Sources::default().variable("SHADDOCK_SESION__SINGLE_SESSION", "true"));
    assert!(
        text.contains("did you mean `session.single_session`?"),
        "{text}"
    );
    let text = load(Sources::default().flag("log.filtre=debug"));
    assert!(
        text.starts_with("--set: `log.filtre`: unknown key; did you mean `log.filter`?"),
        "{text}"
    );
    assert!(load(Sources::default().flag("nonsense")).contains("section.key=value"));
    let text = Config::load(&Sources::default().file("/nowhere/at/all.toml"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("/nowhere/at/all.toml"), "{text}");
}

#[test]
fn variables_of_kubernetes_are_not_ours() {
    let sources = Sources::default()
        .variable("SHADDOCK_PORT", "tcp://10.0.0.1:3010")
        .variable("SHADDOCK_SERVICE_HOST", "10.0.0.1")
        .variable("SHADDOCK_CONFIG", "ignored here");
    assert!(Config::load(&sources).is_ok());
}

#[test]
fn values_without_quotes_find_their_type() {
    let sources = Sources::default()
        .flag("admin.token=1234567890123456")
        .flag("access.deny=10.7.0.0/16, ::1")
        .flag("access.allow=[\"10.0.0.0/8\"]")
        .flag("protocol.heartbeat=3s")
        .flag("drain.deadline=45")
        .flag("listen.address=")
        .flag("log.format=json");
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.admin.token.expose(), "1234567890123456");
    assert_eq!(config.access_policy().deny.len(), 2);
    assert_eq!(config.access_policy().allow.len(), 1);
    assert_eq!(
        config.codec_config().heartbeat,
        Some(Duration::from_secs(3))
    );
    assert_eq!(config.drain.deadline, Time::secs(45));
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.listeners().unwrap().is_empty());
}

#[test]
fn values_that_do_not_go_together() {
    let problem = |flags: &[&str]| {
        let sources = flags
            .iter()
            .fold(Sources::default(), |sources, flag| sources.flag(*flag));
        Config::load(&sources).unwrap_err().to_string()
    };
    assert!(problem(&["admin.address=0.0.0.0:3005"]).contains("set `admin.token`"));
    assert!(problem(&["admin.address=[::ffff:10.0.0.1]:3005"]).contains("set `admin.token`"));
    assert!(problem(&["tls.address=0.0.0.0:3443"]).contains("tls.certificate"));
    assert!(problem(&["listen.proxy_protocol=true"]).contains("access.trusted_proxies"));
    assert!(problem(&["listen.address_header=x-real-ip"]).contains("access.trusted_proxies"));
    assert!(
        problem(&["protocol.crypto=sha2", "protocol.dialect=pitaya"]).contains("unsigned_pitaya")
    );
    assert!(problem(&["drain.deadline=2s"]).contains("drain.spread"));
    // Two rounds of waves: before and after `drain.linger`.
    let twice = ["drain.spread=20s", "drain.deadline=30s", "drain.linger=30m"];
    assert!(problem(&twice).contains("twice"));
    assert!(Config::load(&Sources::default().flag("admin.address=[::1]:3005")).is_ok());
}

/// The output of `config --check` for these flags.
fn mistakes(flags: &str) -> String {
    let sources = flags.split('|').fold(Sources::default(), Sources::flag);
    Config::load(&sources)
        .and_then(|config| config.check_start())
        .err()
        .map_or_else(String::new, |error| error.to_string())
}

#[test]
fn certificate_and_key_are_looked_at() {
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (pair(), pair());
    let certificate = File::new("certificate", &one.cert.pem());
    let key = File::new("key", &one.signing_key.serialize_pem());
    let wrong = File::new("wrong-key", &other.signing_key.serialize_pem());
    let empty = File::new("empty", "nothing");
    for (certificate, key, told) in [
        (&certificate, &key, ""),
        (&certificate, &wrong, "tls.certificate"),
        (&empty, &key, "tls.certificate"),
        (&certificate, &empty, "`tls.key`"),
    ] {
        let said = mistakes(&format!(
            "tls.address=127.0.0.1:3443|tls.certificate={}|tls.key={}",
            certificate.0.display(),
            key.0.display()
        ));
        assert!(
            said.contains(told) && said.is_empty() == told.is_empty(),
            "{told}: {said}"
        );
    }
}

#[test]
fn what_can_never_work_is_refused_with_what_to_write() {
    for (flags, told) in [
        ("listen.address_header=Forwarded", "x-forwarded-for"),
        ("listen.address_header=x forwarded", "x-forwarded-for"),
        ("listen.subprotocols=pomelo, a b", "\"a b\" is not a valid"),
        ("access.deny=10.0.0.5/8", "write \"10.0.0.0/8\""),
        ("access.deny=localhost", "is not a network"),
        (
            "access.allow=10.1.0.0/16|access.deny=10.0.0.0/8",
            "no client could connect",
        ),
        ("listen.origins=*", "`origins = []`"),
        ("listen.origins=https://*.example.com", "write every origin"),
        (
            "listen.origins=play.example.com",
            "write it with its scheme, \"https://play.example.com\"",
        ),
        (
            "listen.origins=https://play.example.com/",
            "write \"https://play.example.com\"",
        ),
        ("listen.origins=https://a.b/chat?x", "write \"https://a.b\""),
        ("listen.origins=https://a.b:443", "write \"https://a.b\""),
        ("listen.origins=http://a.b:80", "write \"http://a.b\""),
        (
            "listen.origins=wss://a.b:8443",
            "write \"https://a.b:8443\"",
        ),
        ("listen.origins=https://", "is not an origin"),
        ("listen.origins=https://m\u{fc}nchen.example", "\"xn--..\""),
        (
            "protocol.heartbeat=30s|protocol.heartbeat_timeout=10s",
            "write \"1m\", or \"0s\"",
        ),
        (
            "protocol.heartbeat=30s|protocol.heartbeat_timeout=30s",
            "not longer than",
        ),
        (
            "protocol.heartbeat_timeout=20s",
            "interval of Pitaya clients, 30s",
        ),
        (
            "protocol.dialect=pomelo|protocol.heartbeat_timeout=60s",
            "write `heartbeat = \"30s\"`",
        ),
        (
            "cluster.mode=nats|cluster.shutdown_delay=40s",
            "write a shorter time",
        ),
        (
            "listen.address=127.0.0.1:4000|admin.address=127.0.0.1:4000",
            "used by `listen.address`",
        ),
        (
            "listen.address=0.0.0.0:4000|admin.address=127.0.0.1:4000",
            "write another port",
        ),
        (
            "listen.address=[::]:4000|admin.address=127.0.0.1:4000",
            "write another port",
        ),
        (
            "tls.address=0.0.0.0:3010|tls.certificate=a|tls.key=b",
            "used by `listen.address`",
        ),
        (
            "tls.address=0.0.0.0:3443|tls.certificate=/nowhere/c.pem|tls.key=/nowhere/k.pem",
            "/nowhere/c.pem",
        ),
        (
            "cluster.mode=nats|cluster.nats_credentials=/nowhere/creds",
            "cannot be read",
        ),
    ] {
        let told_so = mistakes(flags);
        assert!(told_so.contains(told), "{flags}: {told_so}");
    }
    for fine in [
        "listen.origins=https://play.example.com, http://localhost:3001, capacitor://localhost, null",
        "protocol.heartbeat=30s|protocol.heartbeat_timeout=31s",
        "protocol.heartbeat_timeout=60s",
        "listen.address=127.0.0.1:0|admin.address=127.0.0.1:0",
        "listen.address=127.0.0.1:4000|admin.address=127.0.0.2:4000|admin.token=1234567890123456",
        "access.allow=10.0.0.0/8|access.deny=10.1.0.0/16",
    ] {
        assert_eq!(mistakes(fine), "", "{fine}");
    }
    let sources = Sources::default()
        .flag("listen.subprotocols=pomelo, v2.binary")
        .flag("access.deny=::ffff:127.0.0.2, ::ffff:10.0.0.0/104");
    let config = Config::load(&sources).unwrap();
    let policy = config.access_policy();
    for denied in ["127.0.0.2", "10.1.2.3"] {
        assert!(policy.check(denied.parse().unwrap()).is_err(), "{denied}");
    }
    assert_eq!(
        config.upgrade_policy().subprotocols,
        ["pomelo", "v2.binary"]
    );
}

#[test]
fn the_application_has_a_section() {
    #[derive(serde::Deserialize)]
    struct Mine {
        rooms: Rooms,
    }
    #[derive(serde::Deserialize)]
    struct Rooms {
        most: u32,
        name: String,
    }
    let file = File::new("app", "[app.rooms]\nmost = 3\nname = \"lobby\"\n");
    let sources = Sources::default()
        .file(&file.0)
        .variable("SHADDOCK_APP__ROOMS__MOST", "9");
    let mine: Mine = Config::load(&sources).unwrap().app().unwrap();
    assert_eq!((mine.rooms.most, mine.rooms.name.as_str()), (9, "lobby"));
    assert!(file.load().unwrap().app::<Vec<u8>>().is_err());
}

#[derive(serde::Deserialize, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Pace {
    Fast,
    Slow,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct Fields {
    name: String,
    count: u32,
    rate: f64,
    on: bool,
    maybe: Option<String>,
    absent: Option<u8>,
    mode: Pace,
    list: Vec<String>,
    numbers: Vec<u16>,
    path: PathBuf,
    time: Time,
    size: Size,
    inner: Within,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct Within {
    id: String,
    port: u16,
}

/// Every kind of field, as text, in the file, and with an invalid value.
#[test]
fn fields_of_the_application_define_the_type_of_text() {
    let expected = Fields {
        name: "007".to_owned(),
        count: 7,
        rate: 1.5,
        on: true,
        maybe: Some("12".to_owned()),
        absent: None,
        mode: Pace::Slow,
        list: vec!["1".to_owned(), "b".to_owned()],
        numbers: vec![1, 2],
        path: "0".into(),
        time: Time::secs(90),
        size: Size::kib(64),
        inner: Within {
            id: "1e3".to_owned(),
            port: 80,
        },
    };
    let texts = [
        ("NAME", "007"),
        ("COUNT", "7"),
        ("RATE", "1.5"),
        ("ON", "true"),
        ("MAYBE", "12"),
        ("MODE", "slow"),
        ("LIST", "1, b"),
        ("NUMBERS", "1,2"),
        ("PATH", "0"),
        ("TIME", "1m30s"),
        ("SIZE", "64 KiB"),
        ("INNER__ID", "1e3"),
        ("INNER__PORT", "80"),
    ];
    let from = |texts: &[(&str, &str)]| {
        let sources = texts
            .iter()
            .fold(Sources::default(), |sources, (key, text)| {
                sources.variable(format!("SHADDOCK_APP__{key}"), *text)
            });
        Config::load(&sources).unwrap().app::<Fields>()
    };
    assert_eq!(from(&texts).unwrap(), expected);
    let file = File::new(
        "fields",
        "[app]\nname = \"007\"\ncount = 7\nrate = 1.5\non = true\nmaybe = \"12\"\nmode = \"slow\"\nlist = [\"1\", \"b\"]\n\
         numbers = [1, 2]\npath = \"0\"\ntime = 90\nsize = \"64 KiB\"\n[app.inner]\nid = \"1e3\"\nport = 80\n",
    );
    assert_eq!(file.load().unwrap().app::<Fields>().unwrap(), expected);
    // A flag over a table of the file.
    let sources = Sources::default()
        .file(&file.0)
        .flag("app.inner.port=81")
        .flag("app.name=8");
    let mine: Fields = Config::load(&sources).unwrap().app().unwrap();
    assert_eq!((mine.inner.port, &*mine.name), (81, "8"));
    for (key, text, field, says) in [
        ("COUNT", "many", "app.count", "u32"),
        ("COUNT", "-1", "app.count", "-1"),
        ("ON", "yes", "app.on", "boolean"),
        ("MODE", "medium", "app.mode", "`fast` or `slow`"),
        ("NUMBERS", "1,x", "app.numbers[1]", "u16"),
        ("INNER__PORT", "99999", "app.inner.port", "99999"),
        ("TIME", "soon", "app.time", "soon"),
        ("INNER", "x", "app.inner", "struct Within"),
    ] {
        let mut texts: Vec<_> = texts.to_vec();
        texts.retain(|(other, _)| *other != key && !(key == "INNER" && other.starts_with(key)));
        texts.push((key, text));
        let error = from(&texts).unwrap_err();
        let [problem] = error.problems() else {
            panic!("{error}")
        };
        assert_eq!(problem.key, field, "{error}");
        assert!(problem.message.contains(says), "{error}");
        let variable = format!("SHADDOCK_APP__{key}");
        assert_eq!(problem.origin, Origin::Environment { variable }, "{error}");
    }
    let missing = from(&texts[1..]).unwrap_err().to_string();
    assert!(missing.contains("`app`: missing field `name`"), "{missing}");
    let file = File::new("field", "[app]\nname = \"x\"\ncount = \"7\"\n");
    let wrong = file
        .load()
        .unwrap()
        .app::<Fields>()
        .unwrap_err()
        .to_string();
    assert!(wrong.contains(":3: `app.count`: "), "{wrong}");
}

#[test]
fn changes_of_the_application_are_named_and_not_shown() {
    let load = |flags: &[&str]| {
        let sources = flags
            .iter()
            .fold(Sources::default(), |sources, flag| sources.flag(*flag));
        Config::load(&sources).unwrap()
    };
    let older = load(&["app.a=1", "app.b.c=secret", "app.d=1"]);
    let newer = load(&["app.a=1", "app.b.c=other", "app.e=1"]);
    let changes = older.changes(&newer);
    let keys: Vec<_> = changes.iter().map(|change| &*change.key).collect();
    assert_eq!(keys, ["app.b", "app.d", "app.e"]);
    assert!(!format!("{changes:?}").contains("secret"));
    assert!(older.changes(&older).is_empty());
}

#[test]
fn what_is_printed_can_be_read_again() {
    let sources = Sources::default()
        .flag("admin.token=secret-secret-secret")
        .flag("protocol.heartbeat=3s")
        .flag("access.deny=10.0.0.0/8");
    let config = Config::load(&sources).unwrap();
    let text = config.to_toml();
    assert!(!text.contains("secret-secret"), "secrets are not printed");
    let again = File::new("again", &text).load().unwrap();
    let changed: Vec<_> = config
        .changes(&again)
        .into_iter()
        .map(|change| change.key)
        .collect();
    assert_eq!(changed, ["admin.token"], "{text}");
}

#[test]
fn changes_that_need_a_restart_are_named() {
    let newer = Config::load(
        &Sources::default()
            .flag("access.max_connections=7")
            .flag("session.single_session=true"),
    )
    .unwrap();
    let changes = Config::default().changes(&newer);
    let short: Vec<_> = changes
        .iter()
        .map(|change| (change.key.as_str(), change.new.as_str(), change.live))
        .collect();
    assert_eq!(
        short,
        [
            ("session.single_session", "true", false),
            ("access.max_connections", "7", true)
        ]
    );
}

#[test]
fn every_key_is_documented() {
    for key in Config::keys() {
        assert!(!key.docs.is_empty(), "{}", key.path());
        assert!(key.variable().contains("__"), "{}", key.path());
    }
}

/// `docs/configuration.md` is the output of `shaddock config --reference`.
#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == Config::reference(),
        "docs/configuration.md is out of date: cargo run -- config --reference > docs/configuration.md"
    );
}

/// No output of a configuration contains a secret.
#[test]
fn secrets_are_in_no_text() {
    let secret = "s3cret-s3cret-s3cret";
    let mut sources = Sources::default();
    let keys: Vec<_> = Config::keys()
        .into_iter()
        .filter(|key| key.secret)
        .collect();
    assert!(keys.len() >= 5, "{keys:?}");
    for key in &keys {
        sources = sources.flag(format!("{}={secret}", key.path()));
    }
    for login in ["cluster.nats_user=u", "cluster.etcd_user=u"] {
        sources = sources.flag(login);
    }
    sources = sources.flag(format!(
        "cluster.nats_urls=nats://u:{secret}@a:1,nats://{secret}@b:2"
    ));
    // Several logins at once are refused.
    let error = Config::load(&sources).unwrap_err();
    assert!(!error.to_string().contains(secret) && !format!("{error:?}").contains(secret));
    for key in keys {
        let urls = format!("cluster.nats_urls=nats://u:{secret}@a:1,nats://{secret}@b:2");
        let mut sources = Sources::default()
            .flag(&urls)
            .flag(format!("{}={secret}", key.path()));
        if let Some(user) = key.path().strip_suffix("password") {
            sources = sources.flag(format!("{user}user=u"));
        }
        let config = Config::load(&sources).unwrap();
        let changed = Config::default().changes(&config);
        for text in [
            format!("{config:?}"),
            config.to_toml(),
            format!("{changed:?}"),
        ] {
            assert!(!text.contains(secret), "{}: {text}", key.path());
        }
        #[cfg(feature = "nats")]
        assert!(!format!("{:?}", config.nats_config()).contains(secret));
    }
}

#[test]
fn a_variable_with_an_underscore_too_few_is_not_passed_over() {
    for (variable, meant) in [
        ("SHADDOCK_LISTEN_ADDRESS", "SHADDOCK_LISTEN__ADDRESS"),
        (
            "SHADDOCK_SESSION_SINGLESESSION",
            "SHADDOCK_SESSION__SINGLE_SESSION",
        ),
    ] {
        let error = Config::load(&Sources::default().variable(variable, "x")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(variable) && text.contains(meant), "{text}");
    }
    // What Kubernetes sets for a service called `shaddock`, and our own.
    for variable in [
        "SHADDOCK_SERVICE_HOST",
        "SHADDOCK_PORT",
        "SHADDOCK_PORT_3010_TCP_ADDR",
        "SHADDOCK_CONFIG",
        "LISTEN_ADDRESS",
    ] {
        let sources = Sources::default().variable(variable, "x");
        assert!(Config::load(&sources).is_ok(), "{variable}");
    }
}

/// Which fields the application has is known only when it reads its section.
#[test]
fn a_variable_of_the_application_with_other_underscores_is_not_passed_over() {
    #[derive(serde::Deserialize, Default, Debug)]
    #[serde(default)]
    struct Settings {
        room_size: u32,
        port: u16,
        inner: Inner,
    }
    #[derive(serde::Deserialize, Default, Debug)]
    #[serde(default)]
    struct Inner {
        most: u32,
    }
    #[derive(serde::Deserialize, Default, Debug)]
    #[serde(default)]
    struct Between {
        inner_most: u32,
        inner: Inner,
    }
    let file = File::new("near", "[app]\nroom_size = 7\ninner.most = 1\n");
    let read = |variable: &str, value: &str| {
        let sources = Sources::default().file(&file.0).variable(variable, value);
        Config::load(&sources).unwrap().app::<Settings>()
    };
    for (variable, key, meant) in [
        (
            "SHADDOCK_APP_ROOM_SIZE",
            "app.room_size",
            "SHADDOCK_APP__ROOM_SIZE",
        ),
        (
            "SHADDOCK_APP_ROOMSIZE",
            "app.room_size",
            "SHADDOCK_APP__ROOM_SIZE",
        ),
        ("SHADDOCK_APP_PORT", "app.port", "SHADDOCK_APP__PORT"),
        (
            "SHADDOCK_APP_INNER_MOST",
            "app.inner.most",
            "SHADDOCK_APP__INNER__MOST",
        ),
        (
            "SHADDOCK_APP__ROOMSIZE",
            "app.room_size",
            "SHADDOCK_APP__ROOM_SIZE",
        ),
        (
            "SHADDOCK_APP__ROOM__SIZE",
            "app.room_size",
            "SHADDOCK_APP__ROOM_SIZE",
        ),
        (
            "SHADDOCK_APP__INNER_MOST",
            "app.inner.most",
            "SHADDOCK_APP__INNER__MOST",
        ),
    ] {
        let error = read(variable, "8").unwrap_err();
        let [problem] = error.problems() else {
            panic!("{error}")
        };
        assert_eq!(problem.key, key);
        assert!(problem.message.contains(&format!("`{meant}`")), "{error}");
        let variable = variable.to_owned();
        assert_eq!(problem.origin, Origin::Environment { variable }, "{error}");
    }
    // A table whose variable differs from another field's only in underscores.
    let between = Sources::default()
        .file(&file.0)
        .variable("SHADDOCK_APP__INNER__MOST", "2");
    let between: Between = Config::load(&between).unwrap().app().unwrap();
    assert_eq!((between.inner.most, between.inner_most), (2, 0));
    // No fields, and what Kubernetes sets for a service called `shaddock-app`.
    for (variable, value) in [
        ("SHADDOCK_APP_OTHER", "8"),
        ("SHADDOCK_APP__OTHER", "8"),
        ("SHADDOCK_APP_PORT", "tcp://10.0.0.1:80"),
        ("SHADDOCK_APP_SERVICE_HOST", "10.0.0.1"),
        ("SHADDOCK_APP__ROOM_SIZE", "7"),
        ("SHADDOCK_APP__INNER__MOST", "1"),
    ] {
        let settings = read(variable, value).unwrap();
        assert_eq!(
            (settings.room_size, settings.port, settings.inner.most),
            (7, 0, 1)
        );
    }
}

const BACKEND: &str = "[backends.chat]\nurl = \"http://127.0.0.1:8000/x\"\n";
const SIGNED: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn backends_from_all_sources() {
    let file = File::new(
        "backends",
        "[backends.chat]\nurl = [\"http://a\", \"http://b\"]\ntimeout = \"5s\"\n\n[backends.shop]\nurl = \"http://c\"\n",
    );
    let sources = Sources::default()
        .file(&file.0)
        .variable("SHADDOCK_BACKENDS__CHAT__TIMEOUT", "7s")
        .variable("SHADDOCK_BACKENDS__CHAT__SECRET", SIGNED)
        .flag("backends.shop.url=http://d,http://e")
        .flag("backends.mail.url=http://f")
        .flag("backends.mail.events=bound,closed");
    let config = Config::load(&sources).unwrap();
    let types: Vec<&str> = config
        .http_backends()
        .unwrap()
        .iter()
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(types, ["chat", "mail", "shop"]);
    let chat = &config.backends["chat"];
    assert_eq!(chat.url.0, ["http://a", "http://b"]);
    assert_eq!((chat.timeout, chat.secret.0.len()), (Time::secs(7), 1));
    assert_eq!(config.backends["shop"].url.0, ["http://d", "http://e"]);
    assert_eq!(config.backends["mail"].events, ["bound", "closed"]);
    let printed = config.to_toml();
    assert!(
        printed.contains("[backends.mail]") && !printed.contains(SIGNED),
        "{printed}"
    );
    assert!(!format!("{config:?}").contains(SIGNED));
    let changes = Config::default().changes(&config);
    assert!(
        changes
            .iter()
            .any(|change| change.key == "backends.shop.url" && !change.live)
    );
    assert!(!format!("{changes:?}").contains(SIGNED));
    // The output can be read again, except for its secrets.
    let again = File::new(
        "backends-again",
        &printed.replace("secret = (hidden)", "# secret = (hidden)"),
    );
    assert_eq!(
        again.load().unwrap().backends["chat"].url.0,
        ["http://a", "http://b"]
    );
}

/// Settings that can never work are rejected, with a correction.
#[test]
fn backends_that_cannot_work() {
    for (number, (text, part)) in [
        (
            "backends = 1",
            "this is a section; write `[backends.<type>]`",
        ),
        (
            "[backends]\nchat = 1",
            "this is a section; write `[backends.<type>]`",
        ),
        (
            "[backends.chat]\ntimeout = \"1s\"",
            "requires at least one URL",
        ),
        (
            "[backends.chat]\nurl = \"127.0.0.1:8000\"",
            "has no scheme; write it as",
        ),
        ("[backends.chat]\nurl = \"ftp://a\"", "unknown scheme"),
        ("[backends.chat]\nhealth = \"healthz\"", "from the root"),
        ("[backends.chat]\nprotocol = \"http3\"", "`http2`"),
        (
            "[backends.chat]\nurl = [\"http://a\", \"a\"]",
            "has no scheme",
        ),
        (
            "[backends.chat]\nurl = 7",
            "expected text, or a list of texts",
        ),
        ("[backends.\"a.b\"]\nurl = \"http://a\"", "a.b"),
        (
            "[backends.chat]\nurll = \"http://a\"",
            "did you mean `url`?",
        ),
        ("[backends.chat]\nsecret = \"abc\"", "whsec_"),
        (
            "[backends.chat]\nsecret = { env = \"SHADDOCK_NOT_SET\" }",
            "`SHADDOCK_NOT_SET` is not set",
        ),
        (
            "[backends.chat]\nsecret = { env = \"whsec_abc\" }",
            "the secret itself is written without `env`",
        ),
        (
            "[backends.chat]\nsecret = { file = \"x\" }",
            "expected text",
        ),
        (
            "[backends.chat]\nevents = [\"opened\"]",
            "`handshake`, `bound`, `suspended`, `resumed`, `closed`",
        ),
        (
            "[backends.chat]\nconcurrent = [\"chat.room.look\"]",
            "omit the server type",
        ),
        (
            "[backends.chat]\nmax_connections = 0",
            "outside of the range",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let text = text.replace("[backends.chat]\n", BACKEND);
        // A key may occur once.
        let text = match text.matches("url = ").count() {
            2 => text.replacen("url = \"http://127.0.0.1:8000/x\"\n", "", 1),
            _ if part.contains("at least") => {
                text.replace("url = \"http://127.0.0.1:8000/x\"\n", "")
            }
            _ => text,
        };
        let problems = File::new(&format!("backends-{number}"), &text).problems();
        assert!(
            problems.iter().any(|problem| problem.contains(part)),
            "{text}: {problems:?}"
        );
        assert!(
            problems.iter().all(|problem| !problem.contains("abc")),
            "{problems:?}"
        );
    }
    let two = format!(
        "{BACKEND}events = [\"handshake\"]\n{}events = [\"handshake\"]",
        BACKEND.replace("chat", "shop")
    );
    assert!(File::new("backends-two", &two).problems()[0].contains("already checks handshakes"));
    let own = File::new("backends-own", &BACKEND.replace("chat", "connector"))
        .load()
        .unwrap();
    let error = own.check_start().unwrap_err().to_string();
    assert!(error.contains("type of this server itself"), "{error}");
    // Files are read when a server starts.
    let secure = BACKEND.replace("http://", "https://") + "ca = \"/nowhere/ca.pem\"";
    let secure = File::new("backends-ca", &secure).load().unwrap();
    for error in [
        secure.check_start().unwrap_err().to_string(),
        secure.http_backends().unwrap_err().to_string(),
    ] {
        assert!(error.contains("/nowhere/ca.pem cannot be read"), "{error}");
    }
}

/// Each invalid value is reported with its key, and no secret is shown.
#[cfg(feature = "otlp")]
#[test]
fn telemetry_that_cannot_work() {
    const COLLECTOR: &str = "otlp = \"http://127.0.0.1:4318\"\n";
    for (number, (text, key, part)) in [
        (
            "otlp = \"127.0.0.1:4318\"",
            "otlp",
            "write \"http://127.0.0.1:4318\"",
        ),
        ("otlp = \"grpc://a:4317\"", "otlp", "OTLP over HTTP"),
        (
            "otlp = \"http://ann:s3cret@a\"",
            "otlp",
            "`telemetry.headers`",
        ),
        ("otlp = \"http://a?key=s3cret\"", "otlp", "contains `?`"),
        ("ratio = 2", "ratio", "2 is outside of the range 0 to 1"),
        ("ratio = -0.1", "ratio", "outside of the range"),
        ("ratio = nan", "ratio", "outside of the range"),
        ("users = \"all\"", "users", "`hashed`"),
        ("queue = 0", "queue", "outside of the range"),
        ("interval = \"1ms\"", "interval", "outside of the range"),
        ("timeout = \"2m\"", "timeout", "outside of the range"),
        ("service = \"\"", "service", "the name must not be empty"),
        (
            "headers = \"Bearer s3cret\"",
            "headers",
            "header 1 is not valid",
        ),
        (
            "headers = [\"a=b\", \"x y=s3cret\"]",
            "headers",
            "header 2 is not valid",
        ),
        (
            "headers = { env = \"SHADDOCK_NOT_SET\" }",
            "headers",
            "`SHADDOCK_NOT_SET` is not set",
        ),
        (
            "otpl = \"http://a\"",
            "otpl",
            "did you mean `telemetry.otlp`?",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let collector = if text.starts_with("otlp") {
            ""
        } else {
            COLLECTOR
        };
        let file = File::new(
            &format!("telemetry-{number}"),
            &format!("[telemetry]\n{collector}{text}\n"),
        );
        let problems = file.problems();
        let key = format!("`telemetry.{key}`");
        assert!(
            problems.len() == 1 && problems[0].contains(&key) && problems[0].contains(part),
            "{text}: {problems:?}"
        );
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
    // Without a collector, the other keys have no effect.
    let none = File::new("telemetry-none", "[telemetry]\nheaders = \"x\"\n");
    assert!(none.load().unwrap().telemetry().unwrap().is_none());
    let text = format!("[telemetry]\n{COLLECTOR}headers = \"authorization=s3cret\"\nratio = 1\n");
    let config = File::new("telemetry-fine", &text).load().unwrap();
    assert!(config.telemetry().unwrap().is_some());
    assert!((config.telemetry.ratio - 1.0).abs() < f64::EPSILON);
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let flags = Sources::default()
        .flag("telemetry.otlp=http://127.0.0.1:4318")
        .variable("SHADDOCK_TELEMETRY__RATIO", "0.5")
        .variable("SHADDOCK_TELEMETRY__HEADERS", "authorization=s3cret");
    let config = Config::load(&flags).unwrap();
    assert!((config.telemetry.ratio - 0.5).abs() < f64::EPSILON);
    // Files are read when a server starts.
    let text = format!("[telemetry]\n{COLLECTOR}ca = \"/nowhere/ca.pem\"\n");
    let config = File::new("telemetry-ca", &text).load().unwrap();
    for error in [
        config.check_start().unwrap_err().to_string(),
        config.telemetry().unwrap_err().to_string(),
    ] {
        assert!(
            error.contains("`telemetry.ca`") && error.contains("/nowhere/ca.pem cannot be read"),
            "{error}"
        );
    }
}
