//! The JSON of commands and of what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{admin::error::ErrorInfo, operators::Unanswered};

/// A request: commands, and how they are carried out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallRequest {
    /// What is to be done, in this order: 1 to 100.
    pub commands: Vec<Command>,
    /// Counts only: nothing is done.
    #[serde(default)]
    pub dry_run: bool,
    /// So many sessions a second, in the background, if a command is about more; the answer then names a job. 0: all at once.
    #[serde(default)]
    pub per_second: u64,
}

/// Something to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// How many sessions there are. Scope `read`.
    Count(CountCommand),
    /// Sends a message. Scope `push`.
    Push(PushCommand),
    /// Closes sessions. Scope `operate`, as all that follow.
    Kick(KickCommand),
    /// Changes settings.
    Set(SetCommand),
    /// Binds a session to a user.
    Bind(BindCommand),
    /// Takes the user away; the sessions stay open.
    Unbind(CountCommand),
    /// Lets the sessions' users into a topic.
    Join(TopicCommand),
    /// Takes them out of it.
    Leave(TopicCommand),
}

/// Which sessions: exactly one of `sid`, `sids`, `uid`, `uids`, `where`, `all` and, for pushes, `topic`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct To {
    /// This session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// These sessions, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sids: Option<Vec<String>>,
    /// Every session of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Every session of these users, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Vec<String>>,
    /// Every session of which this is true, such as `client.version < 1.4 and not uid = null`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// The members of this topic; for pushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// A member of the topic who is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// Every session. With `where` it confirms that the predicate may be true of every session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// A command without more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CountCommand {
    /// Which sessions.
    pub to: To,
}

/// A message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PushCommand {
    /// Which sessions.
    pub to: To,
    /// The route that clients listen to.
    pub route: String,
    /// What they get; not `null`.
    pub body: Value,
    /// A key of 1 to 128 bytes, if only the newest message of it matters to a client that cannot receive messages at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
}

/// A kick.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KickCommand {
    /// Which sessions.
    pub to: To,
    /// What clients are told. Default: `kicked by an operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change of settings, in one step for each session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SetCommand {
    /// Which sessions.
    pub to: To,
    /// New values; other settings stay.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// Keys that go.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A bind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BindCommand {
    /// The session: a `sid`.
    pub to: To,
    /// Its user from now on.
    pub uid: String,
}

/// Into a topic or out of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicCommand {
    /// Which sessions; those that are bound to no user cannot join.
    pub to: To,
    /// Its name.
    pub topic: String,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallAnswer {
    /// One for each command, in their order.
    pub results: Vec<CommandResult>,
}

/// What became of a command: one of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandResult {
    /// It was carried out, or counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<CommandOutcome>,
    /// It was not, and nothing of it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandOutcome {
    /// How many sessions are meant. Absent of a push to a topic, which is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<u64>,
    /// To how many it was done. Absent of a dry run and of a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// To how many it could not be done. Of sessions that were looked for before, those of a frontend that did not answer are among them.
    #[serde(default)]
    pub failed: u64,
    /// Why, for the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// How many at which frontend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_frontend: BTreeMap<String, u64>,
    /// The job that goes on with it: `GET /api/cluster/jobs/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Frontends that may have such sessions and did not say what became of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}
