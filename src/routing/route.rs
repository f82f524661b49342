//! Route: one entry of a table.

use std::collections::BTreeMap;

use http::Method;

use crate::routing::host::HostPattern;
use crate::routing::params::Params;
use crate::routing::pattern::RoutePattern;

/// One entry of a table: for which requests it is, and what it stands for.
#[derive(Clone, Debug)]
pub struct Route<T> {
    /// The paths.
    pub pattern: RoutePattern,
    /// The methods; none means all. `GET` stands for `HEAD` as well.
    pub methods: Vec<Method>,
    /// The host; `None` means any.
    pub host: Option<HostPattern>,
    /// The name that [`url_for`](super::UrlRouter::url_for) knows it by.
    pub name: Option<String>,
    /// Params that need no capture, and win over a capture of the same name.
    pub defaults: BTreeMap<String, String>,
    /// Whether the path with its trailing slash the other way round is redirected here.
    pub append_slash: bool,
    /// What the route stands for.
    pub value: T,
}

impl<T> Route<T> {
    /// Makes a route for any method and host, without a name, that appends slashes.
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

    /// Whether requests to this host are meant.
    pub(super) fn takes_host(&self, host: Option<&str>) -> bool {
        match (&self.host, host) {
            (None, _) => true,
            (Some(pattern), None) => pattern.is_any(),
            (Some(pattern), Some(host)) => pattern.matches(host),
        }
    }

    /// Whether requests with this method are meant. A WebSocket has none.
    pub(super) fn takes_method(&self, method: Option<&Method>) -> bool {
        method.is_none_or(|method| self.methods.is_empty() || self.lists_method(method))
    }

    /// Whether every host that `later` takes is taken here too.
    pub(super) fn covers_host_of(&self, later: &Self) -> bool {
        match (&self.host, &later.host) {
            (None, _) => true,
            (Some(mine), None) => mine.is_any(),
            (Some(mine), Some(theirs)) => mine.covers(theirs),
        }
    }

    /// Puts the defaults over what the path said.
    pub(super) fn with_defaults(&self, mut params: Params) -> Params {
        for (name, value) in &self.defaults {
            params.insert(name.as_str(), value.as_str());
        }
        params
    }

    /// Whether the method is one of those listed.
    pub(super) fn lists_method(&self, method: &Method) -> bool {
        self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}
