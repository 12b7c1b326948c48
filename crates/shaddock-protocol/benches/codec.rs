//! The cost of the codec: packages and messages to events, responses and pushes to packages, the handshake.
//!
//! `cargo bench -p shaddock-protocol --bench codec`. The same path as a whole, on one thread and on two, is in `hot_path.rs`;
//! protobuf is in `protobuf.rs`.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shaddock_protocol::{
    Codec, CodecConfig, Conn, Dialect, Dictionary, Event, Millis, PackageType, check_json,
    encode_package,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Packages that come with one read.
const BATCH: usize = 16;
const ROUTE: &str = "chat.chatHandler.send";
const BODY: &[u8] = br#"{"rid":"room-1","content":"hello, everybody","from":"alice","target":"*"}"#;
/// A HANDSHAKE and the ACK behind it.
const HELLO: &[u8] = b"\x01\x00\x00\x0a{\"sys\":{}}\x02\x00\x00\x00";

fn codec() -> Arc<Codec> {
    let dictionary = Dictionary::build([ROUTE], ["onChat"]).unwrap();
    Arc::new(Codec::new(
        CodecConfig::default()
            .heartbeat(Duration::from_secs(30))
            .dictionary(Arc::new(dictionary)),
    ))
}

fn open(codec: &Arc<Codec>, out: &mut BytesMut) -> Conn {
    let mut conn = Conn::new(codec.clone(), Millis(0));
    let mut input = Bytes::from_static(HELLO);
    conn.poll_event(Millis(0), &mut input, out).unwrap();
    conn.accept(Millis(0), None, out).unwrap();
    conn.poll_event(Millis(0), &mut input, out).unwrap();
    conn
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("16 requests to events");
    group.throughput(Throughput::Elements(BATCH as u64));
    let named = [&[0, 1, 21], ROUTE.as_bytes(), BODY].concat();
    let coded = [&[1, 1, 0, 1], BODY].concat();
    for (name, message) in [("route as text", named), ("route as code", coded)] {
        let package = encode_package(PackageType::Data, &message).unwrap();
        let chunk = Bytes::from(package.repeat(BATCH));
        let mut out = BytesMut::new();
        let mut conn = open(&codec(), &mut out);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut input = black_box(&chunk).clone();
                for _ in 0..BATCH {
                    let event = conn.poll_event(Millis(1), &mut input, &mut out).unwrap();
                    assert!(matches!(black_box(event), Some(Event::Message(_))));
                }
            });
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let codec = codec();
    let mut out = BytesMut::with_capacity(1 << 16);
    let mut group = c.benchmark_group("encode");
    group.bench_function("answer", |b| {
        b.iter(|| {
            out.clear();
            codec
                .encode_response(Dialect::Pomelo, 7, ROUTE, black_box(BODY), false, &mut out)
                .unwrap();
        });
    });
    for route in ["onChat", "onSomethingElse"] {
        group.bench_function(BenchmarkId::new("push", route), |b| {
            b.iter(|| {
                codec
                    .encode_push(Dialect::Pomelo, black_box(route), black_box(BODY))
                    .unwrap()
            });
        });
    }
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let codec = codec();
    let mut out = BytesMut::new();
    c.bench_function("handshake and ack", |b| {
        b.iter(|| {
            out.clear();
            black_box(open(&codec, &mut out))
        });
    });
}

fn json(c: &mut Criterion) {
    let long = [b"\"", "text of a chat ".repeat(70).as_bytes(), b"\""].concat();
    let mut group = c.benchmark_group("check of a JSON body");
    for text in [BODY, &long] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(text.len()), |b| {
            b.iter(|| check_json(black_box(text)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode, handshake, json);
criterion_main!(benches);
