//! The JSON of commands and of their results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{admin::error::ErrorInfo, operators::Unanswered};

/// The most sessions, or users, that one command may name.
pub(super) const MOST_NAMED: usize = 1000;
/// A request: commands, and options for their execution.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallRequest {
    /// The commands, in order: 1 to 100.
    pub commands: Vec<Command>,
    /// Whether sessions are only counted, and nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
    /// Sessions per second, in the background, if a command matches more; the response then names a job. 0: all at once.
    #[serde(default)]
    pub per_second: u64,
}

/// A command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Counts sessions. Scope `read`.
    Count(CountCommand),
    /// Sends a message. Scope `push`.
    Push(PushCommand),
    /// Closes sessions. Scope `operate`, as all commands below.
    Kick(KickCommand),
    /// Changes settings.
    Set(SetCommand),
    /// Binds a session to a user.
    Bind(BindCommand),
    /// Removes the user from sessions, which stay open.
    Unbind(CountCommand),
    /// Adds the sessions' users to a topic.
    Join(TopicCommand),
    /// Removes the sessions' users from a topic.
    Leave(TopicCommand),
}

/// The selected sessions: exactly one of `sid`, `sids`, `uid`, `uids`, `where`, `all` and, for pushes, `topic`.
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
    /// All sessions of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// All sessions of these users, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Vec<String>>,
    /// All sessions that match this predicate, such as `client.version < 1.4 and not uid = null`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// The members of this topic; for pushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// A member of the topic that is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// All sessions. With `where`, it confirms that the predicate may match every session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// A command without parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CountCommand {
    /// The sessions.
    pub to: To,
}

/// A push.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PushCommand {
    /// The receivers.
    pub to: To,
    /// The route that clients listen to.
    pub route: String,
    /// The body; not `null`.
    pub body: Value,
    /// A key of 1 to 128 bytes. A client that cannot receive messages at the moment gets only the newest message of each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
}

/// A kick.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KickCommand {
    /// The sessions.
    pub to: To,
    /// The reason that clients receive. Default: `kicked by an operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change of settings, atomic for each session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SetCommand {
    /// The sessions.
    pub to: To,
    /// New values; other settings stay.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// Keys to remove.
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
    /// The new user of the session.
    pub uid: String,
}

/// A join or leave of a topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicCommand {
    /// The sessions; those that are not bound cannot join.
    pub to: To,
    /// The name of the topic.
    pub topic: String,
}

/// The response to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallAnswer {
    /// One result for each command, in order.
    pub results: Vec<CommandResult>,
}

/// The result of a command: one of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandResult {
    /// The command was executed, or counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<CommandOutcome>,
    /// The command was rejected; nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

/// The outcome of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandOutcome {
    /// The number of selected sessions. Absent for a push to a topic, which is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<u64>,
    /// The number of sessions on which the command succeeded. Absent for a dry run and for a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// The number of sessions on which the command failed. If sessions were searched first, it includes those of frontends without a reply.
    #[serde(default)]
    pub failed: u64,
    /// The errors of the first failed sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// The number of sessions per frontend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_frontend: BTreeMap<String, u64>,
    /// The job that continues the command: `GET /api/cluster/jobs/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Frontends that may have matching sessions but did not report an outcome.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}
