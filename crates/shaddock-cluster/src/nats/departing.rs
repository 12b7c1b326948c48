//! What becomes of servers that leave the list: most still serve what they have, some are dead.
//!
//! A server says goodbye on NATS and then leaves the list at etcd. Either news may be first, so a frontend that left without a word is asked:
//! its sessions count as lost when nobody listens there, and not before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::core::{Core, is_shaddock};
use super::ops;
use super::wire::OpKind;
use crate::reply::guarded;
use crate::{MemberChange, RemoteError, RemoteErrorKind, ServerId, ServerInfo, SessionEvent};

/// How long a goodbye may come after its server has left the list.
const LATEST_GOODBYE: Duration = Duration::from_secs(10);

/// How long one that counts as gone may come back as the same life of it, and how many are remembered for that.
const LATEST_RETURN: Duration = Duration::from_secs(3600);
const RETURNS: usize = 1024;

/// How long a frontend that left without a word may take to answer. One that is silent for so long is cut off, or this server is.
const SILENCE: Duration = Duration::from_secs(3);

/// Time between questions while the own link is down.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// So many frontends wait to be asked, and so many are asked at the same time. More than that at once count as gone without a question.
const DOUBTS: usize = 1024;

/// No backend takes longer to go: one that said goodbye and crashed is forgotten. (Frontends are until they are asked in vain,
/// because they may have sessions.)
const LONGEST_DEPARTURE: Duration = Duration::from_secs(2 * 3600);

/// Servers that are leaving or have left.
pub(super) struct Departing {
    servers: Mutex<HashMap<ServerId, Server>>,
    /// Frontends to be asked; each time that one leaves the list without a word it comes here once.
    doubts: mpsc::Sender<Doubt>,
}

struct Server {
    info: Arc<ServerInfo>,
    since: Instant,
    state: State,
    /// Ends the question to a doubted one when dropped.
    asking: Option<oneshot::Sender<()>>,
}

/// A frontend to be asked whether it serves, until that is no question any more.
pub(super) struct Doubt {
    frontend: Arc<ServerInfo>,
    over: oneshot::Receiver<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It said goodbye or answered after it had left the list: it serves what it has.
    Serves,
    /// It left the list without a word and is being asked. Nobody was told of it yet.
    Doubted,
    /// It counts as gone; but its word may still be on its way.
    Gone,
}

impl Departing {
    /// The table, and the frontends that [`ask_doubted`] is to ask.
    pub(super) fn new() -> (Self, mpsc::Receiver<Doubt>) {
        let (doubts, asked) = mpsc::channel(DOUBTS);
        let servers = Mutex::default();
        (Self { servers, doubts }, asked)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state before, if there was one.
    fn set(&self, info: &Arc<ServerInfo>, state: State) -> Option<State> {
        self.insert(info, state, None)
    }

    fn insert(
        &self,
        info: &Arc<ServerInfo>,
        state: State,
        asking: Option<oneshot::Sender<()>>,
    ) -> Option<State> {
        let mut servers = self.lock();
        servers.retain(|_, one| one.state != State::Gone || one.since.elapsed() < LATEST_RETURN);
        if servers.len() >= RETURNS {
            let gone = servers.iter().filter(|(_, one)| one.state == State::Gone);
            let oldest = gone.min_by_key(|(_, one)| one.since);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                servers.remove(&oldest);
            }
        }
        let one = Server {
            info: Arc::clone(info),
            since: Instant::now(),
            state,
            asking,
        };
        let before = servers.insert(info.id.clone(), one);
        before.map(|one| one.state)
    }

    /// False if too many wait to be asked.
    fn doubt(&self, frontend: Arc<ServerInfo>) -> bool {
        let (asking, over) = oneshot::channel();
        self.insert(&frontend, State::Doubted, Some(asking));
        let sent = self.doubts.try_send(Doubt { frontend, over });
        // Closed: this server leaves, and asks nobody any more.
        !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Those that may have clients: also one that left without a word and is being asked. If it has none it says so.
    fn may_serve(&self) -> Vec<Arc<ServerInfo>> {
        let servers = self.lock();
        let serving = servers.values().filter(|one| one.state != State::Gone);
        serving.map(|one| Arc::clone(&one.info)).collect()
    }

    fn state(&self, server: &ServerId) -> Option<State> {
        self.lock().get(server).map(|one| one.state)
    }

    /// Takes a server out if it is in this state.
    fn take(&self, server: &ServerId, state: State) -> Option<Server> {
        let mut servers = self.lock();
        if servers.get(server)?.state == state {
            servers.remove(server)
        } else {
            None
        }
    }
}

/// Asks frontends that left the list without a word whether they serve, for ever.
pub(super) async fn ask_doubted(core: Arc<Core>, mut doubts: mpsc::Receiver<Doubt>) {
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            doubt = doubts.recv(), if asked.len() < DOUBTS => match doubt {
                Some(doubt) => asked.push(settle(&core, doubt)),
                None => return,
            },
            Some(()) = asked.next(), if !asked.is_empty() => {}
        }
    }
}

async fn settle(core: &Arc<Core>, mut doubt: Doubt) {
    tokio::select! {
        serves = serves(core, &doubt.frontend) => core.doubt_is_settled(&doubt.frontend, serves),
        _ = &mut doubt.over => {}
    }
}

async fn serves(core: &Arc<Core>, frontend: &ServerInfo) -> bool {
    let end = Instant::now() + LATEST_GOODBYE;
    loop {
        // It has no user of this name, and can answer nevertheless.
        match ops::ask_owner(core, frontend, OpKind::Probe, "", (0, 0), SILENCE).await {
            Ok(answer) => return answer.is_some(),
            Err(error) if error.kind() == RemoteErrorKind::NoResponder => return false,
            // The own link is down, which says nothing of others.
            Err(_) if Instant::now() < end => tokio::time::sleep(ASK_AGAIN).await,
            Err(_) => return false,
        }
    }
}

impl Core {
    /// A frontend that is listed, or has left the list and may still serve its clients.
    pub(super) fn frontend(&self, id: &ServerId) -> Result<Arc<ServerInfo>, RemoteError> {
        let unlisted = || {
            let servers = self.departing.lock();
            let one = servers.get(id).filter(|one| one.state != State::Gone)?;
            Some(Arc::clone(&one.info))
        };
        self.members
            .server(id.as_str())
            .or_else(unlisted)
            .ok_or_else(RemoteError::server_not_found)
    }

    /// All frontends that may have clients.
    pub(super) fn frontends(&self) -> Vec<Arc<ServerInfo>> {
        let mut all = self.members.frontends();
        all.extend(self.departing().into_iter().filter(|f| f.frontend));
        all
    }

    /// Servers that have left the list and are not gone yet.
    pub(super) fn departing(&self) -> Vec<Arc<ServerInfo>> {
        let mut serving = self.departing.may_serve();
        serving.retain(|info| self.members.server(info.id.as_str()).is_none());
        serving
    }

    /// A server said what becomes of it.
    pub(super) fn goodbye(&self, server: &ServerId, gone: bool) {
        if gone {
            if self.departing.take(server, State::Serves).is_some() {
                self.forget(server);
                self.read_interests();
            }
            return;
        }
        let unlisted = || {
            let servers = self.departing.lock();
            servers.get(server).map(|one| Arc::clone(&one.info))
        };
        let listed = self.members.server(server.as_str());
        if let Some(info) = listed.or_else(unlisted)
            && self.departing.set(&info, State::Serves) == Some(State::Doubted)
        {
            // What was not told as long as it was in doubt.
            self.tell(MemberChange::Left(info));
        }
        self.forget_old_departures();
    }

    fn forget_old_departures(&self) {
        let is_old = |one: &Server| !one.info.frontend && one.since.elapsed() > LONGEST_DEPARTURE;
        let old: Vec<_> = {
            let mut servers = self.departing.lock();
            servers.extract_if(|_, one| is_old(one)).collect()
        };
        for (id, _) in old {
            self.forget(&id);
        }
    }

    /// Nobody listens at a server that was called: if it had left the list, it is gone now.
    pub(super) fn not_there(&self, server: &ServerId) {
        if let Some(departed) = self.departing.take(server, State::Serves) {
            self.forget(server);
            self.read_interests();
            self.frontend_lost(&departed.info);
        }
    }

    fn frontend_lost(&self, server: &Arc<ServerInfo>) {
        let event = SessionEvent::FrontendLost(Arc::clone(server));
        let interest = &self.options.session_events;
        if server.frontend && interest.wants_event(&server.server_type, &event) {
            guarded("session_event", || {
                self.node.session_event(&server.server_type, event);
            });
        }
    }

    fn tell(&self, change: MemberChange) {
        guarded("member_changed", || self.node.member_changed(change));
    }

    /// The list has changed.
    pub(super) fn member_changed(self: &Arc<Self>, change: MemberChange) {
        if !self.has_entered() {
            return;
        }
        self.check_user_subjects();
        // Before the node is told of the change: from then on its events reach who asks for them.
        self.read_interests();
        if matches!(&change, MemberChange::Joined(info) if info.frontend) {
            // It has promised nothing.
            self.directory.end_leases();
        }
        match change {
            MemberChange::Joined(info) => self.joined(info),
            MemberChange::Left(info) => self.left(info),
            // The list does not say so; it is found out here.
            MemberChange::Returned(_) => {}
        }
    }

    fn joined(&self, info: Arc<ServerInfo>) {
        if let Some(doubted) = self.departing.take(&info.id, State::Doubted) {
            if doubted.info == info {
                // The same life of it, back in the list: nobody has missed it.
                return;
            }
            self.gone(doubted.info);
        }
        // A new life of a server that was leaving, or the same one that was away for too long.
        let before = self.departing.lock().remove(&info.id);
        // The start number of a frontend is part of what it says of itself, so this is the same life.
        let same = |one: Server| one.state == State::Gone && one.info == info;
        let returned = info.frontend && before.is_some_and(same);
        self.forget(&info.id);
        self.tell(MemberChange::Joined(Arc::clone(&info)));
        if returned {
            tracing::warn!(server = %info.id, "a server is back that counted as gone");
            self.tell(MemberChange::Returned(info));
        }
    }

    fn left(&self, info: Arc<ServerInfo>) {
        if self.departing.state(&info.id) == Some(State::Serves) {
            self.tell(MemberChange::Left(info));
            return;
        }
        let is_asked =
            info.frontend && is_shaddock(&info) && self.departing.doubt(Arc::clone(&info));
        if !is_asked {
            self.gone(info);
        }
    }

    /// A frontend was asked whether it serves.
    fn doubt_is_settled(&self, frontend: &Arc<ServerInfo>, serves: bool) {
        {
            let mut table = self.departing.lock();
            let this = table.get_mut(&frontend.id);
            let this =
                this.filter(|one| one.state == State::Doubted && Arc::ptr_eq(&one.info, frontend));
            // It may have said goodbye meanwhile, or be listed again.
            let Some(one) = this else { return };
            one.state = if serves { State::Serves } else { State::Gone };
            one.asking = None;
        }
        if serves {
            self.tell(MemberChange::Left(Arc::clone(frontend)));
        } else {
            self.gone(Arc::clone(frontend));
        }
    }

    /// A server has left the list and serves no more, as far as is known.
    fn gone(&self, info: Arc<ServerInfo>) {
        self.departing.set(&info, State::Gone);
        self.forget(&info.id);
        self.frontend_lost(&info);
        self.tell(MemberChange::Left(info));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broadcast goes to everybody who may have clients, so also to one whose goodbye is late.
    #[test]
    fn a_server_may_serve_until_it_is_known_to_be_gone() {
        let (departing, _doubts) = Departing::new();
        let front = Arc::new(ServerInfo::new("front-1", "connector", true).unwrap());
        let serving = || departing.may_serve().len();
        assert!(departing.doubt(Arc::clone(&front)));
        assert_eq!(serving(), 1, "it is being asked");
        assert!(departing.set(&front, State::Serves) == Some(State::Doubted));
        assert_eq!(serving(), 1);
        departing.set(&front, State::Gone);
        assert_eq!(serving(), 0);
    }
}
