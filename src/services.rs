//! Services: what all views and consumers of a server share, whatever is reloaded.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::auth::{Auth, Users};
use crate::channels::{ChannelLayer, LayerSettings, NodeReply, NodeRequest, RpcHandler};
use crate::clock::Clock;
use crate::config::{Config, CsrfConfig, StoreUrl};
use crate::database::{Database, DatabaseSettings};
use crate::net::ClientLimit;
use crate::secrets::Secrets;
use crate::session::SessionStore;
use crate::tasks::Tasks;
use crate::telemetry::{self, Metrics};
use crate::templates::Templates;

/// What all views and consumers of a server share (cheap to clone).
#[derive(Clone, Debug)]
pub struct Services(Arc<Shared>);

/// The parts of [`Services`].
pub struct Shared {
    /// Groups, channels and events.
    pub layer: ChannelLayer,
    /// The owner of all tasks.
    pub tasks: Tasks,
    /// The coarse timer.
    pub clock: Clock,
    /// The pages, with `url_for` of the newest table; a reload replaces them.
    pub templates: ArcSwap<Templates>,
    /// The keys that things are signed with.
    pub secrets: Arc<Secrets>,
    /// How much the clients of one address may have open.
    pub(crate) clients: ClientLimit,
    /// The bytes that may wait in the send queues of all sockets.
    pub(crate) send_queue_total: usize,
    /// Where sessions are kept.
    pub sessions: SessionStore,
    /// Who is who.
    pub auth: Auth,
    /// Where the token against forgery is kept.
    pub csrf: CsrfConfig,
    /// What this process is called: `server.name`, or the machine's name and the port of its first address.
    pub name: String,
    /// When it began.
    pub started: Instant,
    /// What views and consumers share by its type.
    pub(crate) extensions: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// Who knows the open connections.
    pub(crate) rpc_handler: OnceLock<Arc<dyn RpcHandler>>,
    /// What prints the metrics, when this process collects any.
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
    /// Makes what a configuration asks for, and starts what runs beside it. Nothing is opened yet. Needs a tokio runtime.
    ///
    /// Fails with the sentence of a database that cannot be, such as one with a malformed URL.
    pub fn new(config: &Config, templates: Templates) -> Result<Self, String> {
        let tasks = Tasks::default();
        let clock = Clock::default();
        tasks.spawn_last("clock", clock.clone().run(tasks.clone()));
        let settings = LayerSettings {
            capacity: config.channel_layer.capacity,
            expiry: config.channel_layer.expiry,
            history_size: config.channel_layer.history_size.as_usize(),
            group_history_size: config.channel_layer.group_history_size.as_usize(),
            max_rooms: config.channel_layer.max_rooms,
        };
        let layer = ChannelLayer::new(settings, tasks.clone());
        tasks.spawn("channel layer", layer.clone().sweep());
        layer.connect(&config.channel_layer);
        let secrets = Arc::new(Secrets::new(config));
        let (session, auth) = (&config.session, &config.auth);
        let open = |url: &StoreUrl, store| {
            let settings = DatabaseSettings {
                timeout: session.timeout,
                connections: u32::try_from(session.connections).unwrap_or(u32::MAX),
            };
            Database::new(url, settings, store)
                .transpose()
                .map_err(|error| format!("{url}: {error}"))
        };
        let database = open(&session.store, "session")?;
        let users = if auth.users == session.store {
            database.clone()
        } else {
            open(&auth.users, "users")?
        };
        let users = users.map(|database| Users::new(auth, session, database));
        Ok(Self(Arc::new(Shared {
            layer,
            tasks,
            clock,
            templates: ArcSwap::from_pointee(templates),
            send_queue_total: config.server.limits.send_queue_total.as_usize(),
            clients: ClientLimit::new(config.server.limits.connections_per_ip),
            sessions: SessionStore::new(session, database, secrets.clone()),
            auth: Auth::new(auth, users, secrets.clone()),
            secrets,
            csrf: config.csrf.clone(),
            name: name(config),
            started: Instant::now(),
            extensions: Mutex::default(),
            rpc_handler: OnceLock::new(),
            metrics: telemetry::start_metrics(),
        })))
    }
}

impl Services {
    /// Returns the one value of a type that all of this server share; made when it is first asked for.
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

    /// Says who knows the open connections, to this process and to others.
    pub(crate) fn set_rpc_handler(&self, rpc_handler: Arc<dyn RpcHandler>) {
        if let Some(remote) = self.layer.remote() {
            remote.set_rpc_handler(rpc_handler.clone());
        }
        let _ = self.rpc_handler.set(rpc_handler);
    }

    /// Asks who knows the open connections.
    pub(crate) async fn answer(&self, request: NodeRequest) -> NodeReply {
        match self.rpc_handler.get() {
            Some(rpc_handler) => rpc_handler.handle(request).await,
            None => NodeReply::NotFound,
        }
    }

    /// Lets go of sessions and users that were read too long ago to be used again.
    pub(crate) fn evict_expired(&self) {
        self.sessions.evict_expired();
        if let Some(users) = self.auth.users() {
            users.evict_expired();
        }
    }

    /// Starts to delete expired sessions from time to time; zero for never.
    pub fn sweep_sessions(&self, every: Duration) {
        if every.is_zero() {
            return;
        }
        let (services, tasks) = (self.clone(), self.tasks.clone());
        self.tasks.spawn("session sweep", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = tasks.stopping() => return,
                }
                tokio::select! {
                    // What fails is told by the store, and tried again the next time.
                    swept = services.sessions.sweep() => if let Ok(swept) = swept {
                        tracing::debug!(swept, "expired sessions were deleted");
                    },
                    () = tasks.stopping() => return,
                }
            }
        });
    }
}

/// Returns what this process is called.
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
