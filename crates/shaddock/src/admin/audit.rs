//! Who did what to how many, and when: a line of JSON for each command.

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

/// Lines that wait for the disk. More go to the log of the process.
const MOST_WAITING: usize = 256;

/// Where lines go.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: the log of the process, under the target `shaddock::audit`.
    file: Option<PathBuf>,
    /// One line at a time. Who writes holds it to the end, also if nobody waits for that any more: a disk that does not answer takes one thread.
    writes: Arc<Mutex<()>>,
    /// Places of [`MOST_WAITING`].
    waiting: Arc<Semaphore>,
    /// Lines that are not in the file.
    lost: AtomicU64,
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
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) failed: u64,
    /// Frontends that may have such sessions and did not say what became of them.
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
    /// Nothing is known of what became of it.
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
    /// An empty path: the log of the process.
    pub(crate) fn new(file: &Path) -> Self {
        Self(Arc::new(Inner {
            file: (!file.as_os_str().is_empty()).then(|| file.to_owned()),
            writes: Arc::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            lost: AtomicU64::new(0),
        }))
    }

    /// How many lines are not in the file, but in the log of the process only.
    pub(crate) fn lost_lines(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
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
        let text = serde_json::to_string(line).unwrap_or_default();
        if let Err(unwritten) = self.put(text).await {
            if !matches!(unwritten, Unwritten::NoFile(_)) {
                self.0.lost.fetch_add(1, Ordering::Relaxed);
            }
            unwritten.log();
        }
    }

    /// Puts a line into the file.
    async fn put(&self, mut text: String) -> Result<(), Unwritten> {
        let Some(file) = self.0.file.clone() else {
            return Err(Unwritten::NoFile(text));
        };
        let Ok(_waits) = Arc::clone(&self.0.waiting).try_acquire_owned() else {
            return Err(Unwritten::TooSlow(text));
        };
        text.push('\n');
        let one = Arc::clone(&self.0.writes).lock_owned().await;
        // Opened for each line: whoever rotates the file need not tell us.
        let written = tokio::task::spawn_blocking(move || {
            let _one = one;
            let done = open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
            done.map_err(|error| Unwritten::Failed(error, text))
        });
        // The runtime ends: nothing can be said any more.
        written.await.unwrap_or(Ok(()))
    }
}

/// Why a line is not in the file, and the line.
enum Unwritten {
    NoFile(String),
    TooSlow(String),
    Failed(std::io::Error, String),
}

impl Unwritten {
    fn log(self) {
        match self {
            Self::NoFile(entry) => {
                tracing::info!(target: "shaddock::audit", entry, "an operator's command");
            }
            Self::TooSlow(entry) => tracing::error!(
                entry,
                "the audit log (`admin.audit`) is too slow: {MOST_WAITING} lines wait for it, and this one stands here only"
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

    /// A disk that does not answer keeps so many lines waiting and no more: the next one goes to the log at once. When it answers, those that
    /// waited are written.
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
