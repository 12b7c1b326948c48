//! `shaddock sessions`

use std::process::ExitCode;

use clap::Args;
use shaddock::admin::{SessionInfo, SessionQuery};

use super::{
    Outcome,
    operator::{self, Target, print_json, warn},
    table::{age, bytes, or_dash, print_line, printable, printable_json, table},
};

/// List the sessions of the cluster.
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// One session with its settings
    sid: Option<String>,
    /// Only of this user
    #[arg(long)]
    uid: Option<String>,
    /// Only from this address, address with port, or network
    #[arg(long)]
    address: Option<String>,
    /// Only on this frontend
    #[arg(long)]
    frontend: Option<String>,
    /// Only over tcp, tls, ws or wss
    #[arg(long)]
    transport: Option<String>,
    /// Only of this kind of client, such as js-websocket
    #[arg(long, value_name = "KIND")]
    client: Option<String>,
    /// Only of clients with this version
    #[arg(long, value_name = "VERSION")]
    client_version: Option<String>,
    /// Only of clients on this platform
    #[arg(long)]
    platform: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only sessions after this id: the next page
    #[arg(long, value_name = "SID")]
    after: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &SessionsArgs) -> Outcome {
    operator::run(&args.target, async |operator| {
        if let Some(sid) = &args.sid {
            let session = operator.session(sid).await?;
            print_line(&printable_json(&serde_json::to_string_pretty(&session)?));
            return Ok(ExitCode::SUCCESS);
        }
        let page = operator.sessions(&query(args)).await?;
        warn(&page.unanswered);
        if args.target.json {
            return print_json(&page);
        }
        print_line(&table(HEAD, page.sessions.iter().map(row)));
        print_line(&format!(
            "{} of {} sessions",
            page.sessions.len(),
            page.total
        ));
        if let Some(next) = page.next {
            print_line(&format!("more: --after {next}"));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn query(args: &SessionsArgs) -> SessionQuery {
    let mut query = SessionQuery::default();
    query.uid.clone_from(&args.uid);
    query.address.clone_from(&args.address);
    query.frontend.clone_from(&args.frontend);
    query.transport.clone_from(&args.transport);
    query.client.clone_from(&args.client);
    query.version.clone_from(&args.client_version);
    query.platform.clone_from(&args.platform);
    query.after.clone_from(&args.after);
    query.limit = Some(args.limit);
    query
}

const HEAD: [&str; 11] = [
    "SID",
    "UID",
    "FRONTEND",
    "STATE",
    "KEPT",
    "TRANSPORT",
    "CLIENT",
    "ADDRESS",
    "AGE",
    "IN",
    "OUT",
];

fn client(session: &SessionInfo) -> Option<String> {
    let client = session.client.as_ref()?;
    let said = [&client.kind, &client.platform, &client.version];
    let said: Vec<_> = said
        .into_iter()
        .flatten()
        .map(|text| printable(text))
        .collect();
    (!said.is_empty()).then(|| said.join(" "))
}

/// The state; of a session that waits for its client, for how long it does.
fn state(session: &SessionInfo) -> String {
    let since = session.suspended_ms.map(|ms| format!(" {}", age(ms)));
    printable(&session.state) + &since.unwrap_or_default()
}

fn row(session: &SessionInfo) -> [String; 11] {
    [
        printable(&session.sid),
        or_dash(session.uid.as_deref().map(printable)),
        printable(&session.frontend),
        state(session),
        or_dash(session.kept_bytes.map(bytes)),
        printable(&session.transport),
        or_dash(client(session)),
        or_dash(session.address),
        age(session.age_ms),
        bytes(session.bytes_in),
        bytes(session.bytes_out),
    ]
}
