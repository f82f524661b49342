//! Hosts: only hosts the server is meant for.

use std::sync::Arc;

use crate::http::Failure;
use crate::http::host::AllowedHosts;
use crate::scope::Scope;

/// `hosts`: a host that `server.allowed_hosts` does not have gets 400.
#[derive(Debug)]
pub struct Hosts(Arc<AllowedHosts>);

impl Hosts {
    /// Takes the hosts the server is meant for.
    #[must_use]
    pub fn new(allowed: Arc<AllowedHosts>) -> Self {
        Self(allowed)
    }

    pub(super) fn before(&self, scope: &Scope) -> Result<(), Failure> {
        match scope.host.as_deref() {
            Some(host) if self.0.allows_host(host) => Ok(()),
            found => {
                tracing::info!(id = %scope.request_id, host = found.unwrap_or_default(), allowed = %self.0, "host refused");
                Err(Failure::bad_request("expected a host this server is meant for"))
            }
        }
    }
}
