//! Application: a configuration that runs without listeners.

use std::path::Path;

use arc_swap::ArcSwap;

use crate::channels::{ChannelLayer, LayerSettings};
use crate::clock::Clock;
use crate::config::{Config, Problems};
use crate::gateway::{Gateway, Registry, compile};
use crate::services::{Services, Shared};
use crate::tasks::Tasks;
use crate::telemetry;

/// A configuration that runs without listeners. Needs a tokio runtime with time.
#[derive(Clone, Debug)]
pub struct Application {
    gateway: Gateway,
}

impl Application {
    /// Compiles a configuration with the built-in names.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        Self::with(&Registry::builtin(), text)
    }

    /// Compiles a configuration with the names of a registry.
    pub fn with(registry: &Registry, text: &str) -> Result<Self, Problems> {
        let (config, _) = Config::parse("test.toml", text, Path::new("."), &|_| None)?;
        Self::compile(&config, registry)
    }

    /// Compiles what was read already.
    pub fn compile(config: &Config, registry: &Registry) -> Result<Self, Problems> {
        let metrics = telemetry::start_metrics();
        let (table, _) = compile(config, registry)?;
        let tasks = Tasks::default();
        let clock = Clock::default();
        tasks.spawn_last("clock", clock.clone().run(tasks.clone()));
        let settings = LayerSettings {
            capacity: config.channel_layer.capacity,
            expiry: config.channel_layer.expiry,
        };
        let layer = ChannelLayer::new(settings, tasks.clone());
        let services = Services::new(Shared {
            layer,
            tasks,
            clock,
            templates: ArcSwap::from_pointee(table.templates().clone()),
            metrics,
        });
        Ok(Self {
            gateway: Gateway::new(table, services),
        })
    }

    /// Returns the gateway, for its services and its open sockets.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }
}
