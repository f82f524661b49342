//! Route: the state that all connections of a route share, and the endpoints that routes share.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use metrics::Gauge;
use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::disconnects::Disconnects;
use super::endpoint::{Endpoint, EndpointSettings};
use super::options::Destination;
use super::protocol::{self, Connection, Disconnect, ResponseLimits, event};
use super::worker_channel::WorkerRoute;
use crate::client::Protocol;
use crate::services::Services;

/// The destination of a route's events.
pub(super) enum Route {
    /// An HTTP endpoint.
    Endpoint(Arc<EndpointRoute>),
    /// Workers that read a channel.
    Workers(Arc<WorkerRoute>),
}

/// The state that all connections of a route with an endpoint share.
pub(super) struct EndpointRoute {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) disconnects: Arc<Disconnects>,
    pub(super) services: Services,
    /// The id of this process, in hexadecimal.
    pub(super) node: String,
    pub(super) limits: Limits,
    #[expect(
        dead_code,
        reason = "held: the gauge ends with the routes of its endpoint"
    )]
    circuit: Gauge,
}

/// The limits of one connection's requests.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The header fields that are passed on to the backend.
    pub(super) headers: Vec<HeaderName>,
    pub(super) retries: u32,
    pub(super) batch_events: usize,
    pub(super) batch_bytes: usize,
    pub(super) response: ResponseLimits,
    /// The most bytes of queued events; beyond it, the connection waits.
    pub(super) hold: usize,
    /// How long an event may be queued, and a request be retried.
    pub(super) hold_time: Duration,
}

impl EndpointRoute {
    pub(super) fn new(
        settings: EndpointSettings,
        protocol: Protocol,
        limits: Limits,
        services: &Services,
    ) -> Self {
        let node = format!("{:016x}", services.layer.node());
        let endpoints = services.shared::<Endpoints>();
        let shared = endpoints.get_or_start(settings, protocol, services);
        Self {
            circuit: shared.endpoint.circuit_gauge(),
            endpoint: shared.endpoint,
            disconnects: shared.disconnects,
            services: services.clone(),
            node,
            limits,
        }
    }

    /// Returns the id of a connection, unique among all processes.
    pub(super) fn connection_id(&self, number: u64) -> String {
        format!("{}.{number}", self.node)
    }

    pub(super) fn connection<'a>(
        &'a self,
        id: &'a str,
        state: Option<&'a RawValue>,
    ) -> Connection<'a> {
        Connection {
            id,
            node: &self.node,
            name: &self.services.name,
            state,
        }
    }

    /// Notifies the backend that this process has started.
    pub(super) fn notify_node_started(&self) {
        let body = protocol::node_started_body(&self.node, &self.services.name);
        let key = format!("{}-0", self.node);
        self.disconnects.push(key, body, Duration::ZERO);
    }

    /// Notifies the backend, after a delay, that a connection it accepted has ended.
    pub(super) fn notify_disconnect(
        &self,
        id: &str,
        state: Option<&RawValue>,
        scope: &RawValue,
        disconnect: &Disconnect<'_>,
        delay: Duration,
    ) {
        let event = protocol::raw(&event::disconnect(disconnect));
        let body = protocol::request_body(&self.connection(id, state), scope, &[&*event]);
        let key = format!("{id}-{}", disconnect.seq);
        self.disconnects.push(key, body, delay);
    }
}

/// The endpoints of a process.
#[derive(Default)]
struct Endpoints(Mutex<HashMap<EndpointSettings, SharedEndpoint>>);

/// An endpoint with the queue of its disconnects.
#[derive(Clone)]
struct SharedEndpoint {
    endpoint: Arc<Endpoint>,
    disconnects: Arc<Disconnects>,
}

impl Endpoints {
    /// Returns the endpoint with these settings.
    fn get_or_start(
        &self,
        settings: EndpointSettings,
        protocol: Protocol,
        services: &Services,
    ) -> SharedEndpoint {
        let mut endpoints = self.0.lock();
        let shared = endpoints.entry(settings.clone()).or_insert_with(|| {
            let endpoint = Arc::new(Endpoint::new(settings, protocol, services));
            let layer = services.layer.clone();
            let disconnects = Disconnects::start(endpoint.clone(), layer, &services.tasks);
            SharedEndpoint {
                endpoint,
                disconnects,
            }
        });
        shared.clone()
    }
}

/// The backends that have been notified that this process has started: each URL and each channel
/// is notified once, regardless of the number of routes and reloads.
#[derive(Default)]
pub(super) struct Notified(Mutex<HashSet<Destination>>);

impl Notified {
    /// Adds a backend. Returns whether it has not been notified before.
    pub(super) fn insert(&self, backend: Destination) -> bool {
        self.0.lock().insert(backend)
    }
}
