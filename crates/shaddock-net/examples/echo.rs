//! The smallest [`Frontend`]: answers every request with its own body. Shows the seam between connectors and framework, and
//! measures what connectors and sessions cost without handlers.
//!
//! `cargo run --release -p shaddock-net --example echo -- 127.0.0.1:3010 1` (address, workers)

use std::{num::NonZeroU64, sync::Arc};

use shaddock_core::{
    ClientInfo, CloseReason, FrontendId, Session, SessionConfig, SessionService, SidAllocator,
};
use shaddock_net::{Frontend, ListenConfig, Listener, MaybeReady, Opened, Peer, Verdict, Workers};
use shaddock_protocol::{Codec, CodecConfig, HandshakeRequest, Inbound, RefuseReason, Route};

struct Echo {
    codec: Arc<Codec>,
    sessions: SessionService,
}

impl Echo {
    fn answer(&self, session: &Arc<Session>, id: NonZeroU64, route: &str, body: &[u8]) {
        // A session that was closed meanwhile accepts no response, and needs none.
        let _ = session.send_with(|out| {
            self.codec.encode_response(
                session.variant().dialect(),
                id.get(),
                route,
                body,
                false,
                out,
            )
        });
    }
}

impl Frontend for Echo {
    fn codec(&self) -> Arc<Codec> {
        self.codec.clone()
    }

    fn handshake(&self, _: &Peer, _: &Arc<HandshakeRequest>) -> MaybeReady<Verdict> {
        MaybeReady::Now(Verdict::Accept(None))
    }

    fn open(&self, opened: Opened) -> Result<Arc<Session>, CloseReason> {
        Ok(self.sessions.create(ClientInfo {
            variant: opened.dialect.into(),
            transport: opened.peer.transport,
            address: Some(opened.peer.address),
            connected_at: shaddock_net::now(),
        }))
    }

    fn message(&self, session: &Arc<Session>, message: Inbound) -> MaybeReady<()> {
        if let Some(id) = message.id {
            self.answer(session, id, message.route.as_str(), &message.body);
        }
        MaybeReady::Now(())
    }

    fn refused(&self, session: &Arc<Session>, id: NonZeroU64, _: Option<Route>, _: RefuseReason) {
        self.answer(session, id, "", br#"{"code":500}"#);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args
        .next()
        .unwrap_or_else(|| "127.0.0.1:3010".into())
        .parse()?;
    let workers = Workers::start(args.next().map_or(Ok(1), |n| n.parse())?)?;
    let echo = Arc::new(Echo {
        codec: Arc::new(Codec::new(CodecConfig::default())),
        sessions: SessionService::new(
            FrontendId::new("echo-1")?,
            SidAllocator::new(1, 1),
            SessionConfig::default(),
        ),
    });
    let listener = Listener::start(&workers, ListenConfig::new(address), echo)?;
    println!("echo on {}; Ctrl-C stops it", listener.local_addr());
    loop {
        std::thread::park();
    }
}
