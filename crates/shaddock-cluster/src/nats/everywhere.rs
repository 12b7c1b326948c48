//! Operations on a user at all frontends.

use std::sync::Arc;

use async_nats::Subject;

use super::core::Core;
use super::wire::{self, KickMsg};
use super::{ops, servers, subject};
use crate::uid::is_plain;
use crate::{
    BoxFuture, Context, Located, RemoteError, RemoteErrorKind, ServerId, SessionAnswer, SessionOp,
    code,
};

/// Closes all sessions of a user on all frontends. Returns how many.
pub(super) fn kick_user(
    core: &Arc<Core>,
    uid: &Arc<str>,
    reason: Option<Arc<str>>,
) -> BoxFuture<'static, Result<u32, RemoteError>> {
    let kicks = ask_all(
        core,
        &SessionOp::KickUser {
            uid: Arc::clone(uid),
            reason,
        },
    );
    let kick = wire::encode(&KickMsg {
        user_id: uid.to_string(),
        not_for_shaddock: true,
    });
    for server_type in core.members.types() {
        if core.has_pitaya_frontend(&server_type) && is_plain(uid) {
            let subject = Subject::from(subject::kick(&server_type, uid));
            if let Err(error) = core.link.publish(subject, None, kick.clone()) {
                return Box::pin(std::future::ready(Err(error)));
            }
        }
    }
    Box::pin(async move {
        let (mut closed, mut silent) = (0, Silent::default());
        for (frontend, answer) in kicks.await {
            if let Some(SessionAnswer::Kicked(count)) = silent.unless(&frontend, answer) {
                closed += count;
            }
        }
        silent.result(closed, |error| error.with("closed", closed.to_string()))
    })
}

/// Finds the sessions of a user on all frontends.
pub(super) fn where_is(
    core: &Arc<Core>,
    uid: Arc<str>,
) -> BoxFuture<'static, Result<Vec<Located>, RemoteError>> {
    let asked = ask_all(
        core,
        &SessionOp::GetByUid {
            uid: Arc::clone(&uid),
        },
    );
    let core = Arc::clone(core);
    Box::pin(async move {
        let (mut places, mut silent) = (Vec::new(), Silent::default());
        for (frontend, answer) in asked.await {
            let Some(SessionAnswer::Sessions(sessions)) = silent.unless(&frontend, answer) else {
                continue;
            };
            let Some(frontend) = sessions
                .first()
                .and_then(|session| session.frontend.clone())
            else {
                continue;
            };
            let Ok(info) = servers::frontend(&core, &frontend) else {
                continue;
            };
            let sids = sessions.iter().filter_map(|session| session.sid).collect();
            places.push(Located {
                frontend,
                server_type: Arc::clone(&info.server_type),
                sids,
            });
        }
        places.extend(at_pitaya(&core, &uid).await?);
        silent.result(places, |error| error)
    })
}

/// Asks all shaddock frontends the same. Each answers for itself, and none is waited for as long as a request may take.
fn ask_all(
    core: &Arc<Core>,
    op: &SessionOp,
) -> impl Future<Output = Vec<(ServerId, Result<SessionAnswer, RemoteError>)>> + Send + use<> {
    let frontends = servers::frontends(core);
    let ours = frontends.iter().filter(|frontend| frontend.is_shaddock());
    let context = Context::with_timeout(core.config.push_timeout());
    let (ids, asked): (Vec<_>, Vec<_>) = ours
        .map(|frontend| {
            let answer = ops::send(core, frontend, op.clone(), &context);
            (frontend.id.clone(), answer)
        })
        .unzip();
    let answers = futures_util::future::join_all(asked);
    async move { ids.into_iter().zip(answers.await).collect() }
}

/// Frontends that did not answer a question to all of them.
#[derive(Default)]
struct Silent {
    ids: Vec<String>,
    first: Option<RemoteError>,
}

impl Silent {
    /// The answer of a frontend. One that is just dying has no sessions any more.
    fn unless<T>(&mut self, frontend: &ServerId, answer: Result<T, RemoteError>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) if error.kind() == RemoteErrorKind::NoResponder => None,
            Err(error) => {
                self.ids.push(frontend.to_string());
                self.first.get_or_insert(error);
                None
            }
        }
    }

    /// The replies of the others, or an error that names those that did not reply.
    fn result<T>(
        self,
        answers: T,
        say: impl FnOnce(RemoteError) -> RemoteError,
    ) -> Result<T, RemoteError> {
        match self.first {
            None => Ok(answers),
            Some(error) => Err(say(error.with("failed", self.ids.join(",")))),
        }
    }
}

/// Looks into the directory that Pitaya frontends may write, if there are any.
async fn at_pitaya(core: &Core, uid: &str) -> Result<Vec<Located>, RemoteError> {
    let mut places = Vec::new();
    for server_type in core.members.types() {
        if !core.has_pitaya_frontend(&server_type) || !is_plain(uid) {
            continue;
        }
        let found = core
            .etcd
            .get(&core.etcd.binding_key(&server_type, uid))
            .await;
        let found = found.map_err(|e| {
            RemoteError::of(
                RemoteErrorKind::Disconnected,
                code::UNAVAILABLE,
                e.to_string(),
            )
        })?;
        let owner = found
            .kvs
            .first()
            .map(|kv| String::from_utf8_lossy(&kv.value));
        let listed = owner
            .and_then(|owner| core.members.server(&owner))
            .filter(|info| !info.is_shaddock());
        if let Some(info) = listed {
            places.push(Located {
                frontend: info.id.clone(),
                server_type,
                sids: Vec::new(),
            });
        }
    }
    Ok(places)
}
