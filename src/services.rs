//! Services: the state that all views, consumers and middleware of a server share; a reload keeps
//! it, but for its settings.

mod settings;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;
pub(crate) use self::settings::StoreFailure;
use crate::acme::Acme;
use crate::channels::{ChannelLayer, GroupLimits, NodeReply, NodeRequest, RpcHandler};
use crate::clock::Clock;
use crate::config::Config;
use crate::net::{Certificates, ClientLimit, ServerTls};
use crate::queued_bytes;
use crate::reload_handle::ReloadHandle;
use crate::routing::RouteSummaries;
use crate::state::{MissingState, State};
use crate::tasks::Tasks;
use crate::telemetry::recent_ends::RecentEnds;
use crate::telemetry::{self, Metrics, Snapshot};
use crate::templates::Templates;

/// The services that all views, consumers and middleware of a server share (cheap to clone).
///
/// A clone touches the reference count of its handle. `fork` makes a handle with a count
/// of its own.
#[derive(Clone, Debug)]
#[expect(
    clippy::redundant_allocation,
    reason = "the outer count is a connection's own, the inner one is shared by all"
)]
pub struct Services(Arc<Arc<Shared>>);

/// Adds figures to a reading of the metrics.
pub(crate) type ReadMetrics = Box<dyn Fn(&mut Snapshot) + Send + Sync>;

/// A reference to [`Services`] that does not keep them alive.
#[derive(Debug)]
pub(crate) struct WeakServices(Weak<Shared>);

impl WeakServices {
    /// Returns the services, unless they are gone.
    pub(crate) fn upgrade(&self) -> Option<Services> {
        self.0.upgrade().map(|shared| Services(Arc::new(shared)))
    }
}

/// The parts of [`Services`].
pub struct Shared {
    /// The channel layer: groups, channels, events.
    pub layer: ChannelLayer,
    /// The owner of all tasks.
    pub tasks: Tasks,
    /// The coarse timer.
    pub clock: Clock,
    /// The templates, with `url_for` of the current table; a reload replaces them.
    pub templates: ArcSwap<Templates>,
    /// The routes of the current table, for those who are shown them; a reload replaces them.
    pub(crate) routes: ArcSwap<RouteSummaries>,
    /// The last sockets that ended, and requests that were refused.
    pub(crate) recent_ends: RecentEnds,
    /// The certificates that listeners serve.
    pub(crate) certificates: Arc<Certificates>,
    /// The certificates that the server obtains by itself.
    pub(crate) acme: Acme,
    /// The TLS of new connections; empty without `[server.tls]`.
    pub(crate) tls: ArcSwapOption<ServerTls>,
    /// Requests a reload of the configuration.
    pub reload: ReloadHandle,
    /// The limit of connections per address.
    pub(crate) clients: ClientLimit,
    /// The limits of groups.
    pub(crate) group_limits: GroupLimits,
    /// The most bytes in the send queues of all sockets together.
    pub(crate) send_queue_total: AtomicUsize,
    settings: ArcSwap<Settings>,
    /// Wakes the tasks that depend on the settings.
    settings_changed: watch::Sender<()>,
    /// The name of this process: `server.name`, or the host name with the port of the first
    /// listener.
    pub name: String,
    /// The time the server started.
    pub started: Instant,
    /// The application's state.
    pub(crate) state: State,
    /// The values of [`Services::shared`], by type.
    pub(crate) extensions: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// Cancelled when an earlier process of the same name has ended, whose place this one has taken;
    /// empty if there was none.
    pub(crate) earlier_process: OnceLock<CancellationToken>,
    /// The handler for requests about the open connections.
    pub(crate) rpc_handler: OnceLock<Arc<dyn RpcHandler>>,
    /// Adds the figures of the open sockets to a reading of the metrics.
    pub(crate) socket_readings: OnceLock<ReadMetrics>,
    /// Adds the figures of the open connections.
    pub(crate) connection_readings: OnceLock<ReadMetrics>,
    /// The metrics; `None` if this process collects none. [`Services::read_metrics`] has more of
    /// them.
    pub metrics: Option<Metrics>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Services {
    /// Creates the services of a configuration and starts their tasks. Opens no store yet. Needs a
    /// tokio runtime.
    ///
    /// Fails with a sentence about a database that cannot be opened, such as one with a malformed
    /// URL.
    pub fn new(config: &Config, templates: Templates, state: State) -> Result<Self, String> {
        let tasks = Tasks::default();
        let clock = Clock::default();
        tasks.spawn_last("clock", clock.clone().run(tasks.clone()));
        let layer = ChannelLayer::new((&config.channel_layer).into(), tasks.clone());
        tasks.spawn("channel layer", layer.clone().sweep());
        layer.connect(&config.channel_layer);
        let clients = ClientLimit::new(config.server.limits.connections_per_ip);
        let settings = Settings::new(config, None).map_err(|failure| failure.sentence)?;
        Ok(Self(Arc::new(Arc::new(Shared {
            layer,
            tasks,
            clock,
            templates: ArcSwap::from_pointee(templates),
            routes: ArcSwap::default(),
            recent_ends: RecentEnds::default(),
            send_queue_total: config.server.limits.send_queue_total.as_usize().into(),
            settings: ArcSwap::from_pointee(settings),
            settings_changed: watch::Sender::default(),
            certificates: Arc::default(),
            acme: Acme::default(),
            tls: ArcSwapOption::empty(),
            reload: ReloadHandle::default(),
            group_limits: GroupLimits::new(&config.server.limits, clients.clone()),
            clients,
            name: name(config),
            started: Instant::now(),
            state,
            extensions: Mutex::default(),
            earlier_process: OnceLock::new(),
            rpc_handler: OnceLock::new(),
            socket_readings: OnceLock::new(),
            connection_readings: OnceLock::new(),
            metrics: telemetry::start_metrics(),
        }))))
    }
}

impl Services {
    /// Returns a handle with a reference count of its own, for clones that one connection makes:
    /// workers that clone the same handle for each request contend on its count.
    #[must_use]
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Arc::clone(&self.0)))
    }

    /// Returns a reference that does not keep the services alive, for what they own themselves.
    pub(crate) fn downgrade(&self) -> WeakServices {
        WeakServices(Arc::downgrade(&self.0))
    }

    /// Returns sessions, users, CSRF tokens and keys, as the configuration in effect has them. Load
    /// them once for a piece of work: a reload may replace them in between.
    #[must_use]
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Replaces the settings. Work in progress goes on with those that it has loaded.
    pub(crate) fn replace_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.settings_changed.send_replace(());
    }

    /// Returns what is notified when the settings are replaced.
    pub(crate) fn settings_changed(&self) -> watch::Receiver<()> {
        self.settings_changed.subscribe()
    }

    /// Sets the most bytes in the send queues of all sockets together.
    pub(crate) fn set_send_queue_total(&self, config: &Config) {
        let bytes = config.server.limits.send_queue_total.as_usize();
        self.send_queue_total.store(bytes, Ordering::Relaxed);
    }

    /// Returns the most bytes in the send queues of all sockets together.
    pub(crate) fn send_queue_total(&self) -> usize {
        self.send_queue_total.load(Ordering::Relaxed)
    }

    /// Returns the application's value of a type, which its `main` passed to `Registry::state`.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        self.state.get()
    }

    /// Returns the one value of a type that this server shares, created by `Default` on the first
    /// call.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let app = oneport::testing::Application::parse("").unwrap();
    /// let services = app.gateway().services();
    /// services.shared::<AtomicU64>().fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(services.shared::<AtomicU64>().load(Ordering::Relaxed), 1);
    /// # });
    /// ```
    #[must_use]
    pub fn shared<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut extensions = self.extensions.lock();
        let found = extensions
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(T::default()));
        found.clone().downcast().unwrap_or_default()
    }

    /// Returns the values of all metrics, with those that are read when they are asked for; `None`
    /// if this process collects none.
    #[must_use]
    pub fn read_metrics(&self) -> Option<Snapshot> {
        let mut snapshot = self.metrics.as_ref()?.snapshot();
        let figures = [
            ("oneport_tasks", self.tasks.alive()),
            ("oneport_send_queue_bytes", queued_bytes::total()),
        ];
        for (name, figure) in figures {
            snapshot.add(name, &[], figure as f64);
        }
        if let Some(remote) = self.layer.remote() {
            let bytes = remote.queued_bytes() as f64;
            snapshot.add("oneport_layer_queue_bytes", &[], bytes);
        }
        for read in [&self.socket_readings, &self.connection_readings] {
            if let Some(read) = read.get() {
                read(&mut snapshot);
            }
        }
        Some(snapshot)
    }

    /// Sets the handler for requests about the open connections, from this process and from others.
    pub(crate) fn set_rpc_handler(&self, rpc_handler: Arc<dyn RpcHandler>) {
        if let Some(remote) = self.layer.remote() {
            remote.set_rpc_handler(rpc_handler.clone());
        }
        let _ = self.rpc_handler.set(rpc_handler);
    }

    /// Calls `then` when no other process of this name has connections: at once, unless this process
    /// has taken the place of an earlier one, which still drains.
    pub(crate) fn once_alone(&self, then: impl FnOnce() + Send + 'static) {
        let Some(ended) = self.earlier_process.get().cloned() else {
            return then();
        };
        let tasks = self.tasks.clone();
        self.tasks.spawn("end of the earlier process", async move {
            tokio::select! {
                () = ended.cancelled() => then(),
                () = tasks.stopping() => {}
            }
        });
    }

    /// Passes a request about the open connections to its handler.
    pub(crate) async fn answer(&self, request: NodeRequest) -> NodeReply {
        match self.rpc_handler.get() {
            Some(rpc_handler) => rpc_handler.handle(request).await,
            None => NodeReply::NotFound,
        }
    }

    /// Evicts expired entries from the caches of sessions and users.
    pub(crate) fn evict_expired(&self) {
        let settings = self.settings();
        settings.sessions.evict_expired();
        if let Some(users) = settings.auth.users() {
            users.evict_expired();
        }
    }

    /// Starts the task that deletes expired sessions every `session.sweep_interval`.
    pub fn sweep_sessions(&self) {
        let (services, tasks) = (self.clone(), self.tasks.clone());
        self.tasks.spawn("session sweep", async move {
            let mut changed = services.settings_changed();
            let mut swept = tokio::time::Instant::now();
            loop {
                let every = services.settings().sweep_interval;
                tokio::select! {
                    () = next_after(swept, every) => {}
                    _ = changed.changed() => continue,
                    () = tasks.stopping() => return,
                }
                swept = tokio::time::Instant::now();
                let settings = services.settings.load_full();
                tokio::select! {
                    // The store logs its failure; the next interval tries again.
                    swept = settings.sessions.sweep() => if let Ok(swept) = swept {
                        tracing::debug!(swept, "expired sessions were deleted");
                    },
                    () = tasks.stopping() => return,
                }
            }
        });
    }
}

/// Waits until an interval has passed since a time; at zero, forever.
pub(crate) async fn next_after(last: tokio::time::Instant, every: Duration) {
    match last.checked_add(every).filter(|_| !every.is_zero()) {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// Returns the name of this process.
fn name(config: &Config) -> String {
    if !config.server.name.is_empty() {
        return config.server.name.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.as_deref().map_or("localhost", str::trim);
    let port = config
        .server
        .bind
        .iter()
        .find_map(|listen| listen.address.port());
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

impl Deref for Services {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
