//! Route: one entry of a table.

use std::collections::BTreeMap;

use http::Method;

use crate::routing::host::HostPattern;
use crate::routing::params::Params;
use crate::routing::pattern::RoutePattern;

/// One entry of a table: the requests that it matches, and the value that serves them.
#[derive(Clone, Debug)]
pub struct Route<T> {
    /// The paths.
    pub pattern: RoutePattern,
    /// The methods; empty means all. `GET` includes `HEAD`.
    pub methods: Vec<Method>,
    /// The host; `None` means any.
    pub host: Option<HostPattern>,
    /// The name for [`url_for`](super::UrlRouter::url_for).
    pub name: Option<String>,
    /// Fixed parameters. They override a captured parameter of the same name.
    pub defaults: BTreeMap<String, String>,
    /// Whether the path with its trailing slash added or removed redirects to this route.
    pub append_slash: bool,
    /// The value, such as a view or a consumer.
    pub value: T,
}

impl<T> Route<T> {
    /// Creates a route for any method and host, without a name, that appends slashes.
    pub fn new(pattern: RoutePattern, value: T) -> Self {
        let (methods, defaults) = (Vec::new(), BTreeMap::new());
        Self {
            pattern,
            methods,
            host: None,
            name: None,
            defaults,
            append_slash: true,
            value,
        }
    }

    /// Returns whether the route takes requests to this host.
    pub(super) fn takes_host(&self, host: Option<&str>) -> bool {
        match (&self.host, host) {
            (None, _) => true,
            (Some(pattern), None) => pattern.is_any(),
            (Some(pattern), Some(host)) => pattern.matches(host),
        }
    }

    /// Returns whether the route takes requests with this method. A WebSocket has none.
    pub(super) fn takes_method(&self, method: Option<&Method>) -> bool {
        method.is_none_or(|method| self.methods.is_empty() || self.lists_method(method))
    }

    /// Returns whether this route takes every host that `later` takes.
    pub(super) fn covers_host_of(&self, later: &Self) -> bool {
        match (&self.host, &later.host) {
            (None, _) => true,
            (Some(mine), None) => mine.is_any(),
            (Some(mine), Some(theirs)) => mine.covers(theirs),
        }
    }

    /// Overrides the path's parameters with the defaults.
    pub(super) fn with_defaults(&self, mut params: Params) -> Params {
        for (name, value) in &self.defaults {
            params.insert(name.as_str(), value.as_str());
        }
        params
    }

    /// Returns whether the route lists the method. `GET` also lists `HEAD`.
    pub(super) fn lists_method(&self, method: &Method) -> bool {
        self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}
