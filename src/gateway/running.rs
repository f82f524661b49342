//! Running gateway: the current table, and the state that outlives it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, Guard};

use super::table::{Table, TlsSettings};
use crate::pace::Pace;
use crate::rate_limiter::RateLimiters;
use crate::routing::Route;
use crate::scope::ScopeType;
use crate::services::Services;
use crate::telemetry::Snapshot;
use crate::websocket::{Cause, Directory, Ending, SocketReadings, Sockets};

/// The running server without its listeners (cheap to clone): the current table, and the state that
/// outlives it.
///
/// A clone touches the reference count of its handle. `fork` makes a handle with a count
/// of its own.
#[derive(Clone)]
pub struct Gateway(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    /// For the requests' clones.
    services: Services,
}

struct Inner {
    table: ArcSwap<Table>,
    services: Services,
    sockets: Sockets,
    /// The number of requests that run without their client.
    abandoned: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("table", &self.0.inner.table.load())
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a gateway with its first table, and the application's background tasks.
    #[must_use]
    pub fn new(table: Table, services: Services) -> Self {
        let sockets = Sockets::default();
        let directory = Directory::new(sockets.clone(), &services);
        services.set_rpc_handler(Arc::new(directory));
        let readings = SocketReadings::new(sockets.clone());
        let read = Box::new(move |snapshot: &mut Snapshot| readings.add_to(snapshot));
        let _ = services.socket_readings.set(read);
        start_handlers(&table, &services);
        services.routes.store(Arc::new(table.summaries()));
        for task in &table.background_tasks {
            task.spawn(&services);
        }
        Self::of(Arc::new(Inner {
            table: ArcSwap::from_pointee(table),
            services,
            sockets,
            abandoned: Arc::default(),
        }))
    }

    fn of(inner: Arc<Inner>) -> Self {
        let services = inner.services.fork();
        Self(Arc::new(Handle { inner, services }))
    }

    /// Returns a handle for one connection. Each request clones it, and workers that clone the same
    /// handle contend on its reference count.
    pub(crate) fn fork(&self) -> Self {
        Self::of(self.0.inner.clone())
    }

    /// Returns the services that all views and consumers share.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.0.inner.services
    }

    /// Returns all open sockets.
    #[must_use]
    pub fn sockets(&self) -> &Sockets {
        &self.0.inner.sockets
    }

    /// Returns the table for new requests.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.0.inner.table.load_full()
    }

    /// Borrows the table for one request. Cloning its `Arc` would make all workers contend on its
    /// reference count.
    pub(super) fn load_table(&self) -> Guard<Arc<Table>> {
        self.0.inner.table.load()
    }

    /// Returns whether a peer is a trusted proxy.
    pub(crate) fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        self.0
            .inner
            .table
            .load()
            .is_trusted(peer.map(|peer| peer.ip()))
    }

    /// Returns the settings of TLS.
    pub(crate) fn tls(&self) -> Option<Arc<TlsSettings>> {
        self.0.inner.table.load().tls.clone()
    }

    /// Returns the address that a connection counts against. `None` for a unix socket, and for a
    /// trusted proxy: its clients count by their own addresses, request by request.
    pub(crate) fn counted(&self, peer: Option<SocketAddr>) -> Option<IpAddr> {
        let ip = peer?.ip();
        (!self.0.inner.table.load().is_trusted(Some(ip))).then_some(ip)
    }

    /// Replaces the table at once. The returned future closes the sockets whose route was removed
    /// or changed, with 1012 and at a pace, and returns their number. Other sockets and requests in
    /// flight are not affected.
    pub fn replace(&self, table: Table, pace: Pace) -> impl Future<Output = usize> + use<> {
        let kept: HashSet<u64> = table
            .websocket()
            .routes()
            .iter()
            .map(|route| route.value.handler.route.fingerprint)
            .collect();
        start_handlers(&table, &self.0.inner.services);
        self.0.inner.sockets.keep(kept.clone());
        self.0
            .inner
            .services
            .templates
            .store(Arc::new(table.templates().clone()));
        self.0
            .inner
            .services
            .routes
            .store(Arc::new(table.summaries()));
        self.0.inner.table.store(Arc::new(table));
        if let Some(metrics) = &self.0.inner.services.metrics {
            metrics.forget_gone();
        }
        let sockets = self.0.inner.sockets.clone();
        async move {
            let ending = Ending::of(Cause::Reload);
            sockets
                .end(
                    |handle| !kept.contains(&handle.route().fingerprint),
                    &ending,
                    &pace,
                )
                .await
        }
    }

    /// Returns the services for the requests of this handle's connection.
    pub(super) fn request_services(&self) -> &Services {
        &self.0.services
    }

    /// Returns the number of requests that run without their client.
    pub(super) fn abandoned(&self) -> &Arc<AtomicUsize> {
        &self.0.inner.abandoned
    }
}

/// Calls `started` on every route's view and consumer before the table goes live.
fn start_handlers(table: &Table, services: &Services) {
    let mut known = HashMap::new();
    for route in table.http().routes() {
        let entry = &route.value;
        entry.handler.view.started(services);
        let identity = identity(route, &entry.label, &mut known);
        for limits in entry.chain.rate_limits() {
            limits.start(services, ScopeType::Http, &entry.label, &identity);
        }
    }
    known.clear();
    for route in table.websocket().routes() {
        let (entry, handler) = (&route.value, &route.value.handler);
        let identity = identity(route, &entry.label, &mut known);
        for limits in entry.chain.rate_limits() {
            limits.start(services, ScopeType::Websocket, &entry.label, &identity);
        }
        let limiters = services.shared::<RateLimiters>();
        handler
            .route
            .settings
            .message_limits
            .start(&limiters, &entry.label, &identity);
        handler.consumer.started(services);
        if let Some(backlog) = handler.consumer.backlog() {
            handler.route.set_backlog(backlog);
        }
    }
}

/// Returns a text that tells a route from all others of its table: routes of several hosts or
/// methods have the same label. A reload that does not change the route finds the same one.
fn identity<T>(route: &Route<T>, label: &str, known: &mut HashMap<String, usize>) -> String {
    let host = route.host.as_ref().map(ToString::to_string);
    let text = format!("{label} {host:?} {:?}", route.methods);
    let before = known.entry(text.clone()).or_default();
    *before += 1;
    format!("{text} {before}")
}
