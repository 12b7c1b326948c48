//! Who did what to how many, and when: a line of JSON for each command.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

/// Where lines go.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: the log of the process, under the target `shaddock::audit`.
    file: Option<PathBuf>,
    /// One line at a time.
    writes: Mutex<()>,
}

/// One command. Bodies of messages and values of settings are not in it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The scope and the beginning of the token's hash; `local` without tokens.
    pub(crate) who: String,
    pub(crate) command: &'static str,
    pub(crate) to: Value,
    /// Route, reason, user, topic or keys.
    pub(crate) what: Value,
    pub(crate) dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) matched: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Audit {
    /// An empty path: the log of the process.
    pub(crate) fn new(file: &Path) -> Self {
        Self(Arc::new(Inner {
            file: (!file.as_os_str().is_empty()).then(|| file.to_owned()),
            writes: Mutex::new(()),
        }))
    }

    /// Makes sure that lines can be written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn check(&self) -> std::io::Result<()> {
        match &self.0.file {
            Some(file) => open(file).map(drop),
            None => Ok(()),
        }
    }

    /// Writes a line. What cannot be written goes to the log.
    pub(crate) async fn write(&self, line: &Line) {
        // Texts and numbers always have a JSON form.
        let mut text = serde_json::to_string(line).unwrap_or_default();
        let Some(file) = self.0.file.clone() else {
            tracing::info!(target: "shaddock::audit", entry = text, "an operator's command");
            return;
        };
        text.push('\n');
        let _one = self.0.writes.lock().await;
        // Opened for each line: whoever rotates the file need not tell us.
        let written = tokio::task::spawn_blocking(move || {
            let done = open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
            done.map_err(|error| (error, text))
        });
        if let Ok(Err((error, text))) = written.await {
            tracing::error!(%error, entry = text.trim_end(), "the audit log cannot be written (`admin.audit`)");
        }
    }
}

fn open(file: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
}
