//! BackgroundTask: work of an application that the server starts, and stops when it stops itself.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::services::Services;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task that an application registered with `Registry::task`.
#[derive(Clone)]
pub(crate) struct BackgroundTask {
    name: &'static str,
    start: Arc<dyn Fn(Services) -> Work + Send + Sync>,
}

impl BackgroundTask {
    pub(super) fn new<F, W>(name: &'static str, start: F) -> Self
    where
        F: Fn(Services) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self {
            name,
            start: Arc::new(move |services| Box::pin(start(services))),
        }
    }

    /// Starts the task. A panic, or a return while the server runs, is logged; the task is not
    /// started again.
    pub(super) fn spawn(&self, services: &Services) {
        let (name, start, services) = (self.name, self.start.clone(), services.clone());
        let tasks = services.tasks.clone();
        services.tasks.clone().spawn(name, async move {
            // The closure may panic too, so it runs inside.
            let work = AssertUnwindSafe(async move { start(services).await });
            match work.catch_unwind().await {
                Err(_) => {
                    metrics::counter!("oneport_panics_total").increment(1);
                    tracing::error!(task = name, "the background task panicked");
                }
                Ok(()) if tasks.is_stopping() => {}
                Ok(()) => tracing::info!(task = name, "the background task returned"),
            }
        });
    }
}

impl fmt::Debug for BackgroundTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackgroundTask({:?})", self.name)
    }
}
