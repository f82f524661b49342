//! Hosts: only hosts the server is meant for.

use crate::host::{AllowedHosts, HostHeader};
use crate::http::Failure;
use crate::scope::Scope;

/// `hosts`: a host that `server.allowed_hosts` does not have gets 400.
#[derive(Debug)]
pub struct Hosts {
    allowed: AllowedHosts,
}

impl Hosts {
    /// Takes the hosts the server is meant for.
    #[must_use]
    pub fn new(written: &[String]) -> Self {
        Self {
            allowed: AllowedHosts::new(written),
        }
    }

    pub(super) fn before(&self, scope: &Scope) -> Result<(), Failure> {
        match &scope.host {
            Some(host) if self.allowed.allows(host) => Ok(()),
            found => {
                let host = found.as_ref().map(HostHeader::name).unwrap_or_default();
                tracing::info!(id = %scope.request_id, host, "host refused");
                Err(Failure::bad_request(
                    "expected a host this server is meant for",
                ))
            }
        }
    }
}
