//! Services: what all views and consumers of a server share, whatever is reloaded.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::channels::ChannelLayer;
use crate::clock::Clock;
use crate::tasks::Tasks;
use crate::templates::Templates;

/// What all views and consumers of a server share (cheap to clone).
#[derive(Clone, Debug)]
pub struct Services(Arc<Shared>);

/// The parts of [`Services`].
#[derive(Debug)]
pub struct Shared {
    /// Groups, channels and events.
    pub layer: ChannelLayer,
    /// The owner of all tasks.
    pub tasks: Tasks,
    /// The coarse timer.
    pub clock: Clock,
    /// The pages, with `url_for` of the newest table; a reload replaces them.
    pub templates: ArcSwap<Templates>,
    /// What prints the metrics, when this process collects any.
    pub metrics: Option<PrometheusHandle>,
}

impl Services {
    /// Puts the parts together.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for Services {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
