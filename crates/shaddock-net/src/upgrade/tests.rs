use super::*;

const HEAD: &str = "GET /any HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn run(text: &str, policy: &UpgradePolicy, proxies: Option<&AccessPolicy>) -> (Upgrade, BytesMut) {
    let mut input = BytesMut::from(text);
    let result = upgrade(&mut input, policy, proxies);
    (result, input)
}

/// The name of the refusal, or `accepted`.
fn why(text: &str, policy: &UpgradePolicy) -> &'static str {
    match run(text, policy, None).0 {
        Upgrade::Refused { why, .. } => why,
        Upgrade::Accepted { .. } => "accepted",
        Upgrade::NeedMore => "need_more",
    }
}

fn answer_to(text: &str, policy: &UpgradePolicy) -> String {
    match run(text, policy, None).0 {
        Upgrade::Accepted { answer, .. } => String::from_utf8(answer).unwrap(),
        Upgrade::Refused { answer, .. } => std::str::from_utf8(answer).unwrap().to_owned(),
        Upgrade::NeedMore => panic!("{text}"),
    }
}

#[test]
fn accepts_and_leaves_what_follows() {
    let (result, rest) = run(
        &format!("{HEAD}\r\n\u{1}x"),
        &UpgradePolicy::default(),
        None,
    );
    let Upgrade::Accepted { answer, client } = result else {
        panic!("{result:?}")
    };
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    assert_eq!(client, Client::Peer);
    assert_eq!(&rest[..], b"\x01x");
}

#[test]
fn the_content_lengths_of_the_refusals_are_true() {
    for text in [
        NEEDS_UPGRADE,
        NEEDS_VERSION,
        BAD_REQUEST,
        FORBIDDEN,
        UNAVAILABLE,
        TOO_LARGE,
    ] {
        let text = std::str::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("close"));
    }
}

/// Heads that RFC 9110, 9112 and 6455 speak of. Each line: the text of [`HEAD`] that is replaced, by what, and what is right.
#[test]
fn heads_as_the_standards_have_them() {
    const CONNECTION: &str = "Connection: keep-alive, Upgrade\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const UPGRADE: &str = "Upgrade: websocket\r\n";
    const HOST: &str = "Host: a\r\n";
    let cases = [
        (
            CONNECTION,
            "Connection: keep-alive\r\nConnection: Upgrade\r\n",
            "accepted",
        ),
        (
            CONNECTION,
            "Connection: Upgrade\r\nConnection: keep-alive\r\n",
            "accepted",
        ),
        (CONNECTION, "connection: ,uPGRADE ,\r\n", "accepted"),
        (CONNECTION, "Connection: close\r\n", "bad_websocket_upgrade"),
        (
            CONNECTION,
            "Connection: upgraded\r\n",
            "bad_websocket_upgrade",
        ),
        (CONNECTION, "", "bad_websocket_upgrade"),
        (
            UPGRADE,
            "Upgrade: h2c\r\nUpgrade: WebSocket\r\n",
            "accepted",
        ),
        (UPGRADE, "Upgrade: h2c, websocket\r\n", "accepted"),
        (UPGRADE, "Upgrade: h2c\r\n", "http_without_upgrade"),
        (UPGRADE, "", "http_without_upgrade"),
        ("/any", "/any?name=\"x\"&list=<a>{b}|c\\^`", "accepted"),
        ("/any", "/any?name=\u{4e2d}", "accepted"),
        ("/any", "http://a/any", "accepted"),
        ("GET", "POST", "bad_websocket_upgrade"),
        ("HTTP/1.1", "HTTP/1.0", "bad_websocket_upgrade"),
        ("HTTP/1.1", "HTTP/2.0", "not_http"),
        (HOST, "", "http_without_host"),
        (HOST, "Host: a\r\nHost: b\r\n", "http_without_host"),
        (HOST, "Host:\r\n", "accepted"),
        (HOST, "Host: [2001:db8::1]:3010\r\n", "accepted"),
        (HOST, "Host: a_b.example:3010\r\n", "accepted"),
        (HOST, "Host: a b\r\n", "http_without_host"),
        (HOST, "Host: a/b\r\n", "http_without_host"),
        (HOST, "Host: u@a\r\n", "http_without_host"),
        (HOST, "Host: \"a\"\r\n", "http_without_host"),
        (HOST, "Host: \u{e9}\r\n", "http_without_host"),
        (VERSION, "", "websocket_version"),
        (VERSION, "Sec-WebSocket-Version: 8\r\n", "websocket_version"),
        (
            VERSION,
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n",
            "websocket_version",
        ),
        (KEY, "", "bad_websocket_upgrade"),
        (
            KEY,
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n",
            "bad_websocket_upgrade",
        ),
        (
            KEY,
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\n",
            "bad_websocket_upgrade",
        ),
        (HOST, "Host: a\r\nContent-Length: 0\r\n", "accepted"),
        (
            HOST,
            "Host: a\r\nContent-Length: 3\r\n",
            "bad_websocket_upgrade",
        ),
        (
            HOST,
            "Host: a\r\nTransfer-Encoding: chunked\r\n",
            "bad_websocket_upgrade",
        ),
        (HOST, "Host: a\r\n folded\r\n", "not_http"),
        (HOST, "Host : a\r\n", "not_http"),
        (
            HOST,
            "Host: a\r\nSec-WebSocket-Protocol: a b\r\n",
            "bad_websocket_upgrade",
        ),
    ];
    let open = UpgradePolicy::default();
    for (from, to, right) in cases {
        assert!(HEAD.contains(from));
        let text = format!("{}\r\n", HEAD.replacen(from, to, 1));
        assert_eq!(why(&text, &open), right, "{to:?} for {from:?}");
    }
    assert_eq!(
        why("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &open),
        "http_without_upgrade"
    );
    assert_eq!(why("GET / HTTP/1.0\r\n\r\n", &open), "http_without_upgrade");
    assert_eq!(why("PROXY TCP4 1.2.3.4 5 6 7\r\n\r\n", &open), "not_http");
    assert_eq!(why(HEAD, &open), "need_more");
}

#[test]
fn a_request_of_another_version_learns_which_is_spoken() {
    let text = format!("{}\r\n", HEAD.replace("Version: 13", "Version: 7"));
    let answer = answer_to(&text, &UpgradePolicy::default());
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
    assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn pages_of_other_origins_are_refused() {
    let closed = UpgradePolicy {
        origins: vec!["https://ok.example".into()],
        ..UpgradePolicy::default()
    };
    let with = |lines: &str| why(&format!("{HEAD}{lines}\r\n"), &closed);
    assert_eq!(
        with("Origin: https://evil.example\r\n"),
        "origin_not_allowed"
    );
    assert_eq!(
        with("Origin: https://ok.example\r\nOrigin: https://evil.example\r\n"),
        "origin_not_allowed"
    );
    assert_eq!(with("Origin: https://OK.example\r\n"), "accepted");
    assert_eq!(with(""), "accepted");
}

#[test]
fn an_offered_subprotocol_is_answered() {
    let speaks = |known: &[&str], lines: &str| {
        let policy = UpgradePolicy {
            subprotocols: known.iter().map(|&name| name.to_owned()).collect(),
            ..UpgradePolicy::default()
        };
        let answer = answer_to(&format!("{HEAD}{lines}\r\n"), &policy);
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"));
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        line.map(str::to_owned)
    };
    let one = "Sec-WebSocket-Protocol: binary, pomelo\r\n";
    let two = "Sec-WebSocket-Protocol: binary\r\nSec-WebSocket-Protocol: pomelo\r\n";
    for offer in [one, two] {
        assert_eq!(speaks(&[], offer).as_deref(), Some("binary"));
        assert_eq!(speaks(&["x", "pomelo"], offer).as_deref(), Some("pomelo"));
        assert_eq!(
            speaks(&["pomelo", "binary"], offer).as_deref(),
            Some("binary")
        );
        assert_eq!(speaks(&["x"], offer), None);
    }
    assert_eq!(
        speaks(&["pomelo"], ""),
        None,
        "nothing is chosen that was not offered"
    );
}

/// One bound, and the same verdict however the head is cut.
#[test]
fn verdicts_do_not_depend_on_how_the_head_is_cut() {
    let padded = |length: usize, end: &str| {
        let fixed = HEAD.len() + "X: \r\n".len() + end.len();
        format!("{HEAD}X: {}\r\n{end}", "y".repeat(length - fixed))
    };
    let cases = [
        (padded(500, "\r\n"), "accepted"),
        (padded(MAX_HTTP_HEAD - 1, "\r\n"), "accepted"),
        (padded(MAX_HTTP_HEAD, "\r\n"), "accepted"),
        (padded(MAX_HTTP_HEAD + 1, "\r\n"), "http_head_too_large"),
        (padded(9 * 1024, "\r\n"), "http_head_too_large"),
        (padded(20_000, ""), "http_head_too_large"),
        (padded(MAX_HTTP_HEAD - 1, ""), "need_more"),
        (
            format!("{HEAD}{}\r\n", "a: b\r\n".repeat(130)),
            "http_head_too_large",
        ),
        (
            format!("{HEAD}\u{1}: b\r\n{}", padded(9 * 1024, "\r\n")),
            "not_http",
        ),
        (
            format!("{}\u{1}: b\r\n\r\n", padded(9 * 1024, "")),
            "http_head_too_large",
        ),
        ("get / nonsense\r\n\r\n".to_owned(), "not_http"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "http_without_upgrade",
        ),
    ];
    let policy = UpgradePolicy::default();
    for (text, right) in cases {
        for step in [1, 2, 7, 100, 1459, 4096, MAX_HTTP_HEAD, text.len()] {
            let mut input = BytesMut::new();
            let mut verdict = Upgrade::NeedMore;
            for chunk in text.as_bytes().chunks(step) {
                input.extend_from_slice(chunk);
                verdict = upgrade(&mut input, &policy, None);
                if verdict != Upgrade::NeedMore {
                    break;
                }
            }
            let found = match verdict {
                Upgrade::Refused { why, .. } => why,
                Upgrade::Accepted { .. } => "accepted",
                Upgrade::NeedMore => "need_more",
            };
            assert_eq!(found, right, "{} bytes, {step} at a time", text.len());
        }
    }
}

#[test]
fn the_address_header_is_believed_from_trusted_peers_only_and_then_demanded() {
    let policy = UpgradePolicy {
        address_header: Some("x-forwarded-for".into()),
        ..UpgradePolicy::default()
    };
    let proxies = AccessPolicy {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        ..AccessPolicy::default()
    };
    let client = |lines: &str, proxies| match run(&format!("{HEAD}{lines}\r\n"), &policy, proxies).0
    {
        Upgrade::Accepted { client, .. } => client,
        other => panic!("{other:?}"),
    };
    let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1, 10.1.2.3\r\n";
    assert_eq!(
        client(lines, Some(&proxies)),
        Client::Told("192.0.2.1:0".parse().unwrap())
    );
    assert_eq!(client(lines, None), Client::Peer);
    assert_eq!(client("", Some(&proxies)), Client::Unknown);
    assert_eq!(
        client("X-Forwarded-For: unknown\r\n", Some(&proxies)),
        Client::Unknown
    );
    assert_eq!(client("", None), Client::Peer);
}
