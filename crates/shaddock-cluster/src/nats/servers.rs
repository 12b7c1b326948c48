//! The servers of the cluster, as this one sees them: listed, leaving, gone. Carries out what [`Departures`](crate::owners::Departures) and the
//! [detector](super::detector) decide about them.

use std::sync::Arc;

use super::core::Core;
use crate::clock;
use crate::owners::News;
use crate::reply::guarded;
use crate::{MemberChange, RemoteError, ServerId, ServerInfo, SessionEvent};

/// A frontend that is listed, or has left the list and may still serve its clients.
pub(super) fn frontend(core: &Core, id: &ServerId) -> Result<Arc<ServerInfo>, RemoteError> {
    core.members
        .server(id.as_str())
        .or_else(|| core.departing.lock().serving(id))
        .ok_or_else(RemoteError::server_not_found)
}

/// All frontends that may have clients.
pub(super) fn frontends(core: &Core) -> Vec<Arc<ServerInfo>> {
    let mut all = core.members.frontends();
    all.extend(departing(core).into_iter().filter(|f| f.frontend));
    all
}

/// Servers that have left the list and are not gone yet.
pub(super) fn departing(core: &Core) -> Vec<Arc<ServerInfo>> {
    let mut serving = core.departing.lock().may_serve();
    serving.retain(|info| core.members.server(info.id.as_str()).is_none());
    serving
}

/// A server that is listed, or has left the list and is not gone yet.
pub(super) fn find(core: &Core, id: &str) -> Option<Arc<ServerInfo>> {
    let leaving = || departing(core).into_iter();
    let listed = core.members.server(id);
    listed.or_else(|| leaving().find(|info| info.id.as_str() == id))
}

/// A called server has no subscriber: if it has left the list, it is gone now.
pub(super) fn not_there(core: &Core, server: &ServerId) {
    let news = core.departing.lock().not_there(server, clock::now());
    if !news.is_empty() {
        read_interests(core);
        execute(core, news);
    }
}

/// A server has announced that it leaves or is gone. `entry` is its entry in the list, if it named it.
pub(super) fn goodbye(core: &Core, server: &ServerId, entry: Option<Arc<ServerInfo>>, gone: bool) {
    let listed = core.members.server(server.as_str());
    let now = clock::now();
    let mut table = core.departing.lock();
    let is_frontend = entry.as_ref().is_some_and(|info| info.frontend);
    let news = table.goodbye(server, listed, entry, gone, now);
    drop(table);
    if is_frontend {
        // As one that joins: it has promised nothing.
        core.directory.end_leases();
    }
    if gone && !news.is_empty() {
        read_interests(core);
    }
    execute(core, news);
}

/// A frontend was asked whether it serves.
pub(super) fn probed(core: &Core, frontend: &ServerId, question: u64, serves: bool) {
    let now = clock::now();
    let mut table = core.departing.lock();
    let news = table.answered(frontend, question, serves, now);
    drop(table);
    execute(core, news);
}

/// Carries out what was decided about servers that leave the list.
pub(super) fn execute(core: &Core, news: Vec<News>) {
    for one in news {
        match one {
            News::Joined(info) => notify(core, MemberChange::Joined(info)),
            News::Returned(info) => {
                tracing::warn!(server = %info.id, "a server returned that was considered gone");
                notify(core, MemberChange::Returned(info));
            }
            News::Left(info) => notify(core, MemberChange::Left(info)),
            News::Lost(info) => frontend_lost(core, &info),
            News::Forget(server) => forget(core, &server),
            News::Ask(info, question) => {
                let id = info.id.clone();
                if !core.departing.ask(info, question) {
                    probed(core, &id, question, false);
                }
            }
        }
    }
    core.departing.end_questions();
}

fn frontend_lost(core: &Core, server: &Arc<ServerInfo>) {
    let event = SessionEvent::FrontendLost(Arc::clone(server));
    let interest = &core.options.session_events;
    if server.frontend && interest.wants_event(&server.server_type, &event) {
        guarded("session_event", || {
            core.node.session_event(&server.server_type, event);
        });
    }
}

fn notify(core: &Core, change: MemberChange) {
    guarded("member_changed", || core.node.member_changed(change));
}

/// A server is gone, or a new incarnation of it has joined: forgets the calls and the health of the old one.
fn forget(core: &Core, server: &ServerId) {
    let listed = core.members.server(server.as_str());
    core.forget_target(server, listed.as_deref());
    let called = core.calls.target_of(server);
    let old = called.filter(|target| listed.as_ref() != Some(&target.info));
    core.health.forget(server, old.as_deref());
}

/// NATS has reported for a while that a server has no subscriber. If it has left the list too, no answers will come from it.
pub(super) fn is_absent(core: &Core, server: &ServerId) {
    not_there(core, server);
    let called = core.calls.target_of(server);
    // A Pitaya server that stops may answer after it has unsubscribed.
    let is_over = called.is_some_and(|target| target.is_ours);
    if is_over && core.members.server(server.as_str()).is_none() {
        let calls = core.calls.fail_calls_to(server);
        tracing::warn!(%server, calls, "a server has left without its answers: calls to it fail");
    }
}

/// The session events that are sent depend on the listed servers and on those that still serve.
pub(super) fn read_interests(core: &Core) {
    if core.info.frontend {
        core.interests.read(&core.info, || {
            let mut servers = core.members.all();
            servers.extend(departing(core));
            servers
        });
    }
}
