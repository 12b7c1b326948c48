//! The schemas of the document. Each is made from a value of its type with all that it can have: so a new member is in the document or does not
//! compile.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    admin::{
        commands::{
            BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult,
            CountCommand, KickCommand, PushCommand, SetCommand, To, TopicCommand,
        },
        error::{ErrorBody, ErrorInfo},
        jobs::JobStatus,
        look,
    },
    operators::{Unanswered, WhyUnanswered},
};

pub(super) fn schemas() -> Value {
    let command = |name: &str, schema: &str| {
        json!({
            "type": "object",
            "required": [name],
            "additionalProperties": false,
            "properties": {name: {"$ref": format!("#/components/schemas/{schema}")}},
        })
    };
    let mut schemas = json!({
        "Command": {"oneOf": [
            command("count", "CountCommand"),
            command("push", "PushCommand"),
            command("kick", "KickCommand"),
            command("set", "SetCommand"),
            command("bind", "BindCommand"),
            command("unbind", "CountCommand"),
            command("join", "TopicCommand"),
            command("leave", "TopicCommand"),
        ]},
    });
    let shown = look::examples();
    for (name, required, example) in commands().into_iter().chain(answers()).chain(shown) {
        let mut schema = schema_of(&example);
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schemas[name] = schema;
    }
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    for (name, member, to) in [
        ("CountCommand", "to", "To"),
        ("PushCommand", "to", "To"),
        ("KickCommand", "to", "To"),
        ("SetCommand", "to", "To"),
        ("BindCommand", "to", "To"),
        ("TopicCommand", "to", "To"),
        ("CommandResult", "ok", "CommandOutcome"),
        ("CommandResult", "error", "ErrorInfo"),
        ("ErrorBody", "error", "ErrorInfo"),
    ] {
        schemas[name]["properties"][member] = reference(to);
    }
    for (name, member, to) in [
        ("CallRequest", "commands", "Command"),
        ("CallAnswer", "results", "CommandResult"),
        ("CommandOutcome", "unanswered", "Unanswered"),
        ("LoadReport", "unanswered", "Unanswered"),
        ("EventPage", "unanswered", "Unanswered"),
        ("AudiencePage", "unanswered", "Unanswered"),
        ("MemberPage", "unanswered", "Unanswered"),
    ] {
        schemas[name]["properties"][member]["items"] = reference(to);
    }
    // Free values and names.
    schemas["PushCommand"]["properties"]["body"] = json!({"description": "Any JSON but null."});
    schemas["SetCommand"]["properties"]["values"] = json!({"type": "object"});
    let counts = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    schemas["CommandOutcome"]["properties"]["by_frontend"] = counts.clone();
    for name in ["refused", "closed", "dropped"] {
        schemas["ServerWork"]["properties"][name] = counts.clone();
    }
    schemas["AudiencePage"]["properties"]["audiences"]["items"]["properties"]["by_frontend"] =
        counts;
    schemas
}

/// A type's name, the members that it must have, and one of it with all that it can have: so a new member is in the document or does not compile.
pub(in crate::admin) type Example = (&'static str, &'static [&'static str], Value);

pub(in crate::admin) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn text() -> String {
    "text".to_owned()
}

/// What is sent.
fn commands() -> Vec<Example> {
    let to = || To {
        sid: Some(text()),
        sids: Some(vec![text()]),
        uid: Some(text()),
        uids: Some(vec![text()]),
        predicate: Some(text()),
        topic: Some(text()),
        except: Some(text()),
        all: true,
    };
    let count = CountCommand { to: to() };
    vec![
        ("To", &[], value(&to())),
        ("CountCommand", &["to"], value(&count)),
        (
            "PushCommand",
            &["to", "route", "body"],
            value(&PushCommand {
                to: to(),
                route: text(),
                body: json!({}),
            }),
        ),
        (
            "KickCommand",
            &["to"],
            value(&KickCommand {
                to: to(),
                reason: Some(text()),
            }),
        ),
        (
            "SetCommand",
            &["to"],
            value(&SetCommand {
                to: to(),
                values: Map::new(),
                remove: vec![text()],
            }),
        ),
        (
            "BindCommand",
            &["to", "uid"],
            value(&BindCommand {
                to: to(),
                uid: text(),
            }),
        ),
        (
            "TopicCommand",
            &["to", "topic"],
            value(&TopicCommand {
                to: to(),
                topic: text(),
            }),
        ),
        (
            "CallRequest",
            &["commands"],
            value(&CallRequest {
                commands: vec![Command::Count(count)],
                dry_run: true,
                per_second: 1,
            }),
        ),
    ]
}

/// What is answered.
fn answers() -> Vec<Example> {
    let info = || ErrorInfo {
        code: text(),
        message: text(),
        column: Some(1),
    };
    let unanswered = || Unanswered {
        server: text(),
        why: WhyUnanswered::Silent,
        reason: text(),
    };
    let outcome = || CommandOutcome {
        matched: Some(1),
        done: Some(1),
        failed: 0,
        errors: vec![text()],
        by_frontend: [(text(), 1)].into(),
        job: Some(text()),
        unanswered: vec![unanswered()],
    };
    let result = || CommandResult {
        ok: Some(outcome()),
        error: Some(info()),
    };
    vec![
        (
            "CallAnswer",
            &["results"],
            value(&CallAnswer {
                results: vec![result()],
            }),
        ),
        ("CommandResult", &[], value(&result())),
        ("CommandOutcome", &["failed"], value(&outcome())),
        (
            "Unanswered",
            &["server", "why", "reason"],
            value(&unanswered()),
        ),
        (
            "JobStatus",
            &[
                "id", "command", "matched", "done", "failed", "left", "running", "errors",
            ],
            value(&JobStatus {
                id: text(),
                command: text(),
                matched: 1,
                done: 1,
                failed: 0,
                left: 0,
                running: false,
                errors: vec![text()],
            }),
        ),
        ("ErrorInfo", &["code", "message"], value(&info())),
        ("ErrorBody", &["error"], value(&ErrorBody { error: info() })),
    ]
}

/// The schema of values like this one.
fn schema_of(example: &Value) -> Value {
    match example {
        Value::Null => json!({}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(_) => json!({"type": "integer"}),
        Value::String(_) => json!({"type": "string"}),
        Value::Array(items) => json!({
            "type": "array",
            "items": items.first().map_or_else(|| json!({}), schema_of),
        }),
        Value::Object(members) => {
            let properties: Map<String, Value> = members
                .iter()
                .map(|(name, value)| (name.clone(), schema_of(value)))
                .collect();
            json!({"type": "object", "properties": properties})
        }
    }
}
