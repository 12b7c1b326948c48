//! One question to many servers over the cluster: a bound on how many are asked at once, one deadline for all.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use shaddock_cluster::{
    Context, Membership, RemoteCall, RemoteError, RemoteErrorKind, ServerInfo, SessionAnswer,
    SessionOp, code,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::KickRequest;
use super::{OPERATE, OPS, Unanswered, WhyUnanswered, ask::Ask};

type Answer = Result<Bytes, RemoteError>;

/// What is asked, and until when.
#[derive(Clone)]
pub(crate) struct Question {
    membership: Arc<dyn Membership>,
    body: Bytes,
    /// The user that is kicked: the one thing that a Pitaya frontend can do for an operator.
    kicked: Option<Arc<str>>,
    until: Instant,
}

impl Question {
    pub(crate) fn new(membership: &Arc<dyn Membership>, ask: &Ask, until: Instant) -> Self {
        let kicked = match ask {
            Ask::Kick(KickRequest { uid: Some(uid), .. }) => Some(Arc::from(uid.as_str())),
            _ => None,
        };
        Self {
            membership: Arc::clone(membership),
            // Texts and numbers always have a JSON form.
            body: serde_json::to_vec(ask).map(Bytes::from).unwrap_or_default(),
            kicked,
            until,
        }
    }

    /// Asks these servers, `at_once` of them at a time, and puts the answers into their places.
    pub(crate) async fn put_to(
        &self,
        servers: Vec<(usize, Arc<ServerInfo>)>,
        at_once: usize,
        answers: &mut [Option<Answer>],
    ) {
        let places = Arc::new(Semaphore::new(at_once.max(1)));
        let mut calls = JoinSet::new();
        for (n, server) in servers {
            let (question, places) = (self.clone(), Arc::clone(&places));
            calls.spawn(async move {
                let until = question.until;
                let asked = async {
                    // The semaphore is never closed.
                    let _place = places.acquire().await;
                    question.put(&server).await
                };
                let answer = timeout_at(until, asked).await;
                (n, answer.unwrap_or_else(|_| Err(silent())))
            });
        }
        while let Some(done) = calls.join_next().await {
            if let Ok((n, answer)) = done
                && let Some(place) = answers.get_mut(n)
            {
                *place = Some(answer);
            }
        }
    }

    async fn put(&self, server: &ServerInfo) -> Answer {
        let left = self.until.saturating_duration_since(Instant::now());
        let context = Context::with_timeout(left);
        if server.can(OPS) {
            let call = RemoteCall {
                route: format!("{}.{OPERATE}", server.server_type).into(),
                body: self.body.clone(),
                from: None,
                context,
            };
            return self.membership.call(server, call).await;
        }
        let Some(uid) = self.kicked.clone() else {
            return Err(unable(server));
        };
        let kick = SessionOp::KickUser { uid, reason: None };
        match self.membership.session_op(&server.id, kick, context).await {
            Ok(SessionAnswer::Kicked(n)) => Ok(kicked(n)),
            Ok(_) => Ok(kicked(0)),
            // That is how a Pitaya frontend says that the user is not there.
            Err(error) if error.message().contains("session not found") => Ok(kicked(0)),
            Err(error) => Err(error),
        }
    }
}

fn kicked(n: u32) -> Bytes {
    format!(r#"{{"kicked":{n}}}"#).into()
}

fn silent() -> RemoteError {
    let text = "it did not reply in time";
    RemoteError::of(RemoteErrorKind::Timeout, code::TIMEOUT, text)
}

fn unable(server: &ServerInfo) -> RemoteError {
    let text = if server.flags().next().is_none() {
        "it is a Pitaya server, which does not support this query"
    } else {
        "its version of shaddock does not support this query"
    };
    RemoteError::of(RemoteErrorKind::Refused, code::NOT_FOUND, text)
}

/// Reads an answer; `None` is none.
pub(crate) fn read<T: DeserializeOwned>(answer: Option<Answer>) -> Result<T, RemoteError> {
    let answer = answer.unwrap_or_else(|| Err(silent()))?;
    serde_json::from_slice(&answer).map_err(|error| {
        let text = format!("its reply is malformed: {error}");
        RemoteError::of(RemoteErrorKind::BadAnswer, code::UNKNOWN, text)
    })
}

/// Why a server did not say what it was asked.
pub(crate) fn unanswered(server: &str, error: &RemoteError) -> Unanswered {
    let (why, reason) = match error.kind() {
        RemoteErrorKind::NoResponder | RemoteErrorKind::NoServer => (
            WhyUnanswered::Gone,
            "it has just ended, and is in the list until its lease ends".to_owned(),
        ),
        RemoteErrorKind::Timeout => (WhyUnanswered::Silent, "it did not reply in time".to_owned()),
        RemoteErrorKind::Refused => (WhyUnanswered::Unable, error.message().to_owned()),
        RemoteErrorKind::Remote if error.code() == code::NOT_FOUND => (
            WhyUnanswered::Unable,
            "it does not support this operation".to_owned(),
        ),
        _ => (WhyUnanswered::Failed, error.message().to_owned()),
    };
    Unanswered {
        server: server.to_owned(),
        why,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use RemoteErrorKind as Kind;

    use super::*;

    #[test]
    fn a_failure_distinguishes_servers_that_may_have_sessions() {
        let why =
            |kind, code: &'static str| unanswered("s", &RemoteError::of(kind, code, "text")).why;
        assert_eq!(why(Kind::NoResponder, ""), WhyUnanswered::Gone);
        assert_eq!(why(Kind::Timeout, "PIT-408"), WhyUnanswered::Silent);
        assert_eq!(why(Kind::Remote, "PIT-404"), WhyUnanswered::Unable);
        assert_eq!(why(Kind::Remote, "PIT-500"), WhyUnanswered::Failed);
        assert_eq!(why(Kind::LinkLost, "PIT-503"), WhyUnanswered::Failed);
        let mut server = ServerInfo::new("s", "room", false).unwrap();
        let pitaya = unanswered("s", &unable(&server));
        assert_eq!(pitaya.why, WhyUnanswered::Unable);
        assert!(pitaya.reason.contains("Pitaya"));
        server.announce("direct");
        assert!(!unable(&server).message().contains("Pitaya"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_named() {
        let error = read::<u32>(Some(Ok(Bytes::from_static(b"{")))).unwrap_err();
        assert_eq!(error.kind(), RemoteErrorKind::BadAnswer);
        assert_eq!(
            read::<u32>(None).unwrap_err().kind(),
            RemoteErrorKind::Timeout
        );
    }
}
