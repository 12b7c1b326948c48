//! Orders of operators at the server that has the sessions.

use std::sync::Arc;

use shaddock_cluster::{Receivers, RemoteError, code};
use shaddock_core::{CloseReason, Session, Sid, Uid};

use super::{
    aside::aside,
    filter::parse_sid,
    order::{Act, Find, Found, Obeyed, Order, Select},
};
use crate::{
    app::AppHandle,
    channel::{Content, Deliveries},
    session::{Binder, SessionError, SessionView, raw_sid},
};

/// After so many sessions others get their turn on the thread.
const AT_A_TIME: usize = 256;
/// Sessions that one frontend names in an answer: less than half of what NATS takes as one message.
const PAGE: usize = 20_000;

/// Executes the orders of operators at this server.
#[derive(Clone, Copy)]
pub(crate) struct Orders<'a> {
    app: &'a AppHandle,
}

impl<'a> Orders<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    async fn selected(self, select: Select) -> Result<(Vec<Arc<Session>>, usize), RemoteError> {
        let Some(service) = self.app.session_service().cloned() else {
            return Ok((Vec::new(), 0));
        };
        let found = aside(move || select.find(&service)).await?;
        found.map_err(|text| RemoteError::new(code::BAD_REQUEST, text))
    }

    /// Which sessions of this server are meant.
    pub(super) async fn find(self, find: Find) -> Result<Found, RemoteError> {
        let (found, total) = self.selected(find.select).await?;
        let after = find.after.as_deref().map(parse_sid).transpose();
        let after = after.map_err(|text| RemoteError::new(code::BAD_REQUEST, text))?;
        let sids = found.iter().filter(|_| find.list).map(|one| one.id());
        let (sids, more) = page(sids.collect(), after, PAGE);
        Ok(Found {
            matched: found.len() as u64,
            total: total as u64,
            sids: sids.iter().map(ToString::to_string).collect(),
            more,
        })
    }

    /// Does something to sessions of this server.
    pub(super) async fn obey(self, order: Order) -> Result<Obeyed, RemoteError> {
        let (sessions, _) = self.selected(order.select).await?;
        let mut done = Obeyed {
            matched: sessions.len() as u64,
            ..Obeyed::default()
        };
        if let Act::Push {
            route,
            body,
            latest,
        } = &order.act
        {
            let content = Content {
                route,
                value: body,
                latest: latest.as_deref(),
            };
            let message = content
                .message()
                .map_err(|error| RemoteError::new(code::BAD_REQUEST, error.to_string()))?;
            let sids = sessions.iter().map(|session| raw_sid(session.id()));
            let delivery = message.to(Receivers::Sids(sids.collect()));
            let app = self.app.clone();
            let delivered = aside(move || Deliveries::of(&app).deliver(delivery)).await?;
            done.done = delivered.queued as u64;
            done.failed = done.matched - done.done.min(done.matched);
            done.errors
                .extend(delivered.refused.map(|why| why.to_string()));
            return Ok(done);
        }
        for (number, session) in sessions.iter().enumerate() {
            if number % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
            match self.act_on(session, &order.act).await {
                Ok(has_changed) => done.done += u64::from(has_changed),
                Err(error) => done.failed(error),
            }
        }
        Ok(done)
    }

    /// Whether that changed something.
    async fn act_on(self, session: &Arc<Session>, act: &Act) -> Result<bool, String> {
        let view = || SessionView::of_session(self.app, session);
        let text = |error: SessionError| error.to_string();
        match act {
            Act::Kick { reason } => Ok(session.close(CloseReason::kicked(reason.as_str()))),
            Act::Set { values, remove } => session
                .change_settings(values.clone(), remove)
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Act::Bind { uid } => {
                let uid = Uid::new(uid.as_str()).map_err(|error| error.to_string())?;
                Binder::of(self.app)
                    .bind(session, uid)
                    .await
                    .map_err(text)?;
                Ok(true)
            }
            Act::Unbind => match session.uid() {
                Some(uid) => {
                    let unbound = session.unbind(&uid);
                    unbound.map_err(|error| error.to_string())?;
                    Ok(true)
                }
                None => Ok(false),
            },
            Act::Join { topic } => {
                let joined = self.app.topic(topic).join(&view()).await;
                Ok(joined.map_err(|error| error.to_string())?.is_new())
            }
            Act::Leave { topic } => {
                let left = self.app.topic(topic).quit(&view()).await;
                left.map_err(|error| error.message().to_owned())
            }
            Act::Push { .. } => Ok(false),
        }
    }
}

/// The first `most` above `after`, each once, in ascending order, and whether there are more.
fn page(mut sids: Vec<Sid>, after: Option<Sid>, most: usize) -> (Vec<Sid>, bool) {
    sids.retain(|sid| after.is_none_or(|after| *sid > after));
    sids.sort_unstable();
    sids.dedup();
    let more = sids.len() > most;
    sids.truncate(most);
    (sids, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_every_session_once() {
        let sid = |n: u64| n.to_string().parse::<Sid>().unwrap();
        let all: Vec<Sid> = [7, 3, 9, 3, 1, 8].map(sid).to_vec();
        for most in 1..8 {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let (some, more) = page(all.clone(), after, most);
                assert!(some.len() <= most);
                after = some.last().copied();
                listed.extend(some);
                if !more {
                    break;
                }
            }
            assert_eq!(listed, [1, 3, 7, 8, 9].map(sid), "{most}");
        }
    }
}
