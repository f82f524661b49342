//! MainProcess: the process that serves, as its surroundings see it: by its pid file, and by the
//! messages to the service manager.

use std::path::Path;
use std::time::Duration;

use super::pid_file::PidFile;
use super::systemd::{Systemd, watchdog};
use super::watchdog::watch;
use crate::config::{ServerConfig, SourceLocation};
use crate::gateway::Gateway;

/// How often the line for `systemctl status` is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// By how much the service manager waits longer than the drain takes.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// The process that serves, or is about to. Dropping it removes the pid file.
#[derive(Debug)]
pub(super) struct MainProcess {
    systemd: Systemd,
    pid_file: Option<PidFile>,
}

impl MainProcess {
    /// Prepares the pid file. `is_main` is whether no earlier process of the server runs.
    ///
    /// Fails with a sentence about a file that cannot be written.
    pub(super) fn prepare(server: &ServerConfig, is_main: bool) -> Result<Self, String> {
        let path: &Path = &server.pid_file;
        let pid_file = match path.as_os_str().is_empty() {
            true => None,
            false => Some(PidFile::write(path).map_err(|error| {
                let place: SourceLocation = server.location.key("pid_file");
                format!("{place}: cannot write {}: {error}", path.display())
            })?),
        };
        Ok(Self {
            systemd: Systemd::from_environment(is_main),
            pid_file,
        })
    }

    /// Announces that the process serves, in the place of the process `replaced`.
    pub(super) fn serve(&self, gateway: &Gateway, replaced: Option<u32>) {
        if let Some(file) = &self.pid_file {
            file.publish(replaced);
        }
        self.systemd.take_over();
        self.systemd.ready();
        self.systemd.status("Serving.");
        let services = gateway.services();
        let tasks = &services.tasks;
        if self.systemd.is_there() {
            tasks.spawn_last("status", report(self.systemd.clone(), gateway.clone()));
        }
        if let Some(deadline) = watchdog() {
            tasks.spawn_last(
                "watchdog",
                watch(self.systemd.clone(), deadline, tasks.clone()),
            );
        }
    }

    /// Returns the service manager.
    pub(super) fn systemd(&self) -> &Systemd {
        &self.systemd
    }

    /// Returns the path of the pid file.
    pub(super) fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_ref().map(PidFile::path)
    }

    /// Announces that another process serves, which has a pid file at the path `next`. One of this
    /// process at another path goes: it would name a process that has ended. Returns the file that
    /// is left to the next process.
    pub(super) fn hand_over(mut self, pid: u32, next: Option<&Path>) -> Option<PidFile> {
        self.systemd
            .status("Another process serves; this one drains.");
        if watchdog().is_some() {
            self.systemd.alive(); // the deadline of the other one begins now
        }
        self.systemd.hand_over(pid);
        let mut left = self.pid_file.take_if(|file| next == Some(file.path()))?;
        left.leave();
        Some(left)
    }

    /// Announces the end, after a drain of `within` at most.
    pub(super) fn stop(&self, within: Duration) {
        self.systemd.status("Draining.");
        self.systemd.stopping(within + STOP_MARGIN);
    }
}

/// Renews the line about the state, until all other tasks have ended.
async fn report(systemd: Systemd, gateway: Gateway) {
    let services = gateway.services();
    let tasks = &services.tasks;
    let answered = || {
        let metrics = services.metrics.as_ref()?;
        Some(metrics.sum("oneport_requests_total"))
    };
    let (mut before, mut last) = (answered(), String::new());
    loop {
        tokio::select! {
            () = tokio::time::sleep(STATUS_EVERY) => {}
            () = tasks.ended() => return,
        }
        if tasks.is_draining() {
            continue;
        }
        let now = answered();
        let requests = now.zip(before).map_or(0.0, |(now, before)| now - before);
        let line = format!(
            "Serving: {} WebSockets, {:.0} requests per second.",
            gateway.sockets().len(),
            requests / STATUS_EVERY.as_secs_f64(),
        );
        if line != last {
            systemd.status(&line);
            last = line;
        }
        before = now;
    }
}
