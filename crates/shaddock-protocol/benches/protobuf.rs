//! Nanoseconds per body between JSON text and protobuf, and for scale what parsing the text to a tree takes.
//!
//! `cargo bench -p shaddock-protocol --bench protobuf`.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench is where a clock is read"
)]

mod support;

use shaddock_protocol::{HashPolicy, RsaKey, Schema, deflate_zlib, inflate};
use std::hint::black_box;
use support::median;

const SCHEMA: &str = r#"{
    "message Point": {"required double x": 1, "required double y": 2},
    "chat": {"required string rid": 1, "required string content": 2, "required string from": 3, "optional string target": 4},
    "move": {"required uInt32 id": 1, "repeated Point path": 2, "optional Point last": 3, "optional sInt32 hp": 4},
    "scores": {"repeated uInt32 scores": 1}
}"#;

const BODIES: [(&str, &str); 3] = [
    (
        "chat",
        r#"{"rid":"room-1","content":"hello, everybody","from":"alice","target":"*"}"#,
    ),
    (
        "move",
        r#"{"id":31,"path":[{"x":250.5,"y":1024.25},{"x":33.25,"y":-7},{"x":0.1,"y":17}],"last":{"x":0,"y":1},"hp":-5}"#,
    ),
    (
        "scores",
        r#"{"scores":[1,2,3,4,5,6,7,8,9,10,300,400,500,600,70000,80000,90000,1000000,2,3,4,5]}"#,
    ),
];

fn main() {
    let schema = Schema::parse(SCHEMA).unwrap();
    for (route, json) in BODIES {
        let bytes = schema.encode(route, json.as_bytes()).unwrap();
        assert_eq!(schema.decode(route, &bytes).unwrap(), json.as_bytes());
        let encode = median(|| {
            black_box(schema.encode(route, black_box(json.as_bytes())).unwrap());
        });
        let decode = median(|| {
            black_box(schema.decode(route, black_box(&bytes)).unwrap());
        });
        let tree = median(|| {
            black_box(serde_json::from_str::<serde_json::Value>(black_box(json)).unwrap());
        });
        println!(
            "{route:8} encode {encode:7.1} ns, decode {decode:7.1} ns, parse to a tree {tree:7.1} ns; {} and {} bytes",
            json.len(),
            bytes.len()
        );
    }

    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/crypto.json"
    );
    let vectors: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(vectors).unwrap()).unwrap();
    let modulus = vectors["rsa"]["rsa_n"].as_str().unwrap();
    let key = RsaKey::from_handshake(modulus, 65_537).unwrap();
    let body = vectors["cases"][0]["input"]["bodyJson"].as_str().unwrap();
    let verify = median(|| {
        black_box(
            key.verify_json(black_box(body.as_bytes()), HashPolicy::Sha2)
                .unwrap(),
        );
    });
    println!("verify   {verify:9.1} ns, 1024 bits");

    let text = BODIES.map(|(_, json)| json).join(",");
    let deflated = deflate_zlib(text.as_bytes());
    let deflate = median(|| {
        black_box(deflate_zlib(black_box(text.as_bytes())));
    });
    let inflate = median(|| {
        black_box(inflate(black_box(&deflated), 1000).unwrap());
    });
    println!(
        "deflate  {deflate:9.1} ns, inflate {inflate:7.1} ns for {} bytes",
        text.len()
    );
}
