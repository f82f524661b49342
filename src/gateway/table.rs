//! Table: a configuration as it runs, immutable; a reload makes another.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ipnet::IpNet;
use metrics::{Counter, counter};

use crate::http::forwarded::ForwardedFamily;
use crate::http::view::AnyView;
use crate::http::{Mapped, OnDisconnect, Response};
use crate::middleware::{Headers, Step};
use crate::routing::{ProtocolTypeRouter, UrlRouter};
use crate::templates::Templates;
use crate::websocket::{ConsumerFactory, Route};

/// A configuration as it runs: both tables, their views and consumers, the templates.
pub struct Table {
    pub(crate) router: Arc<ProtocolTypeRouter<HttpEntry, WebsocketEntry>>,
    pub(crate) uses_sessions: bool,
    pub(crate) templates: Templates,
    pub(crate) root_path: Option<Arc<str>>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) forwarded: ForwardedFamily,
    pub(crate) missed: StatusCounters,
    pub(crate) missed_headers: Option<Headers>,
}

/// What an HTTP route runs.
pub struct HttpEntry {
    /// The route's name, or its path: how the log and the metrics call it.
    pub label: Arc<str>,
    /// The route's name, for `url_route`.
    pub name: Option<Arc<str>>,
    /// The name of the view in the file.
    pub view_name: String,
    /// The names of its middleware.
    pub middleware: Vec<String>,
    pub(crate) view: Arc<dyn AnyView>,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) maps_onto: Option<Mapped>,
    pub(crate) steps: Arc<[Step]>,
    pub(crate) body_size: u64,
    pub(crate) request_timeout: Duration,
    pub(crate) answered: StatusCounters,
    /// Whether the log has said that the view sets fields that are the server's.
    pub(crate) has_warned: AtomicBool,
}

/// What a WebSocket route runs.
pub struct WebsocketEntry {
    /// The route's name, for `url_route`.
    pub name: Option<Arc<str>>,
    /// The name of the consumer in the file.
    pub consumer_name: String,
    /// The names of its middleware.
    pub middleware: Vec<String>,
    /// What all its sockets share.
    pub route: Arc<Route>,
    pub(crate) consumer: Arc<dyn ConsumerFactory>,
    pub(crate) steps: Arc<[Step]>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) answered: StatusCounters,
}

/// One counter for each class of statuses, looked up once.
pub(crate) struct StatusCounters([Counter; 5]);

impl Table {
    /// Returns the HTTP table.
    #[must_use]
    pub fn http(&self) -> &UrlRouter<HttpEntry> {
        &self.router.http
    }

    /// Returns the WebSocket table.
    #[must_use]
    pub fn websocket(&self) -> &UrlRouter<WebsocketEntry> {
        &self.router.websocket
    }

    /// Returns the pages, with `url_for` of this table.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Returns the path below the root path, "/" for the root path itself; none outside of it.
    #[must_use]
    pub fn below_root<'p>(&self, raw_path: &'p str) -> Option<&'p str> {
        match raw_path.strip_prefix(self.root_path.as_deref().unwrap_or_default())? {
            "" => Some("/"),
            below => below.starts_with('/').then_some(below),
        }
    }

    /// Tells whether a route asks the stores of sessions or users.
    #[must_use]
    pub fn uses_sessions(&self) -> bool {
        self.uses_sessions
    }

    /// Finishes an answer that no route gives: adds the headers of `[http]`, and counts it.
    pub(crate) fn finish_missed(&self, response: &mut Response) {
        if let Some(headers) = &self.missed_headers {
            headers.after(response.headers_mut());
        }
        self.missed.count(response.status());
    }

    pub(crate) fn is_trusted(&self, peer: Option<IpAddr>) -> bool {
        // A unix socket has no address: only the owner of its file lets anybody in.
        !self.trusted_proxies.is_empty()
            && peer
                .is_none_or(|peer| crate::http::forwarded::is_trusted(peer, &self.trusted_proxies))
    }
}

impl HttpEntry {
    /// Returns the route's bounds in words.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        vec![
            format!("body {}", crate::config::Size(self.body_size)),
            format!("{}s", self.request_timeout.as_secs_f64()),
        ]
    }
}

impl WebsocketEntry {
    /// Returns the route's bounds in words.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let settings = &self.route.settings;
        let size = |bytes: usize| crate::config::Size(bytes as u64);
        vec![
            format!("message {}", size(settings.limits.message_bytes_max)),
            format!("queue {}", size(settings.send_queue)),
        ]
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("http", &self.http().routes().len())
            .field("websocket", &self.websocket().routes().len())
            .finish_non_exhaustive()
    }
}

impl StatusCounters {
    pub(crate) fn new(metric: &'static str, label: &str) -> Self {
        Self(
            ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| counter!(metric, "route" => label.to_owned(), "status" => class)),
        )
    }

    pub(crate) fn count(&self, status: http::StatusCode) {
        if let Some(counter) = self
            .0
            .get(usize::from(status.as_u16() / 100).wrapping_sub(1))
        {
            counter.increment(1);
        }
    }
}
