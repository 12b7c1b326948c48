//! Sessions that outlive their sockets, as the application and the operator see them. The guide is `docs/resume.md`.

pub(crate) mod relay;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shaddock_core::{ResumeRefusal, ReturningClient, Session, TransportKind};
use shaddock_net::{Handled, Peer, ResumeTerms, clock};
use shaddock_protocol::{Dialect, HandshakeRequest, Millis};

use crate::{
    app::AppHandle,
    handler::BoxFuture,
    handshake::{HandshakeInfo, HandshakeReject, Login},
    session::{FrontendSession, SessionView},
};

/// Asked before a client gets its session back; may refuse.
pub(crate) type ResumeHook = Arc<
    dyn Fn(AppHandle, FrontendSession, HandshakeInfo) -> BoxFuture<Result<(), HandshakeReject>>
        + Send
        + Sync,
>;

/// The clients that get resumable sessions. How long these wait and what they keep is in
/// [`SessionConfig::resume`](crate::session::SessionConfig::resume).
///
/// ```
/// use shaddock::{App, resume::ResumePolicy};
///
/// let mut app = App::new("connector", "connector-1");
/// app.set(ResumePolicy { require_tls: true, ..ResumePolicy::default() });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePolicy {
    /// Whether clients that ask get one. Default: yes.
    pub enabled: bool,
    /// Whether clients on plain sockets get none. Default: no.
    pub require_tls: bool,
    /// Where clients come back to first, such as `wss://c1.example.com`. Default: where they choose.
    pub address: Option<Arc<str>>,
    /// Whether a client that comes back here gets its session if another frontend of the type has it. Default: yes.
    pub other_frontends: bool,
    /// Clients of one address that come back without success, a minute. Default 60. Those above get a new session without a look at their token.
    pub max_refused: u32,
    /// Clients of one address that come back, a minute. Default 60,000. Those above get a new session.
    pub max_returns: u32,
}

impl Default for ResumePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            require_tls: false,
            address: None,
            other_frontends: true,
            max_refused: 60,
            max_returns: 60_000,
        }
    }
}

/// For so long is counted.
const MINUTE: u64 = 60_000;

/// Addresses that are counted apart. Those that come when there are so many are counted together.
const MAX_ADDRESSES: usize = 10_000;

/// Who came back in this minute, by address.
#[derive(Debug, Default)]
pub(crate) struct Returns(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    since: Millis,
    by_address: HashMap<IpAddr, Count>,
    others: Count,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    tries: u32,
    refused: u32,
}

impl Counts {
    fn of(&mut self, address: IpAddr, now: Millis) -> &mut Count {
        if now - self.since >= MINUTE {
            *self = Self {
                since: now,
                ..Self::default()
            };
        }
        if self.by_address.len() >= MAX_ADDRESSES && !self.by_address.contains_key(&address) {
            return &mut self.others;
        }
        self.by_address.entry(address).or_default()
    }
}

impl Returns {
    /// Counts a client that comes back. False: too many do from there.
    fn comes(&self, address: IpAddr, now: Millis, policy: &ResumePolicy) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.of(address, now);
        count.tries = count.tries.saturating_add(1);
        count.tries <= policy.max_returns && count.refused < policy.max_refused
    }

    fn refused(&self, address: IpAddr, now: Millis) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.of(address, now);
        count.refused = count.refused.saturating_add(1);
    }
}

impl AppHandle {
    /// What a client that asks for a session which outlives its socket is granted.
    pub(crate) fn resume_terms(&self, peer: &Peer) -> Option<ResumeTerms> {
        let policy = self.resume_policy();
        let is_tls = matches!(
            peer.transport,
            TransportKind::Tls | TransportKind::WebSocketTls
        );
        if !policy.enabled || (policy.require_tls && !is_tls) {
            return None;
        }
        let config = &self.session_service()?.config().resume;
        Some(ResumeTerms {
            window: config.window,
            ack: config.ack.max(1),
            // This frontend can no longer be reached there.
            address: policy.address.clone().filter(|_| !self.is_draining()),
        })
    }

    pub(crate) fn resume_window(&self) -> Duration {
        self.session_service()
            .map_or(Duration::ZERO, |service| service.config().resume.window)
    }

    /// The session that a client comes back to.
    pub(crate) fn find_resumable(
        &self,
        peer: &Peer,
        back: &ReturningClient,
        dialect: Dialect,
    ) -> Result<Arc<Session>, ResumeRefusal> {
        let service = self.session_service().ok_or(ResumeRefusal::Unknown)?;
        let (address, now) = (peer.address.ip().to_canonical(), clock::now());
        if !self.returns().comes(address, now, self.resume_policy()) {
            service.count_resume_refused(ResumeRefusal::Busy);
            return Err(ResumeRefusal::Busy);
        }
        let found = service.find_resumable(back, dialect);
        found.inspect_err(|_| self.returns().refused(address, now))
    }

    /// Asks the application, on the app's behalf as for a handshake. A hook that panics or takes too long refuses.
    pub(crate) fn before_resume(
        &self,
        session: &Arc<Session>,
        peer: &Peer,
        request: &Arc<HandshakeRequest>,
        login: Option<&Login>,
    ) -> Handled<Result<(), ResumeRefusal>> {
        // The handshake has logged in another user, who gets a session of their own.
        if login.is_some_and(|login| login.is_of_another_user(session)) {
            return Handled::Now(Err(ResumeRefusal::Denied));
        }
        // Cut off: perhaps another frontend owns its user by now.
        if self.is_fenced() && session.uid().is_some() {
            return Handled::Now(Err(ResumeRefusal::Denied));
        }
        let Some(hook) = self.hooks().before_resume.get() else {
            return Handled::Now(Ok(()));
        };
        let view = SessionView::of_session(self, session);
        let Some(view) = FrontendSession::try_from_view(view) else {
            return Handled::Now(Err(ResumeRefusal::Denied));
        };
        let info = HandshakeInfo::new(self, request, peer);
        let (app, hook, address) = (self.clone(), Arc::clone(hook), peer.address);
        Handled::Later(Box::pin(async move {
            let limit = app.config().handshake_timeout;
            let asked = app.clone();
            let judged = app
                .limited("resume hook", limit, move || hook(asked, view, info))
                .await;
            match judged {
                Some(Ok(())) => Ok(()),
                Some(Err(reject)) => {
                    shaddock_net::quiet!(info, "a client cannot resume its session", %address, %reject);
                    Err(ResumeRefusal::Denied)
                }
                None => Err(ResumeRefusal::Denied),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_limited_apart_for_a_minute() {
        let policy = ResumePolicy {
            max_refused: 2,
            max_returns: 5,
            ..ResumePolicy::default()
        };
        let (returns, now) = (Returns::default(), Millis(1_000_000));
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        for _ in 0..2 {
            assert!(returns.comes(ip(1), now, &policy));
            returns.refused(ip(1), now);
        }
        assert!(!returns.comes(ip(1), now, &policy), "refused twice");
        for n in 0..7 {
            assert_eq!(returns.comes(ip(2), now, &policy), n < 5);
        }
        assert!(returns.comes(ip(1), now + MINUTE, &policy));
        assert!(returns.comes(ip(2), now + MINUTE, &policy));
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let (returns, now) = (Returns::default(), Millis(1_000_000));
        let policy = ResumePolicy::default();
        for n in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 100 {
            returns.comes(IpAddr::from(n.to_be_bytes()), now, &policy);
        }
        let counts = returns.0.lock().unwrap();
        assert_eq!(
            (counts.by_address.len(), counts.others.tries),
            (MAX_ADDRESSES, 100)
        );
    }
}
