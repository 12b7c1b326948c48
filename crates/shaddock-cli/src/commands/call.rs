//! `shaddock call`

use std::{io::Read as _, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use shaddock::admin::CallAnswer;

use super::{
    Outcome,
    operator::{self, Target, print_json, warn},
};

/// Carry out commands of the server API: pushes, kicks, settings, binds, topics (docs/server-api.md).
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// A command, such as '{"push": {"to": {"uid": "ann"}, "route": "onNews", "body": {}}}', a list of commands, or a whole
    /// request; `-` reads it from standard input
    #[arg(value_name = "JSON")]
    commands: String,
    /// Count only: nothing is done
    #[arg(long)]
    dry_run: bool,
    /// So many sessions a second, in the background; the answer names a job
    #[arg(long, value_name = "N")]
    per_second: Option<u64>,
    /// Idempotency key: a request that is repeated with it is carried out once
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &CallArgs) -> Outcome {
    let request = request(args)?;
    operator::run(&args.target, async |operator| {
        let answer = operator.call(&request, args.key.as_deref()).await?;
        print_json(&answer)?;
        Ok(code(&answer))
    })
}

fn request(args: &CallArgs) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let mut text = args.commands.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text)?;
    }
    let given: Value = serde_json::from_str(&text)
        .map_err(|error| format!("this is not JSON: {error}; write a command in quotes"))?;
    let mut request = match given {
        Value::Array(commands) => json!({ "commands": commands }),
        Value::Object(members) if members.contains_key("commands") => Value::Object(members),
        command => json!({ "commands": [command] }),
    };
    if args.dry_run {
        request["dry_run"] = json!(true);
    }
    if let Some(per_second) = args.per_second {
        request["per_second"] = json!(per_second);
    }
    Ok(request)
}

/// For scripts: 1 if a command failed, 2 if a frontend did not say what became of one.
fn code(answer: &CallAnswer) -> ExitCode {
    let unanswered = answer
        .results
        .iter()
        .filter_map(|result| result.ok.as_ref());
    let is_incomplete = unanswered.filter(|ok| warn(&ok.unanswered)).count() > 0;
    let has_failed = answer.results.iter().any(|result| result.error.is_some());
    ExitCode::from(match (is_incomplete, has_failed) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    })
}
