//! The audit log: a line of JSON for each command with its caller, counts and time.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

/// Lines that may wait for the disk. Further lines go to the log of the process.
const MOST_WAITING: usize = 256;

/// The destination of audit lines.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: the log of the process, under the target `shaddock::audit`.
    file: Option<PathBuf>,
    /// Held while a line is written, also if the caller no longer waits: a disk that does not respond blocks only one thread.
    writes: Arc<Mutex<()>>,
    /// Permits; [`MOST_WAITING`] in total.
    waiting: Arc<Semaphore>,
    /// Lines that are not in the file.
    lost: AtomicU64,
}

/// The line of one command. It contains neither message bodies nor values of settings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The scope and the start of the token's hash; `local` without tokens.
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
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) failed: u64,
    /// Frontends that may have matching sessions but did not report an outcome.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unanswered: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Line {
    /// A line without an outcome.
    pub(crate) fn new(command: &'static str, to: Value, what: Value) -> Self {
        Self {
            time_ms: now_ms(),
            who: String::new(),
            command,
            to,
            what,
            dry_run: false,
            matched: None,
            done: None,
            failed: 0,
            unanswered: Vec::new(),
            job: None,
            error: None,
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Audit {
    /// An empty path selects the log of the process.
    pub(crate) fn new(file: &Path) -> Self {
        Self(Arc::new(Inner {
            file: (!file.as_os_str().is_empty()).then(|| file.to_owned()),
            writes: Arc::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            lost: AtomicU64::new(0),
        }))
    }

    /// The number of lines that are missing in the file and are only in the log of the process.
    pub(crate) fn lost_lines(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Checks that lines can be written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn check(&self) -> std::io::Result<()> {
        match &self.0.file {
            Some(file) => open(file).map(drop),
            None => Ok(()),
        }
    }

    /// Writes a line. If the file cannot be written, the line goes to the log of the process.
    pub(crate) async fn write(&self, line: &Line) {
        // Texts and numbers can always be serialized.
        let text = serde_json::to_string(line).unwrap_or_default();
        if let Err(unwritten) = self.put(text).await {
            if !matches!(unwritten, Unwritten::NoFile(_)) {
                self.0.lost.fetch_add(1, Ordering::Relaxed);
            }
            unwritten.log();
        }
    }

    /// Appends a line to the file.
    async fn put(&self, mut text: String) -> Result<(), Unwritten> {
        let Some(file) = self.0.file.clone() else {
            return Err(Unwritten::NoFile(text));
        };
        let Ok(_waits) = Arc::clone(&self.0.waiting).try_acquire_owned() else {
            return Err(Unwritten::TooSlow(text));
        };
        text.push('\n');
        let one = Arc::clone(&self.0.writes).lock_owned().await;
        // The file is opened for each line, so that it can be rotated without notifying the process.
        let written = tokio::task::spawn_blocking(move || {
            let _one = one;
            let done = open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
            done.map_err(|error| Unwritten::Failed(error, text))
        });
        // The runtime is shutting down; the error cannot be reported.
        written.await.unwrap_or(Ok(()))
    }
}

/// The reason why a line is not in the file, with the line.
enum Unwritten {
    NoFile(String),
    TooSlow(String),
    Failed(std::io::Error, String),
}

impl Unwritten {
    fn log(self) {
        match self {
            Self::NoFile(entry) => {
                tracing::info!(target: "shaddock::audit", entry, "operator command");
            }
            Self::TooSlow(entry) => tracing::error!(
                entry,
                "the audit log (`admin.audit`) is too slow: {MOST_WAITING} lines are waiting, so this line is only in the log of the process"
            ),
            Self::Failed(error, text) => {
                let entry = text.trim_end();
                tracing::error!(%error, entry, "the audit log cannot be written (`admin.audit`)");
            }
        }
    }
}

fn open(file: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("shaddock-{name}-{}.jsonl", std::process::id()))
    }

    /// A disk that does not respond keeps a bounded number of lines waiting; the next line goes to the log at once. When the disk responds,
    /// the waiting lines are written.
    #[tokio::test]
    async fn so_many_lines_wait_and_no_more() {
        let file = file("audit-bound");
        let audit = Audit::new(&file);
        let disk = Arc::clone(&audit.0.writes).lock_owned().await;
        let waiting: Vec<_> = (0..MOST_WAITING)
            .map(|n| {
                let audit = audit.clone();
                tokio::spawn(async move { audit.put(n.to_string()).await.is_ok() })
            })
            .collect();
        let all_wait = async {
            while audit.0.waiting.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, all_wait).await.unwrap();
        for _ in 0..3 {
            let late = audit.put("late".to_owned());
            assert!(matches!(late.await, Err(Unwritten::TooSlow(text)) if text == "late"));
        }
        drop(disk);
        for one in waiting {
            assert!(one.await.unwrap());
        }
        assert!(audit.put("again".to_owned()).await.is_ok());
        let text = std::fs::read_to_string(&file).unwrap();
        let _ = std::fs::remove_file(&file);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), MOST_WAITING + 1, "each line once");
        assert!(!lines.contains(&"late"));
    }

    #[tokio::test]
    async fn a_line_is_in_the_file_or_comes_back() {
        let file = file("audit-order");
        let audit = Audit::new(&file);
        for n in 0..20 {
            assert!(audit.put(n.to_string()).await.is_ok());
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let _ = std::fs::remove_file(&file);
        let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<u32>>());
        let nowhere = Audit::new(&std::env::temp_dir().join("no-such-folder").join("audit"));
        let lost = nowhere.put("kept".to_owned()).await;
        assert!(matches!(lost, Err(Unwritten::Failed(_, text)) if text == "kept\n"));
        let none = Audit::new(Path::new("")).put("x".to_owned()).await;
        assert!(matches!(none, Err(Unwritten::NoFile(text)) if text == "x"));
    }
}
