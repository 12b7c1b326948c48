//! The layers before the protocol: PROXY head, first byte, HTTP upgrade.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use shaddock_core::CloseReason;
use shaddock_protocol::Millis;

use super::{
    state::Driver,
    wire::{Wire, Ws, max_message},
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
    ws::WsReader,
};

/// The bytes behind the layers before the protocol.
pub(super) enum Begun {
    /// A layer is not complete, or was handed all bytes.
    NeedMore,
    /// Packages back to back.
    Packages(Bytes),
    /// WebSocket frames.
    Frames(Bytes),
}

impl Driver {
    /// The bytes before the protocol. `head` is all of them so far. Each layer takes its own from the front and hands the rest to
    /// the next; the last one returns it.
    pub(super) fn begin(&mut self, now: Millis, mut head: BytesMut) -> Result<Begun, CloseReason> {
        if self.wire.is_proxy() {
            match proxy_head(&mut head) {
                ProxyHead::NeedMore => {
                    self.keep_head(head);
                    return Ok(Begun::NeedMore);
                }
                ProxyHead::Bad => return Err(self.refused(Refusal::BadProxyHead)),
                ProxyHead::Done(address) => self
                    .proxied(address)
                    .map_err(|refusal| self.refused(refusal))?,
            }
            self.wire = Wire::Unknown;
            match self.begin_tls(head) {
                Some(rest) => head = rest,
                None => return Ok(Begun::NeedMore),
            }
        }
        let Some(first) = head.first() else {
            return Ok(Begun::NeedMore);
        };
        match (first, &self.wire) {
            (1..=5, Wire::Unknown) => {
                self.admit(Client::Peer)
                    .map_err(|refusal| self.refused(refusal))?;
                self.wire = Wire::Tcp;
                Ok(Begun::Packages(head.freeze()))
            }
            (b'A'..=b'Z' | b'a'..=b'z', _) => self.http(now, head),
            _ => Err(CloseReason::Framing("unknown_first_byte")),
        }
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

    fn http(&mut self, now: Millis, mut head: BytesMut) -> Result<Begun, CloseReason> {
        let live = self.live.clone();
        let policy = self.local.shared.gate.policy();
        let peer = self.opening.as_ref().map(|opening| opening.peer.address);
        let is_proxy = peer.is_some_and(|peer| policy.is_trusted_proxy(peer.ip()));
        match upgrade(&mut head, &live.upgrade, is_proxy.then_some(&*policy)) {
            Upgrade::NeedMore => {
                self.wire = Wire::Http;
                self.keep_head(head);
                Ok(Begun::NeedMore)
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
                Ok(Begun::Frames(frames))
            }
        }
    }
}
