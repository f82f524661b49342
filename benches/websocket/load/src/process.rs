//! The resources of processes, from /proc: CPU time and memory.

use std::collections::HashSet;
use std::fs;
use std::ops::Sub;

/// CPU time in microseconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    /// The CPU time of the processes since they started.
    pub fn of(processes: &[u32]) -> Self {
        let tick = 1e6 / rustix::param::clock_ticks_per_second() as f64;
        let mut cpu = Self::default();
        for fields in processes.iter().filter_map(|pid| stat(*pid)) {
            cpu.user += ticks(&fields, 11) * tick;
            cpu.system += ticks(&fields, 12) * tick;
        }
        cpu
    }

    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }
}

/// Memory in bytes: the processes' own, and the kernel's slab, which holds sockets and is the whole
/// machine's.
#[derive(Clone, Copy)]
pub struct Memory {
    pub pss: f64,
    pub slab: f64,
}

impl Memory {
    pub fn of(processes: &[u32]) -> Self {
        Self {
            pss: processes
                .iter()
                .map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
                .sum(),
            slab: field("/proc/meminfo", "Slab:"),
        }
    }
}

/// The processes and all the descendants they have now.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family: HashSet<u32> = roots.iter().copied().collect();
    loop {
        let known = family.len();
        for (pid, parent) in &parents {
            if family.contains(parent) {
                family.insert(*pid);
            }
        }
        if family.len() == known {
            return family.into_iter().collect();
        }
    }
}

/// The fields of /proc/PID/stat after the command, which may contain anything; the first is the
/// state.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn ticks(fields: &[String], index: usize) -> f64 {
    fields
        .get(index)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0.0)
}

/// A line `NAME: N kB`, in bytes.
fn field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let number = line.strip_prefix(name)?.split_whitespace().next()?;
            number.parse::<f64>().ok()
        })
        .map_or(0.0, |kibibytes| kibibytes * 1024.0)
}
