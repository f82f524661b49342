//! Running: a server that serves, until a signal ends it or another process has taken its place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::HttpServer;
use super::drain::{Drained, drain, hand_over, leave};
use super::listeners::Listeners;
use super::main_process::MainProcess;
use super::metrics_listeners::MetricsListeners;
use super::reload::Reloader;
use super::restart::{Decision, OldProcess, Ready, Restart};
use super::signals::{Signal, Signals};
use crate::gateway::Gateway;
use crate::net::Bind;
use crate::services::Services;
use crate::telemetry;

/// How long a process that takes over waits for Redis before it accepts connections without it.
const LINK_DEADLINE: Duration = Duration::from_secs(5);

/// How long a process that ends takes to pass on the last tickets, and a SIGHUP.
const PASS_ON_DEADLINE: Duration = Duration::from_secs(1);

/// A server that accepts connections.
pub(super) struct Running {
    pub(super) gateway: Gateway,
    pub(super) listeners: Listeners<HttpServer>,
    pub(super) metrics: MetricsListeners,
    pub(super) reloader: Reloader,
    pub(super) restart: Restart,
    pub(super) main_process: MainProcess,
    pub(super) signals: Signals,
    /// How many reloads were requested before the last restart.
    pub(super) reloads_before: u64,
}

/// A process whose listeners this one has taken over.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) process: OldProcess,
    /// The addresses of the listeners that are its own.
    pub(super) listeners: Vec<Bind>,
    /// Cancelled at its end.
    pub(super) ended: CancellationToken,
}

/// Why a server ends.
pub(super) enum End {
    /// By a signal.
    Stop,
    /// With the process that this one was to replace.
    StopWithOld,
    /// Another process serves.
    Replaced(Ready),
}

impl Running {
    /// Becomes the process that serves: alone, or in the place of another one. Returns an end if
    /// that one stops.
    pub(super) async fn begin(&mut self, old: Option<Predecessor>) -> Option<End> {
        let mut replaced = None;
        if let Some(Predecessor {
            process,
            listeners,
            ended,
        }) = old
        {
            replaced = Some(process.pid());
            let services = self.gateway.services().clone();
            let pid_file = self.main_process.pid_file();
            let (decision, old) = process.ready(&listeners, pid_file, &services).await;
            if old.has_ended() {
                ended.cancel();
            }
            let (tasks, signals) = (services.tasks.clone(), self.signals.passed_on());
            let pid = replaced;
            tasks.spawn("old process", async move {
                tokio::select! {
                    () = old.ended(&services, &signals) => {
                        ended.cancel();
                        tracing::info!(old = pid, "the process that this one has replaced has ended");
                    }
                    () = services.tasks.stopping() => {}
                }
            });
            match decision {
                Decision::Go { reload: true } => self.reloader.request(),
                Decision::Go { reload: false } => {}
                Decision::Stop => return Some(End::StopWithOld),
            }
        }
        self.listeners.take_over();
        self.metrics.take_over();
        self.main_process.serve(&self.gateway, replaced);
        None
    }

    /// Serves until the end.
    pub(super) async fn serve(&mut self) -> End {
        loop {
            tokio::select! {
                biased; // one that was to stop is not replaced
                signal = self.signals.next() => match signal {
                    Signal::Stop => return End::Stop,
                    Signal::StopWithOld => return End::StopWithOld,
                    Signal::Reload => self.reloader.request(),
                    Signal::ReopenLogs => telemetry::reopen_logs(),
                    Signal::Restart => self.begin_restart(),
                },
                () = self.reloader.step(&mut self.listeners, &mut self.metrics) => {}
                ready = self.restart.step() => return End::Replaced(ready),
            }
        }
    }

    fn begin_restart(&mut self) {
        let earlier = self.gateway.services().earlier_process.get();
        if earlier.is_some_and(|ended| !ended.is_cancelled()) {
            // It knows this process only: its tickets and its end would not reach a third one.
            tracing::warn!(
                "the process that this one has replaced still drains; SIGUSR2 is ignored"
            );
            return;
        }
        let within = self.reloader.server().timeouts.restart;
        let listeners = || {
            let mut listeners = self.listeners.inheritable()?;
            listeners.extend(self.metrics.inheritable()?);
            Ok(listeners)
        };
        if self.restart.request(listeners, within) {
            self.reloads_before = self.reloader.requested();
        }
    }

    /// Drains. On a second signal to stop, returns at once.
    pub(super) async fn end(self, end: End) -> Drained {
        match end {
            End::Stop => self.stop(1).await,
            // The service manager may have sent its signal to both.
            End::StopWithOld => self.stop(2).await,
            End::Replaced(ready) => self.hand_over(ready).await,
        }
    }

    /// Stops; that many signals end it at once.
    async fn stop(self, signals_to_exit: usize) -> Drained {
        let Self {
            gateway,
            listeners,
            metrics,
            reloader,
            restart,
            main_process,
            mut signals,
            ..
        } = self;
        let server = &reloader.into_server();
        let within = server.timeouts.drain;
        let in_all = server.drain.delay + within;
        main_process.stop(in_all);
        let exits = match signals_to_exit {
            1 => "; a second signal exits at once",
            _ => "; of two more signals the second exits at once",
        };
        let leaving = async {
            leave(&gateway, server.drain.delay, exits).await;
            listeners.close().finish().await;
            tracing::info!(
                sockets = gateway.sockets().len(),
                seconds = within.as_secs_f64(),
                "stopping{exits}"
            );
            drain(&gateway, server).await
        };
        let ignore_reload = || tracing::warn!("this process ends already; SIGHUP is ignored");
        let drained = tokio::select! {
            // `Stop` is sent at once: without an answer, the new process would serve after a while.
            (drained, ()) = async { tokio::join!(leaving, restart.stop(in_all)) } => drained,
            () = stop_signals(&mut signals, signals_to_exit, ignore_reload) => cut_off(&gateway),
        };
        metrics.close().await;
        drained
    }

    async fn hand_over(self, ready: Ready) -> Drained {
        let Self {
            gateway,
            listeners,
            metrics,
            reloader,
            main_process,
            mut signals,
            reloads_before,
            ..
        } = self;
        let requested = reloader.requested();
        let server = &reloader.into_server();
        let admission = listeners.admission().clone();
        listeners.hand_over(&ready.listeners).await;
        metrics.hand_over(&ready.listeners).await;
        let pid = ready.pid;
        let mut pid_file = main_process.hand_over(pid, ready.pid_file.as_deref());
        let is_reloaded = requested != reloads_before;
        let services = gateway.services();
        let mut process = ready.go(is_reloaded, services).await;
        tracing::info!(
            old = std::process::id(),
            new = pid,
            sockets = gateway.sockets().len(),
            seconds = server.timeouts.drain.as_secs_f64(),
            "another process serves; this one drains"
        );
        let reload = AtomicBool::new(false);
        let pass_on_reload = || reload.store(true, Ordering::Relaxed);
        let watching = async {
            let status = process.accompany(services, &reload).await;
            match status.success() {
                true => tracing::info!(new = pid, "the process that serves has stopped"),
                false => tracing::error!(new = pid, "the process that serves has ended ({status})"),
            }
            if let Some(file) = &mut pid_file {
                file.take_back(); // it may have ended before it has replaced it
            }
            process.ignore_reloads(services, &reload).await
        };
        let drained = tokio::select! {
            drained = hand_over(&gateway, server, &admission) => drained,
            () = stop_signals(&mut signals, 2, pass_on_reload) => cut_off(&gateway),
            never = watching => match never {},
        };
        if signals.take_reload() {
            pass_on_reload();
        }
        process
            .pass_on_last(services, &reload, PASS_ON_DEADLINE)
            .await;
        drained
    }
}

/// Waits until the channel layer has Redis, for [`LINK_DEADLINE`] at most: a client that comes with
/// its position in a history before that cannot get what it has missed.
pub(super) async fn until_linked(services: &Services) {
    let Some(remote) = services.layer.remote() else {
        return;
    };
    let deadline = Instant::now() + LINK_DEADLINE;
    while !remote.is_connected() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for that many signals that stop the server. The others are handled as far as a server that
/// drains can.
async fn stop_signals(signals: &mut Signals, count: usize, on_reload: impl Fn()) {
    let mut left = count;
    while left > 0 {
        match signals.next().await {
            Signal::Stop => {
                left -= 1;
                if left == 1 {
                    tracing::info!("this process drains already; another signal exits at once");
                }
            }
            Signal::ReopenLogs => telemetry::reopen_logs(),
            Signal::Reload => on_reload(),
            Signal::Restart => tracing::warn!("this process ends already; SIGUSR2 is ignored"),
            Signal::StopWithOld => {}
        }
    }
}

fn cut_off(gateway: &Gateway) -> Drained {
    Drained {
        sockets: 0,
        cut_off: gateway.services().tasks.alive(),
    }
}
