//! Compiler: what all checks and conversions of one compilation share.

use super::identity_providers::IdentityProviders;
use crate::config::{Config, ErrorLocations, Problems, SourceLocation};
use crate::gateway::registry::Registry;
use crate::routing::ParamNames;

pub(super) struct Compiler<'c> {
    pub(super) config: &'c Config,
    pub(super) registry: &'c Registry,
    /// What is wrong already.
    pub(super) error_locations: &'c ErrorLocations,
    pub(super) sources: IdentityProviders,
    /// The templates that routes name, with their locations and the routes' parameters.
    pub(super) templates: Vec<(String, SourceLocation, ParamNames)>,
    pub(super) problems: Problems,
}

impl Compiler<'_> {
    /// Tells whether one of these keys of a table is wrong already.
    pub(super) fn is_wrong(&self, location: &SourceLocation, keys: &[&str]) -> bool {
        !self.error_locations.is_empty()
            && keys
                .iter()
                .any(|key| self.error_locations.overlaps(&location.key(key)))
    }
}
