//! `shaddock keep`: the parent of a program that knows no lifeline. It stops the program when its own is cut, and throws away the
//! program's directory.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use shaddock::signals::EndSignals;
use tokio::process::{Child, Command};

use super::{Error, lifeline};
use crate::commands::Outcome;

/// The output of the program, in its directory.
pub(super) const LOG: &str = "log";
/// How long the program may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// The servers that lost the same parent need the program while they say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// Lines of its log that are shown when a program ends by itself.
const LAST_WORDS: usize = 5;

/// Run a program until standard input ends.
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Directory of the program, thrown away when it ends
    #[arg(long)]
    directory: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

pub(crate) fn keep(args: &KeepArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kept = runtime.block_on(run(args));
    let _ = fs::remove_dir_all(&args.directory);
    // The last keeper takes the directory around them with it.
    if let Some(around) = args.directory.parent() {
        let _ = fs::remove_dir(around);
    }
    kept
}

async fn run(args: &KeepArgs) -> Outcome {
    let log = File::create(args.directory.join(LOG))?;
    let (name, arguments) = args.program.split_first().ok_or("no program")?;
    let mut signals = EndSignals::new()?;
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", name.display()))?;
    // The parent prints it, so that an operator can kill the process. The parent may have stopped reading.
    let _ = writeln!(std::io::stdout(), "{}", child.id().unwrap_or_default());
    tokio::select! {
        status = child.wait() => return Err(last_words(name, status?, &args.directory)),
        cut = lifeline::cut() => {
            if cut? == lifeline::Cut::Orphaned {
                // It may end meanwhile; either way it is over then.
                let _ = tokio::time::timeout(GOODBYE, child.wait()).await;
            }
        }
        _ = signals.next() => {}
    }
    stop(&mut child).await?;
    Ok(ExitCode::SUCCESS)
}

async fn stop(child: &mut Child) -> std::io::Result<()> {
    if let Some(pid) = pid_of(child) {
        // It may just have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = tokio::time::timeout(PATIENCE, child.wait()).await {
        return status.map(drop);
    }
    child.kill().await
}

/// The process id, unless it has ended and was waited for.
fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

fn last_words(name: &OsString, status: ExitStatus, directory: &Path) -> Error {
    let log = fs::read(directory.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(LAST_WORDS);
    let name = Path::new(name).file_name().unwrap_or(name);
    format!(
        "{} ended ({status}). The end of its log:\n{}",
        name.display(),
        lines[last..].join("\n")
    )
    .into()
}
