//! RouteSummary: a route as it is shown to operators.

use std::sync::Arc;

/// A route as it is shown to operators.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteSummary {
    /// Its name, or its path: its label in the log and in metrics.
    pub label: Arc<str>,
    /// Its path, with placeholders.
    pub path: String,
    /// The host that it is for; `None` is every host.
    pub host: Option<String>,
    /// Its methods; empty is all.
    pub methods: Vec<String>,
    /// The name of its view or consumer.
    pub handler: String,
    /// The names of its middleware.
    pub middleware: Vec<String>,
}

/// The routes of both tables, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteSummaries {
    /// The routes of the HTTP table.
    pub http: Vec<RouteSummary>,
    /// The routes of the WebSocket table.
    pub websocket: Vec<RouteSummary>,
}
