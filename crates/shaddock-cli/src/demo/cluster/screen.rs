//! The output of the parent: every line with the name of the server that wrote it.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use shaddock::logging::LineQueue;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest name, and so the width of the first column.
const WIDTH: usize = 11;
/// Bytes of a line. What is longer is shown as several.
const LONGEST: usize = 8192;
/// Names get these colours by turns; they can be read on black and on white.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// Bytes that wait while standard error is not read. Above it lines are dropped.
const WAITING: usize = 1 << 20;
/// How long the end of the demo waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Standard error. The parent has one thread, which must not wait for it: it stops the children.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    colour: bool,
    out: LineQueue,
}

impl Screen {
    pub(super) fn new() -> std::io::Result<Self> {
        let stderr = std::io::stderr();
        let colour = stderr.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let out = LineQueue::new(WAITING);
        let missing = out.clone();
        out.run(stderr, move |lines| {
            missing.push(format!("{lines} lines are missing\n").as_bytes());
        })?;
        Ok(Self { colour, out })
    }

    /// Waits for the last lines to be written, but not for long.
    pub(super) fn flush(&self) {
        self.out.flush(LAST_LINES);
    }

    /// Says something as the parent.
    pub(super) fn print(&self, text: &str) {
        for line in text.lines() {
            self.line("demo", 1, line.as_bytes());
        }
    }

    /// Shows a line of the `n`th child.
    pub(super) fn line(&self, name: &str, n: usize, line: &[u8]) {
        let mut text = Vec::with_capacity(line.len() + 32);
        let colour = COLOURS[n % COLOURS.len()];
        // Writing to memory does not fail.
        let _ = if self.colour {
            write!(text, "\x1b[{colour}m{name:<WIDTH$} │\x1b[0m ")
        } else {
            write!(text, "{name:<WIDTH$} │ ")
        };
        text.extend_from_slice(line);
        text.push(b'\n');
        self.out.push(&text);
    }
}

/// The lines of a stream.
pub(super) struct Lines<R> {
    stream: R,
    waiting: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) const fn of(stream: R) -> Self {
        Self {
            stream,
            waiting: Vec::new(),
        }
    }

    /// The next one without its end; `None` after the last. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.waiting.drain(..=end).collect();
                line.pop();
                return Some(line);
            }
            let room = LONGEST.saturating_sub(self.waiting.len());
            if room == 0 {
                return Some(std::mem::take(&mut self.waiting));
            }
            let mut stream = (&mut self.stream).take(room as u64);
            // A stream that fails has ended.
            if !matches!(stream.read_buf(&mut self.waiting).await, Ok(n) if n > 0) {
                let rest = std::mem::take(&mut self.waiting);
                return (!rest.is_empty()).then_some(rest);
            }
        }
    }
}

/// A command as one would type it.
pub(super) fn command_line(program: &str, arguments: &[OsString]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+".contains(c);
    let mut line = program.to_owned();
    for argument in arguments {
        let argument = argument.to_string_lossy();
        line.push(' ');
        if !argument.is_empty() && argument.chars().all(plain) {
            line.push_str(&argument);
        } else {
            line.push('\'');
            line.push_str(&argument.replace('\'', r"'\''"));
            line.push('\'');
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::of(text);
        let mut shown = Vec::new();
        while let Some(line) = lines.next().await {
            shown.push(String::from_utf8_lossy(&line).into_owned());
        }
        shown
    }

    #[tokio::test]
    async fn lines_are_whole_and_bounded() {
        assert_eq!(shown(b"one\n\ntwo").await, ["one", "", "two"]);
        assert!(shown(b"").await.is_empty());
        let long = shown("x".repeat(20_000).as_bytes()).await;
        let lengths: Vec<_> = long.iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, 20_000 - 2 * LONGEST]);
    }

    #[test]
    fn commands_can_be_pasted() {
        let arguments = ["--set", "a.b=it's", "x=$HOME", "plain-1", ""].map(OsString::from);
        assert_eq!(
            command_line("shaddock", &arguments),
            r"shaddock --set 'a.b=it'\''s' 'x=$HOME' plain-1 ''"
        );
    }
}
