//! Hosts: refuses requests for hosts that are not allowed.

use crate::host::{AllowedHosts, HostHeader};
use crate::http::Failure;
use crate::scope::Scope;

/// `hosts`: refuses a host that is not in `server.allowed_hosts` with 400.
#[derive(Debug)]
pub struct Hosts {
    allowed: AllowedHosts,
}

impl Hosts {
    /// Creates the step from `server.allowed_hosts`.
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
                Err(Failure::bad_request("host not allowed"))
            }
        }
    }
}
