//! Examples of commands and of their responses.

use serde_json::{Map, json};

use super::{Example, text, unanswered, value};
use crate::admin::{
    commands::{
        BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult, CountCommand,
        KickCommand, PushCommand, SetCommand, To, TopicCommand,
    },
    error::{ErrorBody, ErrorInfo},
    jobs::JobStatus,
};

/// Receivers, with every field.
fn to() -> To {
    To {
        sid: Some(text()),
        sids: Some(vec![text()]),
        uid: Some(text()),
        uids: Some(vec![text()]),
        predicate: Some(text()),
        topic: Some(text()),
        except: Some(text()),
        all: true,
    }
}

/// Request types.
pub(super) fn requests() -> Vec<Example> {
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
                latest: Some(text()),
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

/// Response types.
pub(super) fn responses() -> Vec<Example> {
    let info = || ErrorInfo {
        code: text(),
        message: text(),
        column: Some(1),
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
