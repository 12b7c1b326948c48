//! `shaddock sessions`

use std::process::ExitCode;

use clap::Args;
use shaddock::admin::{SessionInfo, SessionPage};

use super::{
    Outcome,
    admin::{Admin, Target, escape},
};

/// List sessions.
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
    let admin = Admin::of(&args.target)?;
    if let Some(sid) = &args.sid {
        let session: SessionInfo = admin.get(&format!("/api/sessions/{}", escape(sid)))?;
        println!("{}", serde_json::to_string_pretty(&session)?);
        return Ok(ExitCode::SUCCESS);
    }
    let page: SessionPage = admin.get(&query(args))?;
    if args.target.json {
        println!("{}", serde_json::to_string(&page)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", table(&page.sessions));
    println!("{} of {} sessions", page.sessions.len(), page.total);
    if let Some(next) = page.next {
        println!("more: --after {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &SessionsArgs) -> String {
    let mut path = format!("/api/sessions?limit={}", args.limit);
    for (key, value) in [
        ("uid", &args.uid),
        ("address", &args.address),
        ("frontend", &args.frontend),
        ("transport", &args.transport),
        ("after", &args.after),
    ] {
        if let Some(value) = value {
            path.extend(["&", key, "=", &escape(value)]);
        }
    }
    path
}

const HEAD: [&str; 8] = [
    "SID",
    "UID",
    "FRONTEND",
    "TRANSPORT",
    "ADDRESS",
    "AGE",
    "IN",
    "OUT",
];

fn table(sessions: &[SessionInfo]) -> String {
    let mut rows: Vec<[String; 8]> = vec![HEAD.map(str::to_owned)];
    rows.extend(sessions.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn row(session: &SessionInfo) -> [String; 8] {
    [
        session.sid.clone(),
        session
            .uid
            .clone()
            .map_or_else(|| "-".to_owned(), printable),
        session.frontend.clone(),
        session.transport.clone(),
        session
            .address
            .map_or_else(|| "-".to_owned(), |address| address.to_string()),
        age(session.age_ms),
        bytes(session.bytes_in),
        bytes(session.bytes_out),
    ]
}

/// Users choose their names; a terminal must not obey them.
fn printable(text: String) -> String {
    if text.chars().any(char::is_control) {
        return text.escape_debug().to_string();
    }
    text
}

fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (n, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    match unit {
        0 => format!("{whole} B"),
        _ => format!("{whole}.{tenths} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        assert_eq!(
            [age(5_999), age(61_000), age(3_660_000), age(90_000_000)],
            ["5s", "1m01s", "1h01m", "1d01h"]
        );
        assert_eq!(
            [bytes(999), bytes(1_250), bytes(12_345_678)],
            ["999 B", "1.2 KB", "12.3 MB"]
        );
        assert_eq!(printable("a\u{1b}[31m".to_owned()), "a\\u{1b}[31m");
        assert_eq!(
            table(&[]),
            "SID  UID  FRONTEND  TRANSPORT  ADDRESS  AGE  IN  OUT\n"
        );
    }
}
