//! The layers before the protocol: PROXY head, first byte, HTTP upgrade.

use std::{net::SocketAddr, task::Context};

use bytes::BytesMut;
use shaddock_core::CloseReason;
use shaddock_protocol::Millis;

use super::{
    Driver,
    input::{Wire, Ws, max_message},
};
use crate::{
    access::Refusal,
    address::canonical,
    clock,
    forwarded::Client,
    listener::refuse,
    proxy::{ProxyHead, proxy_head},
    rate::Bucket,
    upgrade::{self, Upgrade, upgrade},
    worker::Scratch,
    ws::WsReader,
};

impl Driver {
    /// The bytes before the protocol. `head` is all of them so far. Each layer takes its own from the front and hands the rest to the next.
    pub(super) fn begin(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        mut head: BytesMut,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if self.wire.is_proxy() {
            match proxy_head(&mut head) {
                ProxyHead::NeedMore => {
                    self.keep_head(head);
                    return Ok(());
                }
                ProxyHead::Bad => return Err(self.refused(Refusal::BadProxyHead)),
                ProxyHead::Done(address) => self
                    .proxied(address)
                    .map_err(|refusal| self.refused(refusal))?,
            }
            self.wire = Wire::Unknown;
            match self.begin_tls(head) {
                Some(rest) => head = rest,
                None => return Ok(()),
            }
        }
        let Some(first) = head.first() else {
            return Ok(());
        };
        match (first, &self.wire) {
            (1..=5, Wire::Unknown) => {
                self.admit(Client::Peer)
                    .map_err(|refusal| self.refused(refusal))?;
                self.wire = Wire::Tcp;
                self.packages(cx, now, head.freeze(), scratch)
            }
            (b'A'..=b'Z' | b'a'..=b'z', _) => self.http(cx, now, head, scratch),
            _ => Err(CloseReason::Framing("unknown_first_byte")),
        }
    }

    /// Where the listener has TLS, it begins here, and `rest`, which was read past the layer before, goes to it. Without TLS `rest` is given
    /// back, for the next layer.
    pub(super) fn begin_tls(&mut self, rest: BytesMut) -> Option<BytesMut> {
        let Some(tls) = &self.local.shared.config.tls else {
            return Some(rest);
        };
        self.io.start_tls(&tls.acceptor(), rest.freeze());
        None
    }

    fn keep_head(&mut self, head: BytesMut) {
        if let Some(opening) = &mut self.opening {
            opening.head = head;
        }
    }

    fn refused(&self, refusal: Refusal) -> CloseReason {
        if let Some(opening) = &self.opening {
            refuse(refusal, opening.peer.address, &self.local.stats);
        }
        match refusal {
            Refusal::TooMany | Refusal::TooManyFromAddress | Refusal::OutOfDescriptors => {
                CloseReason::Overloaded
            }
            Refusal::Denied | Refusal::BadProxyHead | Refusal::NoClientAddress => {
                CloseReason::Denied
            }
        }
    }

    /// The balancer has told whose connection it is. If it is its own (`LOCAL`, `UNKNOWN`), its own address counts, as that of any client.
    /// Another proxy may follow, and its header tell more; otherwise the client is judged now, before it costs a TLS handshake.
    fn proxied(&mut self, told: Option<SocketAddr>) -> Result<(), Refusal> {
        let Some(address) = told.map(canonical) else {
            return Ok(());
        };
        if let Some(opening) = &mut self.opening {
            opening.peer.address = address;
        }
        if self.is_trusted_proxy(address) {
            return Ok(());
        }
        self.admit(Client::Peer)
    }

    fn is_trusted_proxy(&self, address: SocketAddr) -> bool {
        let policy = self.local.shared.gate.policy();
        policy.is_trusted_proxy(address.ip())
    }

    /// Judges the client by lists and count. Every way to a session leads through here, and nothing is judged twice for the same address.
    fn admit(&mut self, client: Client) -> Result<(), Refusal> {
        let Some(opening) = &mut self.opening else {
            return Ok(());
        };
        match client {
            Client::Peer if opening.is_judged => return Ok(()),
            Client::Peer => {}
            Client::Told(address) => opening.peer.address = address,
            Client::Unknown => return Err(Refusal::NoClientAddress),
        }
        opening.is_judged = true;
        match &mut self.permit {
            Some(permit) => permit.admit(opening.peer.address.ip()),
            None => Ok(()),
        }
    }

    fn http(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        mut head: BytesMut,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let live = self.live.clone();
        let policy = self.local.shared.gate.policy();
        let peer = self.opening.as_ref().map(|opening| opening.peer.address);
        let is_proxy = peer.is_some_and(|peer| policy.is_trusted_proxy(peer.ip()));
        match upgrade(&mut head, &live.upgrade, is_proxy.then_some(&*policy)) {
            Upgrade::NeedMore => {
                self.wire = Wire::Http;
                self.keep_head(head);
                Ok(())
            }
            Upgrade::Refused { answer, why } => {
                self.queue_own(now, answer);
                Err(CloseReason::Framing(why))
            }
            Upgrade::Accepted { answer, client } => {
                if let Err(refusal) = self.admit(client) {
                    let reason = self.refused(refusal);
                    let answer = match reason {
                        CloseReason::Overloaded => upgrade::UNAVAILABLE,
                        _ => upgrade::FORBIDDEN,
                    };
                    self.queue_own(now, answer);
                    return Err(reason);
                }
                let pings = live.limits.pings_per_second;
                let mut reader = WsReader::default();
                let frames = reader.take(&mut head, max_message(&self.conn));
                self.wire = Wire::Ws(Box::new(Ws {
                    reader,
                    pings: Bucket::new(clock::turn(), pings, pings),
                    goodbye: None,
                    is_closed: false,
                }));
                self.queue_own(now, &answer);
                self.frames(cx, now, frames, scratch)
            }
        }
    }
}
