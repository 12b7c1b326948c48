//! What operators see and do of a whole cluster: its servers, all their sessions, kicks everywhere, draining one server.
//!
//! Each server answers for itself. A question is a call from server to server, with the reserved route
//! `<type>.shaddock.operate` and JSON both ways; no client can reach it. Servers that understand it announce the flag `ops`, and
//! frontends announce the number of their start, which is part of each of their [`Sid`](crate::session::Sid)s, so that one message
//! finds a session. [`ClusterView`] asks all servers at the same time, within one deadline, and names those that did not answer.
//!
//! The admin server of any process has a view (`shaddock::admin`, with the feature `admin`). A tool outside of the cluster joins without being listed
//! ([`ClusterView::join`]) and has the same one.

mod address;
mod aside;
mod ask;
mod audience_name;
mod audiences;
mod events;
mod filter;
mod join;
mod kick;
mod merge;
mod order;
mod orders;
mod predicate;
mod question;
mod report;
mod serve;
mod session_info;
mod types;
mod view;
mod work;
mod workload;

use shaddock_cluster::ServerInfo;

pub(crate) use self::serve::Operator;
pub use self::{
    audience_name::AudienceName,
    audiences::{AudienceInfo, AudiencePage, AudienceQuery, Member, MemberPage, MemberQuery},
    events::{EventPage, EventQuery, SessionRecord},
    session_info::{KickReport, KickRequest, SessionInfo, SessionPage, SessionQuery},
    types::{
        DrainRequest, DrainStarted, DrainStatus, KickOutcome, ServerOverview, ServerState,
        ServerStatus, SessionOverview, Unanswered, WhyUnanswered,
    },
    view::{ClusterView, OperatorError, ViewConfig},
    work::{LoadReport, RouteWork, ServerLoad, ServerWork},
};
#[cfg(feature = "admin")]
pub(crate) use self::{
    filter::{Filter, parse_sid},
    kick::{Kick, KickTarget},
    order::{Act, Find, Found, Obeyed, Order, Select},
    predicate::Predicate,
    view::{Everywhere, MOST_FOUND},
};
pub use crate::{config::EffectiveKey, series::Series};

/// Handler and method of the reserved remote.
pub(crate) const OPERATE: &str = "shaddock.operate";
/// What a server announces that answers to it.
const OPS: &str = "ops";

/// Announces what a server of this framework answers to, and where it runs.
pub(crate) fn announce(info: &mut ServerInfo) {
    info.announce(OPS);
    if info.hostname.is_empty() {
        info.hostname = hostname();
    }
}

/// For people only; empty where the system does not tell.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    name.trim().to_owned()
}
