//! Compiler: the input of one compilation and the Problems found so far. Each file of this folder
//! adds checks to it.

use std::collections::BTreeMap;

use super::identity_providers::IdentityProviders;
use crate::config::{Config, ErrorLocations, Problems, SourceLocation};
use crate::gateway::registry::Registry;
use crate::middleware::Custom;
use crate::routing::ParamNames;

pub(super) struct Compiler<'c> {
    pub(super) config: &'c Config,
    pub(super) registry: &'c Registry,
    /// The locations of errors in the configuration found so far.
    pub(super) error_locations: &'c ErrorLocations,
    pub(super) sources: IdentityProviders,
    /// The application's middleware created so far, by name; `None` if its options are invalid.
    pub(super) custom: BTreeMap<String, Option<Custom>>,
    /// The templates that routes name, with their locations and the routes' parameters.
    pub(super) templates: Vec<(String, SourceLocation, ParamNames)>,
    pub(super) problems: Problems,
}

impl Compiler<'_> {
    /// Returns whether one of these keys of a table has an error already.
    pub(super) fn is_wrong(&self, location: &SourceLocation, keys: &[&str]) -> bool {
        !self.error_locations.is_empty()
            && keys
                .iter()
                .any(|key| self.error_locations.overlaps(&location.key(key)))
    }
}
