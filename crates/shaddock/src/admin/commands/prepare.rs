//! Validates commands before anything is done.

use serde_json::{Value, json};

use super::types::{
    BindCommand, Command, CountCommand, KickCommand, MOST_NAMED, PushCommand, SetCommand, To,
    TopicCommand,
};
use crate::{
    admin::tokens::Scope,
    channel::check_latest,
    operators::{Act, Order, Select},
};

/// The most characters of a kick's reason.
const LONGEST_REASON: usize = 256;

/// A valid command.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) name: &'static str,
    pub(super) scope: Scope,
    /// The receivers as they were written, for the audit log.
    pub(super) to: Value,
    pub(super) what: Value,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Count(Select),
    Do {
        order: Order,
        /// Whether `all` was written.
        may_be_all: bool,
    },
    Topic {
        name: String,
        except: Option<String>,
        route: String,
        body: Value,
        latest: Option<String>,
    },
}

impl To {
    /// The selected sessions, for commands other than a push.
    fn select(&self) -> Result<Select, String> {
        if self.topic.is_some() || self.except.is_some() {
            return Err("only pushes accept `topic` and `except`".to_owned());
        }
        let given = [
            self.sid.is_some(),
            self.sids.is_some(),
            self.uid.is_some(),
            self.uids.is_some(),
            self.predicate.is_some(),
            self.all && self.predicate.is_none(),
        ];
        if given.iter().filter(|is_given| **is_given).count() != 1 {
            return Err(
                "`to` selects the sessions: write exactly one of `sid`, `sids`, `uid`, `uids`, `where`, and `\"all\": true`"
                    .to_owned(),
            );
        }
        let select = if let Some(sids) = self.sids.clone().or(self.sid.clone().map(|sid| vec![sid]))
        {
            Select::Sids(sids)
        } else if let Some(uids) = self.uids.clone().or(self.uid.clone().map(|uid| vec![uid])) {
            Select::Users(uids)
        } else if let Some(text) = &self.predicate {
            Select::Where(text.clone())
        } else {
            Select::All
        };
        if let Select::Sids(list) | Select::Users(list) = &select
            && list.len() > MOST_NAMED
        {
            return Err(format!("`to` names {} of at most {MOST_NAMED}", list.len()));
        }
        select.check()?;
        Ok(select)
    }
}

impl Command {
    pub(super) fn prepare(&self) -> Result<Prepared, String> {
        let (name, to, act) = match self {
            Self::Count(CountCommand { to }) => {
                let kind = Kind::Count(to.select()?);
                return Ok(Prepared::of("count", Scope::Read, to, Value::Null, kind));
            }
            Self::Push(push) => {
                let (what, kind) = (json!({"route": push.route}), push.prepare()?);
                return Ok(Prepared::of("push", Scope::Push, &push.to, what, kind));
            }
            Self::Kick(kick) => ("kick", &kick.to, kick.act()?),
            Self::Set(set) => ("set", &set.to, set.act()?),
            Self::Bind(bind) => ("bind", &bind.to, bind.act()?),
            Self::Unbind(CountCommand { to }) => ("unbind", to, Act::Unbind),
            Self::Join(TopicCommand { to, topic }) => {
                let topic = checked_topic(topic)?;
                ("join", to, Act::Join { topic })
            }
            Self::Leave(TopicCommand { to, topic }) => {
                let topic = checked_topic(topic)?;
                ("leave", to, Act::Leave { topic })
            }
        };
        let what = for_audit(&act);
        let order = Order {
            select: to.select()?,
            act,
        };
        let kind = Kind::Do {
            order,
            may_be_all: to.all,
        };
        Ok(Prepared::of(name, Scope::Operate, to, what, kind))
    }
}

impl Prepared {
    fn of(name: &'static str, scope: Scope, to: &To, what: Value, kind: Kind) -> Self {
        Self {
            name,
            scope,
            to: serde_json::to_value(to).unwrap_or_default(),
            what,
            kind,
        }
    }
}

/// The parameters of an act that the audit log shows. Values of settings are left out, because they may be private.
fn for_audit(act: &Act) -> Value {
    match act {
        Act::Push { route, .. } => json!({"route": route}),
        Act::Kick { reason } => json!({"reason": reason}),
        Act::Set { values, remove } => {
            json!({"values": values.keys().collect::<Vec<_>>(), "remove": remove})
        }
        Act::Bind { uid } => json!({"uid": uid}),
        Act::Unbind => Value::Null,
        Act::Join { topic } | Act::Leave { topic } => json!({"topic": topic}),
    }
}

impl KickCommand {
    fn act(&self) -> Result<Act, String> {
        let reason = self.reason.as_deref().unwrap_or("kicked by an operator");
        if reason.chars().count() > LONGEST_REASON {
            return Err(format!(
                "`reason` may have at most {LONGEST_REASON} characters"
            ));
        }
        let reason = reason.to_owned();
        Ok(Act::Kick { reason })
    }
}

impl SetCommand {
    fn act(&self) -> Result<Act, String> {
        if self.values.is_empty() && self.remove.is_empty() {
            return Err("`set` requires `values` or `remove`".to_owned());
        }
        Ok(Act::Set {
            values: self.values.clone(),
            remove: self.remove.clone(),
        })
    }
}

impl BindCommand {
    fn act(&self) -> Result<Act, String> {
        if self.to.sid.is_none() {
            return Err("`bind` takes one session: write its `sid` in `to`".to_owned());
        }
        shaddock_core::Uid::new(self.uid.as_str())
            .map_err(|error| format!("`uid` is invalid: {error}"))?;
        let uid = self.uid.clone();
        Ok(Act::Bind { uid })
    }
}

impl PushCommand {
    fn prepare(&self) -> Result<Kind, String> {
        if self.route.is_empty() || self.route.len() > 255 {
            return Err("`route` must have 1 to 255 bytes".to_owned());
        }
        if self.body.is_null() {
            return Err(
                "`body` is null, which no client can read; write an object, such as {}".to_owned(),
            );
        }
        check_latest(self.latest.as_deref()).map_err(|text| format!("`latest` {text}"))?;
        let (route, body) = (self.route.clone(), self.body.clone());
        let latest = self.latest.clone();
        let Some(topic) = &self.to.topic else {
            let order = Order {
                select: self.to.select()?,
                act: Act::Push {
                    route,
                    body,
                    latest,
                },
            };
            return Ok(Kind::Do {
                order,
                // A message to all sessions needs no confirmation.
                may_be_all: true,
            });
        };
        let name = checked_topic(topic)?;
        let rest = To {
            topic: None,
            except: None,
            ..self.to.clone()
        };
        if serde_json::to_value(&rest).is_ok_and(|rest| rest != json!({})) {
            return Err(
                "`to` contains a `topic` and another receiver; write one of them".to_owned(),
            );
        }
        Ok(Kind::Topic {
            name,
            except: self.to.except.clone(),
            route,
            body,
            latest,
        })
    }
}

/// The name, if it can be one of a topic.
fn checked_topic(name: &str) -> Result<String, String> {
    match shaddock_cluster::AudienceKey::topic(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!(
            "the name of a topic must have 1 to 256 bytes, this one has {}",
            name.len()
        )),
    }
}
