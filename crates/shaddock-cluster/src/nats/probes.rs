//! Probes: to servers that do not reply to calls ([`Health`](super::health::Health)), and to frontends that left the list without a goodbye
//! ([`Departing`](super::departing::Departing)).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::core::Core;
use super::departing::{MAX_SUSPECTS, Suspect};
use super::detector::Probed;
use super::health::probe_with;
use super::wire::OpKind;
use super::{questions, servers, subject};
use crate::{RemoteErrorKind, ServerId, ServerInfo};

/// How long a goodbye may come after its server has left the list.
const LATEST_GOODBYE: Duration = Duration::from_secs(10);
/// How long a frontend that left without a goodbye may take to reply. One that is silent for so long is cut off, or this server is.
const SILENCE: Duration = Duration::from_secs(3);
/// Time between probes while the own link is down.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Probes suspects, and servers whose calls take long, for ever.
pub(super) async fn probe_suspects(core: Arc<Core>) {
    let health = Arc::clone(&core.health);
    probe_with(
        &health,
        |server| probe(&core, server),
        |server| servers::is_absent(&core, server),
    )
    .await;
}

async fn probe(core: &Arc<Core>, server: ServerId) -> (ServerId, Probed) {
    // Calls may be on their way to a server that is in no list any more.
    let called = || core.calls.target_of(&server);
    let info = servers::frontend(core, &server).ok();
    let info = info.or_else(|| called().map(|target| Arc::clone(&target.info)));
    let Some(info) = info else {
        core.health.forget(&server, None);
        return (server, Probed::Silent);
    };
    let wait = core.config.push_timeout();
    let probed = if info.is_shaddock() {
        questions::probe(core, &info, wait).await
    } else {
        // A call of a remote that it does not have: it replies with an error.
        let subject = Subject::from(subject::server(&info.server_type, info.id.as_str()));
        match core
            .calls
            .ask(None, subject, questions::are_you_there(), wait)
        {
            Ok(asked) => asked.probed().await,
            Err(_) => Probed::Silent,
        }
    };
    (server, probed)
}

/// Asks frontends that left the list without a goodbye whether they still serve, for ever.
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

async fn settle(core: &Arc<Core>, suspect: Suspect) {
    let frontend = &suspect.frontend;
    tokio::select! {
        serves = serves(core, frontend) => servers::probed(core, &frontend.id, suspect.question, serves),
        _ = suspect.ended => {}
    }
}

async fn serves(core: &Arc<Core>, frontend: &ServerInfo) -> bool {
    let end = Instant::now() + LATEST_GOODBYE;
    loop {
        // It has no user of this name, and can answer nevertheless.
        match questions::ask_owner(core, frontend, OpKind::Probe, "", (0, 0), SILENCE).await {
            Ok(answer) => return answer.is_some(),
            Err(error) if error.kind() == RemoteErrorKind::NoResponder => return false,
            // The own link is down: that is no evidence about others.
            Err(_) if Instant::now() < end => tokio::time::sleep(ASK_AGAIN).await,
            Err(_) => return false,
        }
    }
}
