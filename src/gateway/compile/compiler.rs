//! Compiler: what all checks and conversions of one compilation share.

use super::identity_providers::IdentityProviders;
use crate::config::{Config, Place, Problems, Wrong};
use crate::gateway::registry::Registry;
use crate::routing::ParamNames;

pub(super) struct Compiler<'c> {
    pub(super) config: &'c Config,
    pub(super) registry: &'c Registry,
    /// What is wrong already.
    pub(super) wrong: &'c Wrong,
    pub(super) sources: IdentityProviders,
    /// The templates that routes name, with their places and the routes' parameters.
    pub(super) templates: Vec<(String, Place, ParamNames)>,
    pub(super) problems: Problems,
}

impl Compiler<'_> {
    /// Tells whether one of these keys of a table is wrong already.
    pub(super) fn is_wrong(&self, place: &Place, keys: &[&str]) -> bool {
        !self.wrong.is_empty() && keys.iter().any(|key| self.wrong.touches(&place.key(key)))
    }
}
