//! The frontend's part of channels and topics: its members, and the servers that are notified of changes.

use std::{sync::Arc, time::Duration};

use shaddock_cluster::{
    AudienceKey, AudiencePart, BoxFuture, Departure, JoinAnswer, MemberNotice, RawSid, RemoteError,
    ServerId, ServerInfo, SessionAnswer, SessionOp, Tie,
};
use shaddock_core::{AudienceChange, Departure as CoreDeparture, SessionService, Sid, Uid};

use super::{gone::is_gone, watchers::Watcher};
use crate::{app::AppHandle, session::SessionError};

/// Key of a server's metadata: a number that no other life of it has. Its channels are those of this life.
pub(crate) const LIFE: &str = "shaddock.life";

/// How long the channels of a server that has left the list live on at least: it may only have been cut off, or finish what it has.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// Bytes of uids and keys in one answer. What is longer comes in several, or is counted and not named.
const MOST_NAMED: usize = 256 * 1024;

/// The audiences of a frontend: what other servers ask of them, and their notices.
#[derive(Clone, Copy)]
pub(crate) struct Audiences<'a> {
    app: &'a AppHandle,
}

impl<'a> Audiences<'a> {
    pub(crate) const fn of(app: &'a AppHandle) -> Self {
        Self { app }
    }

    /// Does what another server asks of an audience of this frontend.
    pub(crate) fn serve(
        self,
        service: &SessionService,
        op: SessionOp,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let answer = match op {
            SessionOp::Join { audience, uid, sid } => {
                if let Some(topic) = audience.as_topic() {
                    return self.join_topic(topic.to_owned(), audience, uid, sid);
                }
                self.join_now(service, &audience, uid, sid, None)
            }
            SessionOp::Leave {
                audience,
                is_prefix,
                uid,
            } => Uid::new(uid)
                .map(|uid| {
                    let left = if is_prefix {
                        let keys = service.audiences_of(uid.as_str());
                        let selected = keys.iter().filter(|key| key.starts_with(&*audience));
                        selected.filter(|key| service.leave(key, &uid)).count()
                    } else {
                        usize::from(service.leave(&audience, &uid))
                    };
                    SessionAnswer::Count(left as u64)
                })
                .map_err(|error| SessionError::from(error).into()),
            SessionOp::EndAudience { audience } => {
                let ended = service.end_audience(audience.as_str());
                Ok(SessionAnswer::Count(ended as u64))
            }
            SessionOp::Audience {
                audience,
                named,
                only,
            } => Ok(audience_answer(service, &audience, named, only)),
            SessionOp::Audiences {
                prefixes,
                after,
                named,
                watcher,
            } => Ok(self.audiences_answer(service, &prefixes, &after, named, watcher.as_ref())),
            SessionOp::NextNotice { watcher } => {
                Ok(SessionAnswer::Count(self.app.watchers().next(&watcher)))
            }
            _ => Err(RemoteError::new(
                shaddock_cluster::code::NOT_FOUND,
                "this frontend does not support the operation",
            )),
        };
        Box::pin(std::future::ready(answer))
    }

    /// The first member of a topic waits until pushes to it come here, and is let in then.
    fn join_topic(
        self,
        topic: String,
        audience: AudienceKey,
        uid: Arc<str>,
        sid: Option<RawSid>,
    ) -> BoxFuture<'static, Result<SessionAnswer, RemoteError>> {
        let app = self.app.clone();
        Box::pin(async move {
            let tie = app.membership()?.hold_topic(&topic).await?;
            let Some(service) = app.session_service() else {
                return Err(SessionError::NoFrontend.into());
            };
            Audiences::of(&app).join_now(service, &audience, uid, sid, Some(&tie))
        })
    }

    fn join_now(
        self,
        service: &SessionService,
        audience: &AudienceKey,
        uid: Arc<str>,
        sid: Option<RawSid>,
        tie: Option<&Tie>,
    ) -> Result<SessionAnswer, RemoteError> {
        if self.app.is_fenced() {
            let why = "the frontend is disconnected from the cluster; try again";
            return Ok(SessionAnswer::Joined(JoinAnswer::Refused(why.into())));
        }
        let uid = Uid::new(uid).map_err(SessionError::from)?;
        let sid = match sid.map(|sid| Sid::new(sid.get())) {
            Some(None) => return Ok(SessionAnswer::Joined(JoinAnswer::Closed)),
            sid => sid.flatten(),
        };
        let joined = service.join(Arc::clone(audience.shared()), &uid, sid, tie);
        Ok(SessionAnswer::Joined(match joined {
            Ok(true) => JoinAnswer::Joined,
            Ok(false) => JoinAnswer::Already,
            Err(shaddock_core::NotJoined::Closed) => JoinAnswer::Closed,
            Err(shaddock_core::NotJoined::NotBound) => JoinAnswer::NotBound,
            Err(other) => JoinAnswer::Refused(other.to_string().into()),
        }))
    }

    fn audiences_answer(
        self,
        service: &SessionService,
        prefixes: &[String],
        after: &str,
        named: bool,
        watcher: Option<&ServerId>,
    ) -> SessionAnswer {
        // First: what changes while the list is made is told too.
        let notices = watcher.map_or(0, |watcher| {
            self.app.watchers().put(watcher, prefixes, service)
        });
        let is_wanted = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let mut keys = service.audiences(|key| is_wanted(key) && key > after);
        keys.sort_unstable();
        let (mut parts, mut size) = (Vec::new(), 0);
        let mut keys = keys.into_iter().peekable();
        while size < MOST_NAMED
            && let Some(key) = keys.next()
        {
            let part = part(service, key, named);
            size += part.audience.len() + part.uids.iter().map(|uid| uid.len() + 3).sum::<usize>();
            parts.push(part);
        }
        SessionAnswer::Audiences {
            parts,
            more: keys.peek().is_some(),
            notices,
        }
    }

    pub(crate) fn changed(self, change: &AudienceChange) {
        let Some(audience) = AudienceKey::parse(&change.audience) else {
            return;
        };
        let told: Vec<(ServerId, u64)> = {
            let mut watchers = self.app.watchers().lock();
            let wanting = watchers.iter_mut().filter(|(_, watcher)| {
                let mut prefixes = watcher.prefixes.iter();
                prefixes.any(|prefix| change.audience.starts_with(prefix))
            });
            let number = |(id, watcher): (&ServerId, &mut Watcher)| {
                watcher.number += 1;
                (id.clone(), watcher.number)
            };
            wanting.map(number).collect()
        };
        let Ok(membership) = self.app.membership() else {
            return;
        };
        for (watcher, number) in told {
            let notice = MemberNotice {
                frontend: self.app.info().id.clone(),
                number,
                audience: audience.clone(),
                uid: Arc::clone(change.uid.shared()),
                departure: change.departure.map(departure),
            };
            if let Err(error) = membership.notify_member(&watcher, notice) {
                // The number that is missing tells it to ask, also if it counted as gone and was forgotten here.
                if is_gone(&error)
                    && let Some(service) = self.app.session_service()
                {
                    self.app.watchers().remove(&watcher, service);
                }
                tracing::debug!(%watcher, %error, "a server was not notified of members of a channel or topic");
            }
        }
    }

    /// Changes are lost: a number that no watcher is sent makes them ask.
    pub(crate) fn changes_lost(self) {
        for watcher in self.app.watchers().lock().values_mut() {
            watcher.number += 1;
        }
    }

    /// A server has left: it is told nothing more, and if it does not come back, its channels end here.
    pub(crate) fn forget_owner(self, server: &Arc<ServerInfo>) {
        let Some(service) = self.app.session_service() else {
            return;
        };
        self.app.watchers().remove(&server.id, service);
        let Some(life) = life_of(server) else { return };
        let channels = AudienceKey::channels(server.id.as_str(), life);
        // One that drains still lets members in.
        let has_members = !service
            .audiences(|key| key.starts_with(&channels))
            .is_empty();
        if !has_members && !self.is_departing_life(&server.id, life) {
            return;
        }
        let (app, server) = (self.app.clone(), Arc::clone(server));
        let spawned = self
            .app
            .spawn("channels of a server that left", async move {
                tokio::time::sleep(GRACE).await;
                // One that drains may take long, and has its channels until it is gone.
                while Audiences::of(&app).is_departing_life(&server.id, life) {
                    tokio::time::sleep(GRACE).await;
                }
                Audiences::of(&app).end_channels_of(&server, life);
            });
        if let Err(error) = spawned {
            tracing::debug!(%error, "the channels of a server that left end with their members");
        }
    }

    /// Whether this life of a server has left the list and still serves.
    fn is_departing_life(self, server: &ServerId, life: u64) -> bool {
        self.app.membership().is_ok_and(|membership| {
            let departing = membership.departing();
            let mut same = departing.iter().filter(|info| info.id == *server);
            same.any(|info| life_of(info) == Some(life))
        })
    }

    fn end_channels_of(self, server: &Arc<ServerInfo>, life: u64) {
        let is_back = self.app.membership().is_ok_and(|membership| {
            let listed = membership.members().server(server.id.as_str());
            listed.and_then(|info| life_of(&info)) == Some(life)
        });
        let Some(service) = self.app.session_service().filter(|_| !is_back) else {
            return;
        };
        let channels = AudienceKey::channels(server.id.as_str(), life);
        for key in service.audiences(|key| key.starts_with(&channels)) {
            service.end_audience(&key);
        }
    }
}

/// The life of a server, as it announces it.
fn life_of(server: &ServerInfo) -> Option<u64> {
    u64::from_str_radix(server.metadata.get(LIFE)?, 16).ok()
}

fn audience_answer(
    service: &SessionService,
    audience: &AudienceKey,
    named: bool,
    only: Option<Arc<str>>,
) -> SessionAnswer {
    let part = match only {
        None => part(service, Arc::clone(audience.shared()), named),
        Some(uid) => {
            let keys = service.audiences_of(&uid);
            let is_in = keys.iter().any(|key| **key == *audience.as_str());
            AudiencePart {
                audience: Arc::clone(audience.shared()),
                count: u64::from(is_in),
                uids: if is_in { vec![uid] } else { Vec::new() },
            }
        }
    };
    SessionAnswer::Audiences {
        parts: vec![part],
        more: false,
        notices: 0,
    }
}

fn part(service: &SessionService, audience: Arc<str>, named: bool) -> AudiencePart {
    if !named {
        return AudiencePart {
            count: service.audience_len(&audience) as u64,
            uids: Vec::new(),
            audience,
        };
    }
    let members = service.audience(&audience);
    let mut size = 0;
    let fits = |uid: &&Uid| {
        size += uid.as_str().len() + 3;
        size <= MOST_NAMED
    };
    AudiencePart {
        count: members.len() as u64,
        uids: (members
            .iter()
            .take_while(fits)
            .map(|uid| Arc::clone(uid.shared())))
        .collect(),
        audience,
    }
}

const fn departure(core: CoreDeparture) -> Departure {
    match core {
        CoreDeparture::Closed => Departure::Closed,
        CoreDeparture::Unbound => Departure::Unbound,
        CoreDeparture::Ended => Departure::Ended,
        _ => Departure::Left,
    }
}
