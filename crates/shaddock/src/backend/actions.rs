//! The actions of a backend's response: validated as a whole, then executed, all or none.
//!
//! There are two groups. Changes of the session come first: settings in one step, the bind, topics in order, the unbind. If one of them
//! fails (another server owns the user, the app's hook rejects the bind, the user has reached the limit of topics, the session was just
//! closed), the earlier changes are undone and the response has no effect. Pushes and kicks, which cannot be undone, follow in order. So a
//! push to the user or the topic reaches a session that the same response binds or adds to the topic.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value, value::RawValue};
use shaddock_cluster::AudienceKey;
use shaddock_core::{Session, Sid, Uid};

use super::{
    failure::{Failure, Fault},
    wire::{Action, KickJson, Object, PushJson},
};
use crate::{
    app::AppHandle,
    channel::{JoinError, Latest, check_latest},
    error::{HandlerError, codes},
    session::{Binder, SessionError, SessionView},
};

/// The most actions of one response.
const MOST_ACTIONS: usize = 1000;
/// The most users of one kick: they are kicked one after the other.
const MOST_KICKED: usize = 1000;
/// The most bytes of a route, as on the wire to clients.
const MOST_ROUTE: usize = 255;

/// The change of the session's user.
enum User {
    Stays,
    Bind(Uid),
    Unbind,
}

/// A join or leave of a topic.
enum Move {
    Join(String),
    Leave(String),
}

/// The receivers of a push.
enum To {
    Session,
    Users(Vec<Uid>),
    Topic {
        name: String,
        except: Option<String>,
    },
}

/// A push or a kick.
enum Send {
    Push {
        route: String,
        body: Box<RawValue>,
        latest: Option<String>,
        to: To,
    },
    Kick {
        reason: String,
        users: Option<Vec<Uid>>,
    },
}

/// Actions that are valid as far as can be checked in advance.
pub(super) struct Plan {
    user: User,
    changes: Map<String, Value>,
    removed: Vec<String>,
    moves: Vec<Move>,
    sends: Vec<Send>,
}

impl Plan {
    /// Validates every action.
    ///
    /// # Errors
    /// The index of the first invalid action, and the reason.
    pub(super) fn check(view: &SessionView, actions: Vec<Action>) -> Result<Self, Failure> {
        Self::checked(view, actions).map_err(|reason| Failure::broken(Fault::Action, reason))
    }

    fn checked(view: &SessionView, actions: Vec<Action>) -> Result<Self, String> {
        let mut plan = Self {
            user: User::Stays,
            changes: Map::new(),
            removed: Vec::new(),
            moves: Vec::new(),
            sends: Vec::new(),
        };
        if actions.len() > MOST_ACTIONS {
            let count = actions.len();
            return Err(format!(
                "it has {count} actions; at most {MOST_ACTIONS} are allowed, and none was executed"
            ));
        }
        for (number, action) in actions.into_iter().enumerate() {
            plan.add(view, action).map_err(|reason| {
                format!("its action {} {reason}; none was executed", number + 1)
            })?;
        }
        let is_bound = match plan.user {
            User::Stays => view.session().is_some_and(|one| one.uid().is_some()),
            User::Bind(_) => true,
            User::Unbind => false,
        };
        if !is_bound && plan.moves.iter().any(|one| matches!(one, Move::Join(_))) {
            return Err(
                "it joins a topic with a session that is not bound; `bind` it first, which the same response may do. None was executed"
                    .to_owned(),
            );
        }
        Ok(plan)
    }

    fn add(&mut self, view: &SessionView, action: Action) -> Result<(), String> {
        let bound = view.session().and_then(|session| session.uid());
        match action {
            Action::Bind(_) | Action::Unbind if !matches!(self.user, User::Stays) => {
                return Err("is a second `bind` or `unbind`; a response may contain one".to_owned());
            }
            Action::Bind(uid) => {
                let uid = uid_of(uid)?;
                if bound.is_some_and(|bound| bound != uid) {
                    return Err(
                        "binds a session that is bound to another user; `unbind` it in an earlier response"
                            .to_owned(),
                    );
                }
                self.user = User::Bind(uid);
            }
            Action::Unbind if bound.is_none() => {
                return Err("unbinds a session that is not bound".to_owned());
            }
            Action::Unbind => self.user = User::Unbind,
            Action::Set(values) => {
                self.removed.retain(|key| !values.contains_key(key));
                self.changes.extend(values);
            }
            Action::Remove(keys) => {
                for key in keys {
                    self.changes.remove(&key);
                    self.removed.push(key);
                }
            }
            Action::Join(topic) => self.moves.push(Move::Join(topic_of(topic)?)),
            Action::Leave(topic) => self.moves.push(Move::Leave(topic_of(topic)?)),
            Action::Push(Object(push)) => self.sends.push(push_of(push)?),
            Action::Kick(Object(KickJson { reason, users })) => {
                let users = users.map(uids_of).transpose()?;
                if let Some(count) = users
                    .as_ref()
                    .map(Vec::len)
                    .filter(|count| *count > MOST_KICKED)
                {
                    return Err(format!(
                        "kicks {count} users; one kick names at most {MOST_KICKED}"
                    ));
                }
                self.sends.push(Send::Kick { reason, users });
            }
        }
        Ok(())
    }

    /// Executes all actions. After an error the response has had no effect.
    pub(super) async fn execute(
        self,
        app: &AppHandle,
        view: &SessionView,
    ) -> Result<(), HandlerError> {
        let Some(session) = view.session() else {
            return Err(SessionError::NoFrontend.into());
        };
        let limit = app
            .session_service()
            .map(|service| service.config().max_memberships);
        check_count(&self.moves, limit.unwrap_or(usize::MAX))?;
        let old = Settings::change(session, self.changes, &self.removed)?;
        let done = change_user_and_topics(app, session, self.user, self.moves).await;
        if let Err(error) = done {
            old.put_back(session);
            return Err(error);
        }
        for send in self.sends {
            // A receiver that is not reached has gone: the client's request has not failed for that reason.
            if let Err(error) = deliver(app, view, send).await {
                shaddock_net::quiet!(
                    warn,
                    "an action of a backend failed",
                    sid = view.id().map(Sid::get),
                    error
                );
            }
        }
        Ok(())
    }
}

/// The previous values of the settings that a response changes.
struct Settings {
    old: Map<String, Value>,
    added: Vec<String>,
}

impl Settings {
    fn change(
        session: &Session,
        changes: Map<String, Value>,
        removed: &[String],
    ) -> Result<Self, SessionError> {
        let (mut old, mut added) = (Map::new(), Vec::new());
        if !changes.is_empty() || !removed.is_empty() {
            let before = session.settings();
            for key in changes.keys().chain(removed) {
                match before.get(key) {
                    Some(value) => drop(old.insert(key.clone(), value.clone())),
                    None => added.push(key.clone()),
                }
            }
            session.change_settings(changes, removed)?;
        }
        Ok(Self { old, added })
    }

    fn put_back(self, session: &Session) {
        if !self.old.is_empty() || !self.added.is_empty() {
            // This fails only if the session is closed, and then its settings are no longer visible.
            let _ = session.change_settings(self.old, &self.added);
        }
    }
}

/// Checks the limit of a user's topics. It is checked before a bind, because a bind may close a session on another frontend, which cannot
/// be undone.
fn check_count(moves: &[Move], limit: usize) -> Result<(), HandlerError> {
    let mut joined = HashSet::new();
    for one in moves {
        match one {
            Move::Join(name) => joined.insert(name),
            Move::Leave(name) => joined.remove(name),
        };
        if joined.len() > limit {
            let text = format!(
                "the user would exceed the limit of {limit} topics and channels (`session.max_memberships`)"
            );
            return Err(HandlerError::new(codes::UNKNOWN, text));
        }
    }
    Ok(())
}

/// After an error nothing has changed.
async fn change_user_and_topics(
    app: &AppHandle,
    session: &Arc<Session>,
    user: User,
    moves: Vec<Move>,
) -> Result<(), HandlerError> {
    if matches!(user, User::Unbind) {
        // First, because a session without a user is in no topic.
        let undo = move_all(app, session, moves).await?;
        let unbound = change_user(app, session, user).await;
        if unbound.is_err() {
            take_back(app, session, undo).await;
        }
        return Ok(unbound?);
    }
    let was_bound = session.uid().is_some();
    change_user(app, session, user).await?;
    let done = move_all(app, session, moves).await;
    if let (Err(_), false, Some(uid)) = (&done, was_bound, session.uid()) {
        // This fails only if the session is closed, and then it has no user.
        let _ = session.unbind(&uid);
    }
    done.map(drop)
}

/// Joins and leaves topics in order; returns the inverse changes. After an error the earlier changes are undone.
async fn move_all(
    app: &AppHandle,
    session: &Arc<Session>,
    moves: Vec<Move>,
) -> Result<Vec<Move>, HandlerError> {
    // With the session's current user.
    let view = SessionView::of_session(app, session);
    let mut undo = Vec::new();
    for one in moves {
        let failed = match one {
            Move::Join(name) => match app.topic(&name).join(&view).await {
                Ok(joined) => {
                    undo.extend(joined.is_new().then_some(Move::Leave(name)));
                    continue;
                }
                Err(error) => not_joined(error),
            },
            Move::Leave(name) => match app.topic(&name).quit(&view).await {
                Ok(left) => {
                    undo.extend(left.then_some(Move::Join(name)));
                    continue;
                }
                Err(error) => HandlerError::from_remote(error),
            },
        };
        take_back(app, session, undo).await;
        return Err(failed);
    }
    Ok(undo)
}

async fn take_back(app: &AppHandle, session: &Arc<Session>, undo: Vec<Move>) {
    let view = SessionView::of_session(app, session);
    for one in undo.into_iter().rev() {
        // A change that cannot be undone no longer exists: the session is closing.
        match one {
            Move::Join(name) => drop(app.topic(&name).join(&view).await),
            Move::Leave(name) => drop(app.topic(&name).quit(&view).await),
        }
    }
}

/// The client receives the reason, as for a rejected bind.
fn not_joined(error: JoinError) -> HandlerError {
    match error {
        JoinError::Remote(error) => HandlerError::from_remote(error),
        other => HandlerError::new(codes::UNKNOWN, other.to_string()),
    }
}

async fn change_user(
    app: &AppHandle,
    session: &Arc<Session>,
    user: User,
) -> Result<(), SessionError> {
    match user {
        User::Stays => Ok(()),
        User::Bind(uid) => Binder::of(app).bind(session, uid).await,
        User::Unbind => match session.uid() {
            Some(uid) => Ok(session.unbind(&uid)?),
            None => Err(SessionError::NotBound),
        },
    }
}

async fn deliver(app: &AppHandle, view: &SessionView, send: Send) -> Result<(), String> {
    match send {
        Send::Push {
            route,
            body,
            latest,
            to,
        } => match to {
            To::Session => Latest::of(view, latest.as_deref())
                .push_message(&route, &body)
                .await
                .map_err(|error| error.to_string()),
            To::Users(users) if users.is_empty() => Ok(()),
            To::Users(users) => Latest::of(&app.channels(), latest.as_deref())
                .push_message_to_users(app.server_type(), &route, &body, &users)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            To::Topic { name, except } => {
                let topic = app.topic(&name);
                let topic = Latest::of(&topic, latest.as_deref());
                let push = match except {
                    Some(uid) => topic.push_except(&uid, &route, &body),
                    None => topic.push(&route, &body),
                };
                push.await.map_err(|error| error.to_string())
            }
        },
        Send::Kick {
            reason,
            users: None,
        } => view.kick(&reason).await.map_err(|error| error.to_string()),
        Send::Kick {
            reason,
            users: Some(users),
        } => {
            let sessions = app.backend_sessions();
            for uid in users {
                sessions
                    .kick_everywhere(uid.as_str(), &reason)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }
    }
}

fn push_of(push: PushJson) -> Result<Send, String> {
    let PushJson {
        route,
        body,
        users,
        topic,
        except,
        latest,
    } = push;
    if route.is_empty() || route.len() > MOST_ROUTE {
        return Err(format!(
            "pushes to a route of {} bytes; 1 to {MOST_ROUTE} are allowed",
            route.len()
        ));
    }
    if body.get() == "null" {
        return Err("pushes no value; write an object, such as {}".to_owned());
    }
    check_latest(latest.as_deref()).map_err(|text| format!("has a `latest` that {text}"))?;
    let to = match (users, topic) {
        (Some(_), Some(_)) => {
            return Err("pushes to `users` and to a `topic`; write one of them".to_owned());
        }
        (_, None) if except.is_some() => {
            return Err("has an `except` without a `topic`".to_owned());
        }
        (None, None) => To::Session,
        (Some(users), None) => To::Users(uids_of(users)?),
        (None, Some(topic)) => To::Topic {
            name: topic_of(topic)?,
            except,
        },
    };
    Ok(Send::Push {
        route,
        body,
        latest,
        to,
    })
}

fn topic_of(name: String) -> Result<String, String> {
    if AudienceKey::topic(&name).is_none() {
        return Err(format!(
            "names a topic of {} bytes; 1 to 256 are allowed",
            name.len()
        ));
    }
    Ok(name)
}

fn uid_of(text: String) -> Result<Uid, String> {
    Uid::new(text).map_err(|error| format!("has an invalid user: {error}"))
}

fn uids_of(texts: Vec<String>) -> Result<Vec<Uid>, String> {
    texts.into_iter().map(uid_of).collect()
}
