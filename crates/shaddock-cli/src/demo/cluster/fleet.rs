//! The children of the demo: started, listened to, stopped in order.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncRead,
    process::{ChildStdin, Command},
    sync::mpsc,
};

use super::{
    Error, lifeline,
    screen::{Lines, Screen},
};

/// News of children that wait to be read. When it is full, children wait with what they say.
const WAITING: usize = 64;
/// How long a keeper may take: its program has five seconds.
const KEEPER: Duration = Duration::from_secs(8);
/// Time limit of keepers after a second signal.
const HURRY: Duration = Duration::from_secs(2);

/// In which step of the stop a child's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Holds clients; stopped first.
    Frontend,
    /// Serves the frontends; stopped next.
    Backend,
    /// Keeps NATS or etcd; stopped last.
    Keeper,
}

/// An event of a child.
#[derive(Debug)]
pub(super) enum News {
    /// Wrote a line on its standard output.
    Said(String, String),
    /// Ended, and how.
    Ended(String, String),
}

struct Member {
    kind: Kind,
    pid: u32,
    /// `None`: let go.
    lifeline: Option<ChildStdin>,
}

/// All children that have not ended.
pub(super) struct Fleet {
    screen: Screen,
    members: BTreeMap<String, Member>,
    count: usize,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl Fleet {
    pub(super) fn new(screen: Screen) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        Self {
            screen,
            members: BTreeMap::new(),
            count: 0,
            sender,
            news,
        }
    }

    pub(super) const fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Starts a child under a name.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        kind: Kind,
        command: &mut Command,
    ) -> Result<(), Error> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // A keeper has a program to stop, and does so when its lifeline is cut.
            .kill_on_drop(kind != Kind::Keeper)
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        let member = Member {
            kind,
            pid: child.id().unwrap_or_default(),
            lifeline: child.stdin.take(),
        };
        self.members.insert(name.to_owned(), member);
        self.count += 1;
        let (screen, n) = (self.screen.clone(), self.count);
        let (out, log) = (child.stdout.take(), child.stderr.take());
        let (sender, name) = (self.sender.clone(), name.to_owned());
        tokio::spawn(async move {
            let said = async {
                let mut lines = out.map(Lines::of);
                while let Some(line) = next_line(&mut lines).await {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let _ = sender.send(News::Said(name.clone(), line)).await;
                }
            };
            let logged = async {
                let mut lines = log.map(Lines::of);
                while let Some(line) = next_line(&mut lines).await {
                    screen.line(&name, n, &line);
                }
            };
            // All that it wrote is shown before its end.
            tokio::join!(said, logged);
            let how = child.wait().await.map_or_else(|e| e.to_string(), describe);
            let _ = sender.send(News::Ended(name, how)).await;
        });
        Ok(())
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> News {
        loop {
            // `self` has a sender, so the channel does not end.
            if let Some(news) = self.news.recv().await {
                if let News::Ended(name, _) = &news {
                    self.members.remove(name);
                }
                return news;
            }
        }
    }

    /// Whether a server of the demo is left.
    pub(super) fn has_servers(&self) -> bool {
        self.members
            .values()
            .any(|member| member.kind != Kind::Keeper)
    }

    /// The process id of a child.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.members.get(name).map(|member| member.pid)
    }

    /// Stops all: frontends, then backends, each within `patience`, then NATS and etcd.
    pub(super) async fn stop(&mut self, patience: Duration) {
        for (kind, limit) in [
            (Kind::Frontend, patience),
            (Kind::Backend, patience),
            (Kind::Keeper, KEEPER),
        ] {
            self.release(kind).await;
            if tokio::time::timeout(limit, self.gone(kind)).await.is_err() {
                let late = self.names(kind).join(", ");
                self.screen
                    .print(&format!("killing servers that do not stop: {late}"));
                self.kill_all(kind);
            }
        }
        self.screen.print("stopped");
    }

    /// Ends the servers at once. NATS and etcd get a moment to do the same.
    pub(super) async fn kill(&mut self) {
        self.kill_all(Kind::Frontend);
        self.kill_all(Kind::Backend);
        self.release(Kind::Keeper).await;
        let _ = tokio::time::timeout(HURRY, self.gone(Kind::Keeper)).await;
    }

    async fn release(&mut self, kind: Kind) {
        let of_kind = self.members.values_mut().filter(|one| one.kind == kind);
        for lifeline in of_kind.filter_map(|one| one.lifeline.take()) {
            lifeline::release(lifeline).await;
        }
    }

    /// Done when no child of this kind is left.
    async fn gone(&mut self, kind: Kind) {
        while self.members.values().any(|member| member.kind == kind) {
            if let News::Ended(name, how) = self.next().await
                && how != describe(ExitStatus::default())
            {
                self.screen.print(&format!("{name} {how}"));
            }
        }
    }

    fn names(&self, kind: Kind) -> Vec<&str> {
        let of_kind = self.members.iter().filter(|(_, one)| one.kind == kind);
        of_kind.map(|(name, _)| name.as_str()).collect()
    }

    fn kill_all(&self, kind: Kind) {
        for member in self.members.values().filter(|one| one.kind == kind) {
            let pid = i32::try_from(member.pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // It may just have ended.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

async fn next_line<R: AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<Vec<u8>> {
    lines.as_mut()?.next().await
}

/// As the rest of a sentence that begins with a name.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "stopped".to_owned(),
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_speak_end_and_are_let_go() {
        let mut fleet = Fleet::new(Screen::new().unwrap());
        let script = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            command
        };
        fleet
            .spawn("early", Kind::Backend, &mut script("echo ready; exit 3"))
            .unwrap();
        assert!(
            matches!(fleet.next().await, News::Said(name, line) if name == "early" && line == "ready")
        );
        assert!(
            matches!(fleet.next().await, News::Ended(name, how) if name == "early" && how == "ended with status 3")
        );
        assert!(!fleet.has_servers());
        // Each ends when its standard input does.
        fleet
            .spawn("front", Kind::Frontend, &mut script("cat"))
            .unwrap();
        fleet
            .spawn("nats", Kind::Keeper, &mut script("cat"))
            .unwrap();
        assert!(fleet.has_servers() && fleet.pid("front").is_some());
        fleet.stop(Duration::from_secs(20)).await;
        assert!(fleet.members.is_empty());
    }

    #[tokio::test]
    async fn a_process_that_does_not_stop_is_killed() {
        let mut fleet = Fleet::new(Screen::new().unwrap());
        let mut command = Command::new("sleep");
        fleet
            .spawn("deaf", Kind::Backend, command.arg("1000"))
            .unwrap();
        fleet.stop(Duration::from_millis(50)).await;
        assert!(
            matches!(fleet.next().await, News::Ended(_, how) if how == "was killed by signal 9")
        );
    }
}
