//! The cost of the session core: session table, bindings, outbound queues, fan-out plans.
//!
//! `cargo bench -p shaddock-core --bench core`, or a part of it: `-- outbox`.
//!
//! The connection that would empty an outbox is played by [`drain`], as a driver does it in one poll.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]

use bytes::{Buf, Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shaddock_core::{
    Channel, ChannelConfig, ChannelService, ClientInfo, CloseReason, Drained, FanOutGroup, Flush,
    FrontendId, Outbox, Session, SessionConfig, SessionService, SidAllocator, Uid,
};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::task::Waker;

/// Sessions that are open beside the measured one: caches hold the table of the first, not that of the second.
const OPEN: [usize; 2] = [1_000, 100_000];
/// Messages that leave with one write.
const BATCH: usize = 16;
/// A step through all sessions that no prefetcher foresees; prime to both sizes.
const STRIDE: usize = 7_919;

fn service(open: usize) -> (SessionService, Vec<Arc<Session>>) {
    let frontend = FrontendId::new("connector-1").unwrap();
    let service = SessionService::new(frontend, SidAllocator::new(1, 1), SessionConfig::default());
    let sessions = (0..open)
        .map(|_| service.create(ClientInfo::default()))
        .collect();
    (service, sessions)
}

fn uid(number: usize) -> Uid {
    Uid::new(format!("player-{number}")).unwrap()
}

/// Calls `work` with one session after the other, in an order of its own.
fn each(sessions: &[Arc<Session>], at: &mut usize, work: impl FnOnce(usize, &Arc<Session>)) {
    *at = (*at + STRIDE) % sessions.len();
    work(*at, &sessions[*at]);
}

fn session_table(c: &mut Criterion) {
    let mut group = c.benchmark_group("session table");
    for open in OPEN {
        let (service, sessions) = service(open);
        group.bench_function(BenchmarkId::new("create and close", open), |b| {
            b.iter(|| {
                let session = service.create(black_box(ClientInfo::default()));
                assert!(session.close(CloseReason::ClientClosed));
            });
        });
        let mut at = 0;
        group.bench_function(BenchmarkId::new("get by sid", open), |b| {
            b.iter(|| {
                each(&sessions, &mut at, |_, session| {
                    black_box(service.get(black_box(session.id())).unwrap());
                });
            });
        });
    }
    group.finish();
}

fn binding(c: &mut Criterion) {
    let mut group = c.benchmark_group("binding");
    for open in OPEN {
        let (service, sessions) = service(open);
        let uids: Vec<Uid> = (0..open).map(uid).collect();
        let mut at = 0;
        for (session, uid) in sessions.iter().zip(&uids) {
            session.bind(uid.clone()).unwrap();
        }
        group.bench_function(BenchmarkId::new("unbind and bind", open), |b| {
            b.iter(|| {
                each(&sessions, &mut at, |at, session| {
                    service.unbind(session.id(), &uids[at]).unwrap();
                    service.bind(session.id(), uids[at].clone()).unwrap();
                });
            });
        });
        group.bench_function(BenchmarkId::new("sessions of a user", open), |b| {
            b.iter(|| {
                each(&sessions, &mut at, |at, _| {
                    let found = service.for_each_session_of(uids[at].as_str(), |session| {
                        black_box(session);
                    });
                    assert_eq!(found, 1);
                });
            });
        });
    }
    group.finish();
}

/// The work of a driver in one poll with the packages that `fill` has queued.
fn drain(outbox: &Outbox, drained: &mut Drained, fill: impl FnOnce(&Outbox)) {
    outbox.begin_poll(Waker::noop());
    fill(outbox);
    let _ = outbox.take(drained);
    let length = drained.remaining();
    drained.advance(length);
    outbox.written(length);
    assert!(!outbox.end_poll(Flush::Done));
}

fn outbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox, 16 packages and one drain");
    group.throughput(Throughput::Elements(BATCH as u64));
    let outbox = Outbox::new(256 * 1024);
    let mut drained = Drained::default();
    for length in [40, 400] {
        let package = Bytes::from(vec![b'x'; length]);
        group.bench_function(BenchmarkId::new("encoded in place", length), |b| {
            b.iter(|| {
                drain(&outbox, &mut drained, |outbox| {
                    for _ in 0..BATCH {
                        let encode = |buf: &mut BytesMut| {
                            buf.extend_from_slice(black_box(&package));
                            Ok::<_, Infallible>(())
                        };
                        outbox.push_with(encode).unwrap();
                    }
                });
            });
        });
        group.bench_function(BenchmarkId::new("shared with others", length), |b| {
            b.iter(|| {
                drain(&outbox, &mut drained, |outbox| {
                    for _ in 0..BATCH {
                        outbox.push(black_box(&package).clone()).unwrap();
                    }
                });
            });
        });
    }
    group.finish();
    broadcast(c);
}

/// The same package to many sessions, each of which is idle.
fn broadcast(c: &mut Criterion) {
    let mut group = c.benchmark_group("one package to all sessions");
    for receivers in [1_000, 10_000] {
        let (service, sessions) = service(receivers);
        let package = Bytes::from(vec![b'x'; 100]);
        let mut drained = Drained::default();
        group.throughput(Throughput::Elements(receivers as u64));
        group.bench_function(BenchmarkId::new("push and drain", receivers), |b| {
            b.iter(|| {
                service.visit_sessions(|session| session.send(package.clone()).unwrap());
                for session in &sessions {
                    drain(session.outbox(), &mut drained, |_| ());
                }
            });
        });
    }
    group.finish();
}

const MEMBERS: usize = 1_000;
const FRONTENDS: usize = 10;

fn targets() -> Vec<(Uid, FrontendId)> {
    let frontends: Vec<FrontendId> = (0..FRONTENDS)
        .map(|number| FrontendId::new(format!("connector-{number}")).unwrap())
        .collect();
    (0..MEMBERS)
        .map(|number| (uid(number), frontends[number % FRONTENDS].clone()))
        .collect()
}

fn room(channels: &ChannelService, targets: &[(Uid, FrontendId)]) -> Arc<Channel> {
    let room = channels.create_channel("lobby").unwrap();
    for (uid, frontend) in targets {
        assert!(room.add(uid, frontend));
    }
    room
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan-out plan, 1,000 members on 10 frontends");
    let channels = ChannelService::new("chat-1", ChannelConfig::default());
    let targets = targets();
    let room = room(&channels, &targets);
    group.bench_function("nobody came or went", |b| {
        b.iter(|| black_box(room.fan_out().unwrap()));
    });
    let (uid, frontend) = &targets[MEMBERS / 2];
    group.bench_function("one left and came back", |b| {
        b.iter(|| {
            assert!(room.leave(uid.as_str(), frontend.as_str()));
            assert!(room.add(uid, frontend));
            black_box(room.fan_out().unwrap())
        });
    });
    group.bench_function("leave and join, without a plan", |b| {
        b.iter(|| {
            assert!(room.leave(uid.as_str(), frontend.as_str()));
            assert!(room.add(uid, frontend));
        });
    });
    group.bench_function("of a list of users", |b| {
        b.iter(|| FanOutGroup::plan(black_box(&targets).iter().cloned()));
    });
    group.finish();
}

criterion_group!(benches, session_table, binding, outbox, fan_out);
criterion_main!(benches);
