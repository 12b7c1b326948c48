//! Memory, time and descriptors of the process, from `/proc`. Elsewhere they are absent.

/// Values of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ProcessStats {
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_files: u64,
    /// Seconds since 1970.
    pub(crate) started: f64,
}

/// Linux counts processor time in hundredths of a second for programs, whatever the kernel does inside.
const TICKS_PER_SECOND: f64 = 100.0;

/// The current values of this process.
pub(crate) fn read() -> Option<ProcessStats> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let open_files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(ProcessStats {
        resident_bytes: memory(&status, "VmRSS:")?,
        virtual_bytes: memory(&status, "VmSize:")?,
        cpu_seconds: cpu(&stat)?,
        open_files: open_files as u64,
        started: booted(&std::fs::read_to_string("/proc/stat").ok()?)? + start(&stat)?,
    })
}

/// The values that are read often. Counting descriptors takes long if there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) resident_bytes: u64,
    pub(crate) cpu_ms: u64,
}

/// Memory and processor time of this process now.
pub(crate) fn usage() -> Option<Usage> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some(Usage {
        resident_bytes: memory(&status, "VmRSS:")?,
        cpu_ms: ticks(&stat)? * 10,
    })
}

fn memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The fields behind the second one, which is the name in brackets and may hold anything.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace())
}

/// Seconds from the start of the machine to that of the process.
fn start(stat: &str) -> Option<f64> {
    let ticks: u32 = fields(stat)?.nth(19)?.parse().ok()?;
    Some(f64::from(ticks) / TICKS_PER_SECOND)
}

/// When the machine started, in seconds since 1970.
fn booted(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse::<u32>().ok().map(f64::from)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact for 2^53 hundredths of a second"
)]
fn cpu(stat: &str) -> Option<f64> {
    Some(ticks(stat)? as f64 / TICKS_PER_SECOND)
}

/// Processor time of programs and kernel, in hundredths of a second.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = fields(stat)?.skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_texts_of_linux() {
        let status = "Name:\tx\nVmSize:\t 4096 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(memory(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(memory(status, "VmSize:"), Some(4 << 20));
        assert_eq!(cpu("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0"), Some(2.0));
        assert_eq!(memory("Name:\tx\n", "VmRSS:"), None);
        let stat = "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 1234 9 9";
        assert_eq!((cpu(stat), start(stat)), (Some(2.0), Some(12.34)));
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn knows_this_process() {
        let stats = read().unwrap();
        assert!(stats.resident_bytes > 1 << 20 && stats.open_files > 2);
        assert!(stats.virtual_bytes >= stats.resident_bytes);
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - stats.started;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
