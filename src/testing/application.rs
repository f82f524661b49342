//! Application: a configuration that runs without listeners.

use std::path::Path;

use crate::config::{Config, Problems};
use crate::gateway::{Gateway, Registry, Table, compile, compile_draft};
use crate::services::Services;
use crate::telemetry;

/// A configuration that runs without listeners. Needs a tokio runtime with time.
#[derive(Clone, Debug)]
pub struct Application {
    gateway: Gateway,
}

impl Application {
    /// Compiles a configuration with the built-in views and consumers.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        Self::with(&Registry::builtin(), text)
    }

    /// Compiles a configuration with the views and consumers of a registry.
    pub fn with(registry: &Registry, text: &str) -> Result<Self, Problems> {
        let draft = Config::draft_of("test.toml", text, Path::new("."), &|_| None)?;
        telemetry::start_metrics();
        let (table, _) = compile_draft(&draft, registry)?;
        Ok(Self::start(&draft.config, table))
    }

    /// Compiles a configuration that is already parsed.
    pub fn compile(config: &Config, registry: &Registry) -> Result<Self, Problems> {
        telemetry::start_metrics();
        let (table, _) = compile(config, registry)?;
        Ok(Self::start(config, table))
    }

    fn start(config: &Config, table: Table) -> Self {
        let services = match Services::new(config, table.templates().clone(), table.state()) {
            Ok(services) => services,
            Err(sentence) => panic!("the application did not start: {sentence}"),
        };
        let gateway = Gateway::new(table, services);
        gateway.watch_logins();
        Self { gateway }
    }

    /// Returns the gateway, for its services and its open sockets.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }
}
