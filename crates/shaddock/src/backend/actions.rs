//! What a backend asks for: checked as a whole before anything is done, and then done, all or none.
//!
//! Two groups. What changes the session comes first: settings in one step, then the bind or unbind. If the bind is refused (the user is
//! elsewhere, the app's hook says no, the session has just closed), the settings are put back, and nothing else is done. Pushes and kicks, which
//! cannot be taken back, come after that, in their order. So a push to the user reaches a session that the same answer binds.

use serde_json::{Map, Value, value::RawValue};
use shaddock_core::Uid;

use super::wire::{Action, KickJson, Object, PushJson};
use crate::{
    app::AppHandle,
    session::{SessionError, SessionView},
};

/// Actions of one answer.
const MOST_ACTIONS: usize = 1000;
/// Users that one kick may name: they are kicked one after the other.
const MOST_KICKED: usize = 1000;
/// Bytes of a route, as on the wire to clients.
const MOST_ROUTE: usize = 255;

/// What becomes of the session's user.
enum User {
    Stays,
    Bind(Uid),
    Unbind,
}

/// A push or a kick.
enum Send {
    Push {
        route: String,
        body: Box<RawValue>,
        users: Option<Vec<Uid>>,
    },
    Kick {
        reason: String,
        users: Option<Vec<Uid>>,
    },
}

/// Actions that can be carried out, as far as can be known before.
pub(super) struct Plan {
    user: User,
    changes: Map<String, Value>,
    removed: Vec<String>,
    sends: Vec<Send>,
}

impl Plan {
    /// Checks every action.
    ///
    /// # Errors
    /// Which one cannot be carried out, and why.
    pub(super) fn check(view: &SessionView, actions: Vec<Action>) -> Result<Self, String> {
        let mut plan = Self {
            user: User::Stays,
            changes: Map::new(),
            removed: Vec::new(),
            sends: Vec::new(),
        };
        if actions.len() > MOST_ACTIONS {
            let count = actions.len();
            return Err(format!(
                "it has {count} actions; at most {MOST_ACTIONS} are possible, and none was carried out"
            ));
        }
        for (number, action) in actions.into_iter().enumerate() {
            plan.add(view, action).map_err(|reason| {
                format!("its action {} {reason}; none was carried out", number + 1)
            })?;
        }
        Ok(plan)
    }

    fn add(&mut self, view: &SessionView, action: Action) -> Result<(), String> {
        let bound = view.session().and_then(|session| session.uid());
        match action {
            Action::Bind(_) | Action::Unbind if !matches!(self.user, User::Stays) => {
                return Err("is a second `bind` or `unbind`; one answer may have one".to_owned());
            }
            Action::Bind(uid) => {
                let uid = uid_of(uid)?;
                if bound.is_some_and(|bound| bound != uid) {
                    return Err(
                        "binds a session that is bound to another user; `unbind` it in an answer before"
                            .to_owned(),
                    );
                }
                self.user = User::Bind(uid);
            }
            Action::Unbind if bound.is_none() => {
                return Err("unbinds a session that is bound to no user".to_owned());
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

    /// Does everything. After an error nothing has been done.
    pub(super) async fn carry_out(
        self,
        app: &AppHandle,
        view: &SessionView,
    ) -> Result<(), SessionError> {
        let Some(session) = view.session() else {
            return Err(SessionError::NoFrontend);
        };
        let changes_settings = !self.changes.is_empty() || !self.removed.is_empty();
        if changes_settings {
            let before = session.settings();
            let keys = self.changes.keys().chain(&self.removed);
            let (mut old, mut added) = (Map::new(), Vec::new());
            for key in keys {
                match before.get(key) {
                    Some(value) => drop(old.insert(key.clone(), value.clone())),
                    None => added.push(key.clone()),
                }
            }
            session.change_settings(self.changes, &self.removed)?;
            if let Err(error) = change_user(app, view, self.user).await {
                // It fails only if the session is closed, and then nobody sees its settings.
                let _ = session.change_settings(old, &added);
                return Err(error);
            }
        } else {
            change_user(app, view, self.user).await?;
        }
        for send in self.sends {
            // Whom it does not reach is not there (any more): no reason to tell the client that its request failed.
            if let Err(error) = deliver(app, view, send).await {
                shaddock_net::quiet!(warn, "an action of a backend reached no client", sid = %view.id(), error);
            }
        }
        Ok(())
    }
}

async fn change_user(app: &AppHandle, view: &SessionView, user: User) -> Result<(), SessionError> {
    let Some(session) = view.session() else {
        return Err(SessionError::NoFrontend);
    };
    match user {
        User::Stays => Ok(()),
        User::Bind(uid) => app.bind_here(session, uid).await,
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
            users: None,
        } => view
            .push_message(&route, &body)
            .await
            .map_err(|error| error.to_string()),
        Send::Push {
            route,
            body,
            users: Some(users),
        } => {
            if users.is_empty() {
                return Ok(());
            }
            let channels = app.channels();
            channels
                .push_message_to_users(app.server_type(), &route, &body, &users)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
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
    let PushJson { route, body, users } = push;
    if route.is_empty() || route.len() > MOST_ROUTE {
        return Err(format!(
            "pushes to a route of {} bytes; 1 to {MOST_ROUTE} are possible",
            route.len()
        ));
    }
    if body.get() == "null" {
        return Err("pushes no value; write an object, such as {}".to_owned());
    }
    let users = users.map(uids_of).transpose()?;
    Ok(Send::Push { route, body, users })
}

fn uid_of(text: String) -> Result<Uid, String> {
    Uid::new(text).map_err(|error| format!("has a user that cannot be: {error}"))
}

fn uids_of(texts: Vec<String>) -> Result<Vec<Uid>, String> {
    texts.into_iter().map(uid_of).collect()
}
