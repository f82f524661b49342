//! Process: the figures of the process, its runtime and its build, read when they are asked for.
//!
//! Those of the process have the names that Prometheus' own clients give them. They come from
//! Linux's `/proc`; what it lacks is left out.

use std::fs;
use std::path::Path;

use super::snapshot::Snapshot;

/// The length of the kernel's clock tick in its interface, in seconds.
const CLOCK_TICK: f64 = 0.01;

/// Adds the figures of this process.
pub(super) fn add(snapshot: &mut Snapshot) {
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", env!("ONEPORT_REVISION")),
        ("rustc", env!("ONEPORT_RUSTC")),
        ("target", &target),
    ];
    snapshot.add("oneport_build_info", &build, 1.0);
    add_runtime(snapshot);
    add_process(snapshot, Path::new("/proc"));
}

/// Adds the figures of the runtime that this thread belongs to.
fn add_runtime(snapshot: &mut Snapshot) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let runtime = runtime.metrics();
    let count = |count: usize| count as f64;
    snapshot.add("oneport_runtime_workers", &[], count(runtime.num_workers()));
    snapshot.add(
        "oneport_runtime_tasks",
        &[],
        count(runtime.num_alive_tasks()),
    );
    snapshot.add(
        "oneport_runtime_queue_depth",
        &[],
        count(runtime.global_queue_depth()),
    );
    for worker in 0..runtime.num_workers() {
        let name = worker.to_string();
        let labels = [("worker", &*name)];
        let busy = runtime.worker_total_busy_duration(worker);
        snapshot.add(
            "oneport_runtime_busy_seconds_total",
            &labels,
            busy.as_secs_f64(),
        );
        let parks = runtime.worker_park_count(worker);
        snapshot.add("oneport_runtime_parks_total", &labels, parks as f64);
    }
}

fn add_process(snapshot: &mut Snapshot, proc: &Path) {
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let own = proc.join("self");
    let stat = read("self/stat");
    let limits = read("self/limits");
    let netstat = read("self/net/netstat");
    let mut add = |name, value: Option<f64>| {
        if let Some(value) = value {
            snapshot.add(name, &[], value);
        }
    };
    add(
        "process_cpu_seconds_total",
        field(&stat, 14)
            .zip(field(&stat, 15))
            .map(|(user, system)| (user + system) * CLOCK_TICK),
    );
    add("process_threads", field(&stat, 20));
    add(
        "process_start_time_seconds",
        field(&stat, 22)
            .zip(boot_time(&read("stat")))
            .map(|(ticks, boot)| boot + ticks * CLOCK_TICK),
    );
    add("process_virtual_memory_bytes", field(&stat, 23));
    add(
        "process_resident_memory_bytes",
        resident(&read("self/status")),
    );
    add("process_open_fds", open_files(&own.join("fd")));
    add("process_max_fds", limit(&limits, "Max open files"));
    add(
        "process_virtual_memory_max_bytes",
        limit(&limits, "Max address space"),
    );
    add(
        "process_network_receive_bytes_total",
        of_protocol(&netstat, "IpExt:", "InOctets"),
    );
    add(
        "process_network_transmit_bytes_total",
        of_protocol(&netstat, "IpExt:", "OutOctets"),
    );
}

/// Returns a field of `/proc/PID/stat` by its number in proc(5), from the third on. The second is
/// the name of the program, which may contain spaces and parentheses.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let field = fields
        .split_ascii_whitespace()
        .nth(number.checked_sub(3)?)?;
    field.parse().ok()
}

/// Returns when the machine started, in seconds since 1970.
fn boot_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn resident(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// Returns the soft limit of a row in `/proc/PID/limits`.
fn limit(limits: &str, row: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(row))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

/// Returns how many descriptors are open. Linux 6.2 and later tells; with earlier ones, they are
/// counted.
fn open_files(directory: &Path) -> Option<f64> {
    match fs::metadata(directory).ok()?.len() {
        0 => Some(fs::read_dir(directory).ok()?.count() as f64),
        count => Some(count as f64),
    }
}

/// Returns a value of `/proc/PID/net/netstat`, whose lines come in pairs: names, then values.
fn of_protocol(netstat: &str, protocol: &str, name: &str) -> Option<f64> {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix(protocol));
    let names = lines.next()?.split_ascii_whitespace();
    let values = lines.next()?.split_ascii_whitespace();
    let mut both = names.zip(values);
    both.find_map(|(found, value)| (found == name).then(|| value.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name_of_the_program() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 7 0 300 8192 2";
        assert_eq!(field(stat, 14), Some(250.0));
        assert_eq!(field(stat, 20), Some(7.0));
        assert_eq!(field(stat, 23), Some(8192.0));
        assert_eq!(field(stat, 99), None);
        assert_eq!(field(stat, 0), None);
        assert_eq!(field("", 14), None);
    }

    #[test]
    fn other_files_are_read_by_their_names() {
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000.0)
        );
        assert_eq!(
            resident("VmSize:\t 9 kB\nVmRSS:\t  12 kB\n"),
            Some(12_288.0)
        );
        assert_eq!(resident("VmRSS: many kB"), None);
        let limits = "Limit      Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\nMax address space  unlimited  unlimited  bytes\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(f64::INFINITY));
        assert_eq!(limit(limits, "Max stack size"), None);
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InOctets OutOctets\nIpExt: 5 6\n";
        assert_eq!(of_protocol(netstat, "IpExt:", "OutOctets"), Some(6.0));
        assert_eq!(of_protocol(netstat, "IpExt:", "NoSuch"), None);
        assert_eq!(of_protocol("IpExt: InOctets", "IpExt:", "InOctets"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_all_figures() {
        let mut snapshot = Snapshot::default();
        add(&mut snapshot);
        assert_eq!(
            snapshot.sum(
                "oneport_build_info",
                &[("version", env!("CARGO_PKG_VERSION"))]
            ),
            1.0
        );
        let build = &snapshot.series("oneport_build_info")[0];
        let rustc = build.label("rustc").unwrap();
        assert!(rustc.starts_with("1."), "{rustc}");
        assert_ne!(build.label("revision"), Some(""));
        for name in [
            "process_threads",
            "process_start_time_seconds",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(snapshot.sum(name, &[]) > 0.0, "{name}");
        }
        let names = snapshot.families.iter().map(|family| &family.name);
        assert!(names.is_sorted());
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let mut snapshot = Snapshot::default();
        add_process(&mut snapshot, Path::new("/nonexistent"));
        assert!(snapshot.families.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn runtime_has_its_workers() {
        let mut snapshot = Snapshot::default();
        add_runtime(&mut snapshot);
        assert_eq!(snapshot.sum("oneport_runtime_workers", &[]), 2.0);
        assert_eq!(
            snapshot.series("oneport_runtime_busy_seconds_total").len(),
            2
        );
    }
}
