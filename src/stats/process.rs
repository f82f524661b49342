//! Process: what the system knows about this process.

use std::fs;

use serde::{Deserialize, Serialize};

/// The clock ticks in a second: `USER_HZ`, which is the same on all of Linux' architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the system knows about this process; zero where it does not say.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ProcessStats {
    /// The process's number.
    pub pid: u32,
    /// Seconds of processor time, of all threads.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The number of threads.
    pub threads: u64,
    /// Open files and sockets.
    pub open_fds: u64,
    /// The processors that the process may use.
    pub cpus: u64,
}

impl ProcessStats {
    /// Reads the figures from `/proc`.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of_status = |key: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Self {
            pid: std::process::id(),
            cpu_seconds: cpu_seconds(&stat).unwrap_or_default(),
            resident_bytes: of_status("VmRSS:").unwrap_or_default() << 10, // in kB
            threads: of_status("Threads:").unwrap_or_default(),
            // Linux 6.2 and later report the number as the directory's size. Listing it would take
            // long with many connections.
            open_fds: fs::metadata("/proc/self/fd").map_or(0, |found| found.len()),
            cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64),
        }
    }
}

/// Returns the seconds of processor time in `/proc/self/stat`. The program's name is in parentheses
/// and may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_the_program_may_hold_anything() {
        let stat = "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("1 (a"), None);
    }

    #[test]
    fn own_process_has_memory_and_threads() {
        let found = ProcessStats::read();
        assert!(
            found.resident_bytes > 1 << 20 && found.threads > 0,
            "{found:?}"
        );
    }
}
