//! CPU and memory of a process, and of the whole machine, from `/proc`.

use std::{fs, io, time::Duration};

/// The resources that a process has used up to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time, to the nanosecond: the sum of the scheduler's accounts (`schedstat`) of all live threads.
    pub(crate) scheduled: Duration,
    /// CPU time in ticks of 10 ms, including ended threads: in user space.
    pub(crate) user: Duration,
    /// The same: in the kernel.
    pub(crate) system: Duration,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// CPU time since `earlier`. If a thread has ended in between, its account is gone, and the coarser ticks are correct.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        let ticks = (self.user + self.system).saturating_sub(earlier.user + earlier.system);
        let fine = self.scheduled.saturating_sub(earlier.scheduled);
        if ticks.saturating_sub(fine) > Duration::from_millis(50) {
            ticks
        } else {
            fine
        }
    }
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    pub(crate) const fn new(pid: u32) -> Self {
        Self { pid }
    }

    pub(crate) fn usage(self) -> io::Result<Usage> {
        let (user, system) = self.ticks()?;
        let resident = self.resident()?;
        Ok(Usage {
            scheduled: self.scheduled()?,
            user,
            system,
            resident,
        })
    }

    fn scheduled(self) -> io::Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            sum += number(text.split(' ').next());
        }
        Ok(Duration::from_nanos(sum))
    }

    fn ticks(self) -> io::Result<(Duration, Duration)> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name, in brackets, may contain blanks and brackets.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_ascii_whitespace();
        let user = number(fields.nth(11));
        let system = number(fields.next());
        let second = rustix::param::clock_ticks_per_second().max(1);
        let time = |ticks: u64| Duration::from_nanos(ticks * (1_000_000_000 / second));
        Ok((time(user), time(system)))
    }

    /// Exact resident bytes: `statm` and `status` may be off by a hundred pages per CPU.
    pub(crate) fn resident(self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        Ok(number(line.and_then(|line| line.split_ascii_whitespace().next())) * 1024)
    }
}

/// The processes of a server, added.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Vec<Process>);

impl Processes {
    /// None if there are none.
    pub(crate) fn new(pids: &[u32]) -> Option<Self> {
        (!pids.is_empty()).then(|| Self(pids.iter().copied().map(Process::new).collect()))
    }

    /// An error names the process.
    pub(crate) fn usage(&self) -> Result<Usage, (u32, io::Error)> {
        self.0.iter().try_fold(Usage::default(), |sum, process| {
            let one = process.usage().map_err(|error| (process.pid, error))?;
            Ok(Usage {
                scheduled: sum.scheduled + one.scheduled,
                user: sum.user + one.user,
                system: sum.system + one.system,
                resident: sum.resident + one.resident,
            })
        })
    }

    pub(crate) fn resident(&self) -> io::Result<u64> {
        self.0.iter().map(|process| process.resident()).sum()
    }
}

/// CPU time of the whole machine: in use, and taken by other machines on the same host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) busy: Duration,
    pub(crate) stolen: Duration,
}

impl Machine {
    pub(crate) fn usage() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let second = rustix::param::clock_ticks_per_second().max(1);
        let fields: Vec<Duration> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .map(|field| Duration::from_nanos(number(Some(field)) * (1_000_000_000 / second)))
            .collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        // user nice system idle iowait irq softirq steal
        Ok(Self {
            busy: field(0) + field(1) + field(2) + field(5) + field(6),
            stolen: field(7),
        })
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn our_own_use_of_the_processor_shows() {
        let me = Process::new(std::process::id());
        let before = me.usage().unwrap();
        assert!(before.resident > 100_000);
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        // Other processes may have the CPU for a while.
        while me.usage().unwrap().cpu_since(&before) < Duration::from_millis(20) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "it does not show"
            );
            for _ in 0..100_000 {
                sum = std::hint::black_box(sum + 1);
            }
        }
        assert!(Machine::usage().unwrap().busy > Duration::ZERO);
    }

    #[test]
    fn ticks_win_when_a_thread_has_taken_its_account_with_it() {
        let earlier = Usage::default();
        let later = Usage {
            scheduled: Duration::from_millis(100),
            user: Duration::from_millis(400),
            ..earlier
        };
        assert_eq!(later.cpu_since(&earlier), Duration::from_millis(400));
        let exact = Usage {
            user: Duration::from_millis(110),
            ..later
        };
        assert_eq!(exact.cpu_since(&earlier), Duration::from_millis(100));
    }

    #[test]
    fn several_processes_are_added_up() {
        let me = std::process::id();
        assert!(Processes::new(&[]).is_none());
        let one = Processes::new(&[me]).unwrap().resident().unwrap();
        let two = Processes::new(&[me, me]).unwrap().usage().unwrap().resident;
        assert!(two > one * 3 / 2 && two < one * 3, "{one} {two}");
        let (pid, _) = Processes::new(&[me, u32::MAX])
            .unwrap()
            .usage()
            .unwrap_err();
        assert_eq!(pid, u32::MAX);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Process::new(u32::MAX).usage().is_err());
    }
}
