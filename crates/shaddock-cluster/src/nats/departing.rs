//! Carries out what is decided about servers that leave the list ([`Departures`]): tells the node, asks those that left without a word.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::core::Core;
use super::wire::OpKind;
use super::{events, ops};
use crate::clock;
use crate::owners::{Departures, News};
use crate::reply::guarded;
use crate::{MemberChange, RemoteError, RemoteErrorKind, ServerId, ServerInfo, SessionEvent};

/// How long a goodbye may come after its server has left the list.
const LATEST_GOODBYE: Duration = Duration::from_secs(10);

/// How long a frontend that left without a word may take to answer. One that is silent for so long is cut off, or this server is.
const SILENCE: Duration = Duration::from_secs(3);

/// Time between questions while the own link is down.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// So many frontends wait to be asked, and so many are asked at the same time. More than that at once count as gone without a question.
const MAX_SUSPECTS: usize = 1024;

/// Servers that are leaving or have left.
pub(super) struct Departing {
    table: Mutex<Departures>,
    /// Frontends to be asked.
    suspects: mpsc::Sender<Suspect>,
    /// Questions that are being asked; each ends when its value here is dropped.
    asked: Mutex<HashMap<u64, (ServerId, oneshot::Sender<()>)>>,
}

/// A frontend to be asked whether it serves, the number of the question, and the end of it.
pub(super) struct Suspect(Arc<ServerInfo>, u64, oneshot::Receiver<()>);

impl Departing {
    /// The table, and the frontends that [`probe_departed`] is to ask.
    pub(super) fn new() -> (Self, mpsc::Receiver<Suspect>) {
        let (suspects, asked) = mpsc::channel(MAX_SUSPECTS);
        let departing = Self {
            table: Mutex::default(),
            suspects,
            asked: Mutex::default(),
        };
        (departing, asked)
    }

    /// Hands in a question. False if too many wait to be asked.
    fn ask(&self, frontend: Arc<ServerInfo>, question: u64) -> bool {
        let (end, ended) = oneshot::channel();
        let asked = (frontend.id.clone(), end);
        self.questions().insert(question, asked);
        let sent = self.suspects.try_send(Suspect(frontend, question, ended));
        // Closed: this server leaves, and sends no further questions.
        !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Ends the questions that are none any more.
    fn end_questions(&self) {
        let table = self.lock();
        self.questions()
            .retain(|question, (server, _)| table.is_asked(server, *question));
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<u64, (ServerId, oneshot::Sender<()>)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Departures> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks frontends that left the list without a word whether they serve, for ever.
pub(super) async fn probe_departed(core: Arc<Core>, mut suspects: mpsc::Receiver<Suspect>) {
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            suspect = suspects.recv(), if asked.len() < MAX_SUSPECTS => match suspect {
                Some(suspect) => asked.push(settle(&core, suspect)),
                None => return,
            },
            Some(()) = asked.next(), if !asked.is_empty() => {}
        }
    }
}

async fn settle(core: &Arc<Core>, Suspect(frontend, question, ended): Suspect) {
    tokio::select! {
        serves = serves(core, &frontend) => core.answered(&frontend.id, question, serves),
        _ = ended => {}
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
        self.members
            .server(id.as_str())
            .or_else(|| self.departing.lock().serving(id))
            .ok_or_else(RemoteError::server_not_found)
    }

    /// Whether this server has left the list and still serves what it has.
    fn is_withdrawn(&self) -> bool {
        let is_over = self.options.hidden || self.left.load(Ordering::Acquire);
        !self.lease.is_wanted() && !is_over
    }

    /// All frontends that may have clients.
    pub(super) fn frontends(&self) -> Vec<Arc<ServerInfo>> {
        let mut all = self.members.frontends();
        all.extend(self.departing().into_iter().filter(|f| f.frontend));
        all
    }

    /// Servers that have left the list and are not gone yet.
    pub(super) fn departing(&self) -> Vec<Arc<ServerInfo>> {
        let mut serving = self.departing.lock().may_serve();
        serving.retain(|info| self.members.server(info.id.as_str()).is_none());
        serving
    }

    /// A server said what becomes of it, and with what it was listed.
    pub(super) fn goodbye(&self, server: &ServerId, told: Option<Arc<ServerInfo>>, gone: bool) {
        let listed = self.members.server(server.as_str());
        let now = clock::now();
        let mut table = self.departing.lock();
        let is_told = told.as_ref().is_some_and(|info| info.frontend);
        let news = table.goodbye(server, listed, told, gone, now);
        drop(table);
        if is_told {
            // As one that joins: it has promised nothing.
            self.directory.end_leases();
        }
        if gone && !news.is_empty() {
            self.read_interests();
        }
        self.execute(news);
    }

    /// A called server has no subscriber: if it had left the list, it is gone now.
    pub(super) fn not_there(&self, server: &ServerId) {
        let news = self.departing.lock().not_there(server, clock::now());
        if !news.is_empty() {
            self.read_interests();
            self.execute(news);
        }
    }

    /// A frontend was asked whether it serves.
    fn answered(&self, frontend: &ServerId, question: u64, serves: bool) {
        let now = clock::now();
        let mut table = self.departing.lock();
        let news = table.answered(frontend, question, serves, now);
        drop(table);
        self.execute(news);
    }

    fn execute(&self, news: Vec<News>) {
        for one in news {
            match one {
                News::Joined(info) => self.notify(MemberChange::Joined(info)),
                News::Returned(info) => {
                    tracing::warn!(server = %info.id, "a server returned that was considered gone");
                    self.notify(MemberChange::Returned(info));
                }
                News::Left(info) => self.notify(MemberChange::Left(info)),
                News::Lost(info) => self.frontend_lost(&info),
                News::Forget(server) => self.forget(&server),
                News::Ask(info, question) => {
                    let id = info.id.clone();
                    if !self.departing.ask(info, question) {
                        self.answered(&id, question, false);
                    }
                }
            }
        }
        self.departing.end_questions();
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

    fn notify(&self, change: MemberChange) {
        guarded("member_changed", || self.node.member_changed(change));
    }

    /// The list has changed.
    pub(super) fn member_changed(self: &Arc<Self>, change: MemberChange) {
        if !self.has_entered() {
            return;
        }
        self.check_user_subjects();
        // Before the node is notified of the change: from then on its events reach the subscribers.
        self.read_interests();
        if matches!(&change, MemberChange::Joined(info) if info.frontend) {
            // It has promised nothing.
            self.directory.end_leases();
        }
        if matches!(change, MemberChange::Joined(_)) && self.is_withdrawn() {
            // It has not heard the goodbye, and sends nothing to a server that it does not know.
            events::say_goodbye(self, false);
        }
        let now = clock::now();
        let news = match change {
            MemberChange::Joined(info) => self.departing.lock().listed(info, now),
            MemberChange::Left(info) => {
                let can_be_asked = info.is_shaddock();
                let mut table = self.departing.lock();
                table.unlisted(info, can_be_asked, now)
            }
            // The list does not say so; it is found out here.
            MemberChange::Returned(_) => return,
        };
        self.execute(news);
    }
}
