//! Sessions that outlive their sockets: clients that count as they should, in any order of losses and returns, and beside them clients that lie about
//! tokens and counts. What is refused changes nothing, for no session.
//!
//! The honest clients rely on one thing: without `latest(key)` the message at position n is the one that was accepted as number n.
#![no_main]

use std::sync::Arc;
use std::task::Waker;

use bytes::{Buf, Bytes};
use libfuzzer_sys::fuzz_target;
use shaddock_core::{
    Claimed, ClientInfo, CloseReason, Credentials, Dialect, Drained, Flush, FrontendId, Millis,
    Next, Offer, Parking, ResumeConfig, ResumeRefusal, ResumeSecret, ReturningClient, SendError,
    Session, SessionConfig, SessionService, SidAllocator,
};
use shaddock_fuzz::Choices;
use shaddock_protocol::{PackageReader, PackageType, encode_package};

const MAX_MESSAGES: usize = 4;
const MAX_BYTES: usize = 200;
const MAX_TOTAL: usize = 600;
const MAX_SUSPENDED: usize = 2;
const CLIENTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// The answer to the handshake is not acknowledged.
    Waiting,
    /// The same, and what follows it was sent with it.
    Early,
    Live,
    Away,
}

impl Link {
    fn is_answered(self) -> bool {
        matches!(self, Self::Waiting | Self::Early)
    }

    fn is_sending(self) -> bool {
        matches!(self, Self::Early | Self::Live)
    }
}

/// A client that keeps to the protocol, and its session.
struct Player {
    session: Arc<Session>,
    link: Link,
    /// What the server writes arrives.
    hears: bool,
    /// The latest token that it has.
    token: String,
    /// Tokens since the last acknowledgement of a handshake, and those before, which are void.
    issued: Vec<String>,
    void: Vec<String>,
    received: u64,
    acknowledged: u64,
    sent: u64,
    taken: u64,
    /// Messages that the server has accepted for it.
    accepted: u64,
    /// The number of the last one that it has seen.
    seen: u64,
    /// A message was superseded by a later one, so that positions say no number any more.
    supersedes: bool,
}

struct World {
    service: SessionService,
    players: Vec<Player>,
    secrets: u32,
    now: u64,
}

/// Messages that are kept, and their bytes.
fn kept(session: &Session) -> Option<(usize, usize)> {
    let state = session.resumable()?;
    Some((state.kept_messages, state.kept_bytes))
}

/// Of which the newest of the key is enough.
fn latest(key: &Arc<str>) -> Offer<'_> {
    Offer {
        latest: Some(key),
        ..Offer::default()
    }
}

fn lost() -> CloseReason {
    CloseReason::Transport(std::io::ErrorKind::ConnectionReset)
}

fn data(number: u64, filler: u8) -> Bytes {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(8 + usize::from(filler), b'.');
    encode_package(PackageType::Data, &body).unwrap()
}

fn back(token: &str, received: u64, sent: u64) -> ReturningClient {
    ReturningClient {
        token: token.to_owned(),
        received,
        sent,
        early: false,
    }
}

impl World {
    fn new() -> Self {
        let config = SessionConfig::default().outbox_bytes(2048).resume(
            ResumeConfig::default()
                .ack(3)
                .max_messages(MAX_MESSAGES)
                .max_bytes(MAX_BYTES)
                .max_total_bytes(MAX_TOTAL)
                .max_suspended(MAX_SUSPENDED),
        );
        let frontend = FrontendId::new("f").unwrap();
        let mut world = Self {
            service: SessionService::new(frontend, SidAllocator::new(1, 1), config),
            players: Vec::new(),
            secrets: 0,
            now: 0,
        };
        for _ in 0..CLIENTS {
            let player = world.come();
            world.players.push(player);
        }
        world
    }

    fn secret(&mut self) -> ResumeSecret {
        self.secrets += 1;
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&self.secrets.to_be_bytes());
        ResumeSecret(bytes)
    }

    /// A client with a new session.
    fn come(&mut self) -> Player {
        let secret = self.secret();
        let session = self
            .service
            .create_resumable(ClientInfo::default(), &secret);
        assert!(session.go_live(&ClientInfo::default()));
        let token = secret.token(session.id());
        Player {
            session,
            link: Link::Live,
            hears: true,
            token,
            issued: Vec::new(),
            void: Vec::new(),
            received: 0,
            acknowledged: 0,
            sent: 0,
            taken: 0,
            accepted: 0,
            seen: 0,
            supersedes: false,
        }
    }

    /// The whole way of a client that comes back. Whether the answer arrives, and whether its acknowledgement does.
    fn come_back(&mut self, at: usize, early: bool, answer_arrives: bool, ack_arrives: bool) {
        let next = self.secret();
        let player = &mut self.players[at];
        let honest = Credentials::from(&back(&player.token, player.received, player.sent));
        let found = self.service.find_resumable(&honest, Dialect::Pomelo);
        if player.session.is_closed() {
            let why = found.expect_err("it is closed");
            assert!(matches!(
                why,
                ResumeRefusal::Unknown | ResumeRefusal::Expired
            ));
            self.players[at] = self.come();
            return;
        }
        let session = found.expect("it is open");
        assert!(Arc::ptr_eq(&session, &player.session));
        let number = self.service.next_claim();
        // A session that waits for its client may be parked.
        let is_parked = player.link == Link::Away && number % 2 == 0;
        if is_parked {
            let parking = session.park(Box::new(number), Waker::noop());
            assert!(matches!(parking, Parking::Parked(_)));
        }
        session.claim(number, &honest, Waker::noop()).unwrap();
        if !is_parked {
            assert!(session.resumable().is_some_and(|state| state.is_claimed));
            // The connection that has it lets go.
            if player.link != Link::Away {
                assert!(session.suspend(&lost(), Millis(self.now)));
            }
            session.outbox().release();
            assert!(session.hand_over(Box::new(number)).is_ok());
        }
        player.link = Link::Away;
        let Claimed::Yours(_) = session.poll_claim(number, Waker::noop()) else {
            panic!("it was handed over, and the claim is the latest");
        };
        let told = session
            .resume_from(&honest, &next)
            .expect("nothing has changed");
        assert_eq!(told.received, player.taken);
        assert_eq!(told.position, player.received + told.missed);
        assert!(told.position <= player.accepted);
        player.link = Link::Waiting;
        if early {
            session.send_early();
            player.link = Link::Early;
        }
        player.hears = false;
        player.acknowledged = player.received;
        let token = next.token(session.id());
        player.issued.push(token.clone());
        if !answer_arrives {
            return;
        }
        (player.token, player.received, player.hears) = (token, told.position, true);
        if ack_arrives {
            self.go_live(at);
        }
    }

    /// The client's acknowledgement arrives, and what it sends again.
    fn go_live(&mut self, at: usize) {
        let player = &mut self.players[at];
        if !player.link.is_answered() || !player.hears {
            return;
        }
        if !player.session.go_live(&ClientInfo::default()) {
            let next = player.session.outbox().take(&mut Drained::default());
            let is_closed = player.session.is_closed();
            assert!(is_closed || next == Next::Release, "it was told to go");
            assert_eq!(
                player.session.suspend(&lost(), Millis(self.now)),
                !is_closed
            );
            (player.link, player.hears) = (Link::Away, false);
            return;
        }
        player.link = Link::Live;
        let token = player.token.clone();
        player
            .void
            .extend(player.issued.drain(..).filter(|known| *known != token));
        for _ in player.taken..player.sent {
            player.take_one();
        }
    }

    /// A client that shows what it does not have. It is refused.
    fn lie(&mut self, at: usize, choices: &mut Choices<'_>) {
        let other = &self.players[(at + 1) % CLIENTS];
        let (others, player) = (other.token.clone(), &self.players[at]);
        let mut lie = back(&player.token, player.received, player.sent);
        match choices.below(8) {
            0 => lie.token.truncate(usize::from(choices.byte())),
            1 => {
                let mut bytes = lie.token.into_bytes();
                let place = usize::from(choices.byte()) % bytes.len();
                bytes[place] = choices.byte() & 0x7f;
                lie.token = String::from_utf8(bytes).unwrap();
            }
            // One that was valid.
            2 => lie.token = player.void.last().cloned().unwrap_or_default(),
            // Half of each.
            3 => lie.token = player.token[..16].to_owned() + &others[16..],
            4 => lie.token = others,
            5 => lie.received = player.accepted + 1 + u64::from(choices.byte()),
            6 => lie.received = u64::MAX - u64::from(choices.byte()),
            _ => lie.token = String::from_utf8_lossy(choices.bytes()).into_owned(),
        }
        if lie == back(&player.token, player.received, player.sent) {
            return;
        }
        let number = self.service.next_claim();
        let lie = Credentials::from(&lie);
        assert!(player.session.claim(number, &lie, Waker::noop()).is_err());
        assert!(
            !player
                .session
                .resumable()
                .is_some_and(|state| state.is_claimed)
        );
        let claimed = player.session.poll_claim(number, Waker::noop());
        assert!(matches!(claimed, Claimed::Superseded));
        let _ = self.service.find_resumable(&lie, Dialect::Pitaya);
        // Fewer than it has acknowledged, or fewer than were taken of it.
        for (received, sent) in [
            (player.acknowledged.checked_sub(1), Some(player.sent)),
            (Some(player.received), player.taken.checked_sub(1)),
        ] {
            if let (Some(received), Some(sent)) = (received, sent) {
                let lie = Credentials::from(&back(&player.token, received, sent));
                assert!(player.session.claim(number, &lie, Waker::noop()).is_err());
            }
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let at = usize::from(choices.below(CLIENTS as u8));
        let now = Millis(self.now);
        let player = &mut self.players[at];
        match choices.below(14) {
            0 | 1 => player.push(choices.byte(), None),
            2 => player.push(
                choices.byte(),
                Some(["x", "y"][usize::from(choices.below(2))]),
            ),
            3 | 4 => player.deliver(choices.byte()),
            5 => player.acknowledge(),
            6 => {
                player.sent += 1;
                if player.link == Link::Live && player.hears && player.taken + 1 == player.sent {
                    player.take_one();
                }
            }
            // The connection is lost, also one whose handshake is not done.
            7 => {
                let is_new = player.link != Link::Away && !player.session.is_closed();
                if is_new {
                    assert!(player.session.suspend(&lost(), now));
                }
                (player.link, player.hears) = (Link::Away, false);
            }
            8 | 9 => self.come_back(at, choices.flag(), !choices.flag(), !choices.flag()),
            10 => self.go_live(at),
            11 => self.lie(at, choices),
            12 => {
                let count = u64::from_be_bytes([choices.byte(), 0, 0, 0, 0, 0, 0, choices.byte()]);
                player.lie_in_an_acknowledgement(count);
            }
            _ => match choices.below(3) {
                0 => {
                    let was_open = !player.session.is_closed();
                    let could = player
                        .session
                        .resumable()
                        .is_some_and(|state| state.suspended.is_some())
                        && was_open;
                    let ends = player.session.expire();
                    // A connection that was told to go, and has not gone, still has it.
                    assert!(!ends || could);
                    assert!(ends || !(was_open && player.link == Link::Away));
                }
                1 => drop(player.session.close(CloseReason::kicked("told to"))),
                _ => {
                    player.session.dismiss();
                }
            },
        }
        self.now += 1;
    }

    /// What holds after each step.
    fn check(&self) {
        let known = self.service.resume_statistics();
        let kept = self
            .players
            .iter()
            .filter_map(|player| kept(&player.session));
        let kept: Vec<_> = kept.collect();
        let bytes: usize = kept.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(known.kept_bytes, bytes);
        for (player, (messages, bytes)) in self.players.iter().zip(&kept) {
            // A client that was told a position has all that follows it, up to the bound of the outbox.
            if player.link != Link::Waiting {
                assert!(*messages <= MAX_MESSAGES && *bytes <= MAX_BYTES);
            }
            assert!(*bytes <= 2048 && !(player.session.is_closed() && *bytes > 0));
        }
        let waiting = |player: &&Player| player.link.is_answered();
        let coming = self.players.iter().filter(waiting).count();
        assert!(known.suspended <= MAX_SUSPENDED + coming);
    }
}

impl Player {
    fn push(&mut self, filler: u8, key: Option<&str>) {
        let package = data(self.accepted + 1, filler);
        let pushed = match key {
            Some(key) => self.session.offer(package, latest(&key.into())).map(drop),
            None => self.session.send(package),
        };
        match pushed {
            Ok(()) => {}
            // The driver has not tried to write yet.
            Err(SendError::Busy) if self.link.is_sending() => return,
            Err(error) => {
                assert!(self.session.is_closed(), "{error}");
                return;
            }
        }
        self.supersedes |= key.is_some();
        self.accepted += 1;
    }

    /// The server writes; so many bytes arrive, and then the connection is lost for the client.
    fn deliver(&mut self, most: u8) {
        if !self.link.is_sending() {
            return;
        }
        let outbox = self.session.outbox();
        outbox.begin_poll(Waker::noop());
        let mut drained = Drained::default();
        let next = outbox.take(&mut drained);
        let mut bytes = drained.copy_to_bytes(drained.remaining());
        outbox.written(bytes.len());
        let _ = outbox.end_poll(Flush::Done);
        if most > 0 && usize::from(most) < bytes.len() {
            bytes.truncate(usize::from(most));
            self.read(bytes);
            self.hears = false;
        } else {
            self.read(bytes);
        }
        if next == Next::Release {
            assert!(self.session.suspend(&lost(), Millis(0)));
            (self.link, self.hears) = (Link::Away, false);
        }
    }

    fn read(&mut self, mut bytes: Bytes) {
        let mut reader = PackageReader::new();
        while let Some(package) = reader.next(&mut bytes, 1 << 16).unwrap() {
            if !self.hears || package.kind != PackageType::Data {
                continue;
            }
            let number = u64::from_be_bytes(package.body[..8].try_into().unwrap());
            self.received += 1;
            assert!(number > self.seen, "{number} after {}", self.seen);
            assert!(self.supersedes || number == self.received);
            self.seen = number;
        }
    }

    fn acknowledge(&mut self) {
        if self.link == Link::Live && self.hears && !self.session.is_closed() {
            assert_eq!(self.session.acknowledged(self.received), Ok(()));
            self.acknowledged = self.received;
        }
    }

    /// A number that cannot be is refused, and nothing is forgotten for it.
    fn lie_in_an_acknowledgement(&mut self, count: u64) {
        let is_possible = (self.acknowledged..=self.accepted).contains(&count);
        if self.link != Link::Live || self.session.is_closed() || is_possible {
            return;
        }
        let before = kept(&self.session);
        let bad = self.session.acknowledged(count).unwrap_err();
        assert_eq!((bad.count, bad.acknowledged), (count, self.acknowledged));
        assert_eq!(kept(&self.session), before);
    }

    fn take_one(&mut self) {
        self.taken += 1;
        if self.session.took() {
            assert_eq!(self.session.acknowledgement(), Some(self.taken));
            assert_eq!(self.session.acknowledgement(), None, "that is no news");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let mut world = World::new();
    for _ in 0..400 {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
        world.check();
    }
    for player in &world.players {
        player.session.close(CloseReason::Removed);
    }
    let left = world.service.resume_statistics();
    assert_eq!((left.suspended, left.kept_bytes), (0, 0));
});
