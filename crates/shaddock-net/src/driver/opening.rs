//! What comes before the protocol: PROXY head, first byte, HTTP upgrade.

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
    listener::refuse,
    proxy::{ProxyHead, proxy_head},
    rate::Bucket,
    upgrade::{Upgrade, upgrade},
    worker::Scratch,
    ws::WsReader,
};

impl Driver {
    /// The bytes before the protocol. `head` is all of them so far.
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
                ProxyHead::Done(address) => self.proxied(address)?,
            }
            self.wire = Wire::Unknown;
        }
        let Some(first) = head.first() else {
            return Ok(());
        };
        match (first, &self.wire) {
            (1..=5, Wire::Unknown) => {
                self.wire = Wire::Tcp;
                self.packages(cx, now, head.freeze(), scratch)
            }
            (b'A'..=b'Z' | b'a'..=b'z', _) => self.http(cx, now, head, scratch),
            _ => Err(CloseReason::Framing("unknown_first_byte")),
        }
    }

    fn keep_head(&mut self, head: BytesMut) {
        if let Some(opening) = &mut self.opening {
            opening.head = head;
        }
    }

    fn refused(&mut self, refusal: Refusal) -> CloseReason {
        if let Some(opening) = &self.opening {
            refuse(refusal, opening.peer.address, &self.local.stats);
        }
        match refusal {
            Refusal::TooMany | Refusal::TooManyFromAddress => CloseReason::Overloaded,
            Refusal::Denied | Refusal::BadProxyHead => CloseReason::Denied,
        }
    }

    /// The proxy has told who the client is: now it can be judged, and TLS begins.
    fn proxied(&mut self, address: Option<SocketAddr>) -> Result<(), CloseReason> {
        if let Some(address) = address {
            self.admit(address)?;
        }
        self.start_tls();
        Ok(())
    }

    fn admit(&mut self, address: SocketAddr) -> Result<(), CloseReason> {
        if let Some(opening) = &mut self.opening {
            opening.peer.address = address;
        }
        let admitted = self.permit.admit(address.ip());
        admitted.map_err(|refusal| self.refused(refusal))
    }

    fn http(
        &mut self,
        cx: &mut Context<'_>,
        now: Millis,
        mut head: BytesMut,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let live = self.live.clone();
        let peer = self.opening.as_ref().map(|opening| opening.peer.address);
        let policy = self.local.shared.gate.policy();
        let trusted = peer.is_some_and(|peer| policy.is_trusted_proxy(peer.ip()));
        match upgrade(&mut head, &live.upgrade, trusted) {
            Upgrade::NeedMore => {
                self.wire = Wire::Http;
                self.keep_head(head);
                Ok(())
            }
            Upgrade::Refused { answer, why } => {
                self.queue_own(now, answer);
                Err(CloseReason::Framing(why))
            }
            Upgrade::Accepted {
                answer,
                forwarded_for,
            } => {
                if let Some(ip) = forwarded_for {
                    self.admit(SocketAddr::new(ip, 0))?;
                }
                let pings = live.limits.pings_per_second;
                let mut reader = WsReader::default();
                let frames = reader.take(&mut head, max_message(&self.conn));
                self.wire = Wire::Ws(Box::new(Ws {
                    reader,
                    pings: Bucket::new(now, pings, pings),
                }));
                self.queue_own(now, &answer);
                self.frames(cx, now, frames, scratch)
            }
        }
    }
}
