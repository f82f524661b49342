//! Prepare: everything of a reload that takes time or can fail, before anything is replaced.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::{Loaded, Reload};
use crate::config::{Bind, Problem, Problems, SourceLocation};
use crate::server::listeners::{OpenError, Opened, missing};
use crate::server::metrics_listeners::MetricsListeners;

/// A configuration that can be applied.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    /// The listeners that are not open yet.
    pub(super) opened: Opened,
    /// The same of `metrics.bind`.
    pub(super) opened_metrics: Opened,
}

/// The outcome of a preparation; `None` if the thread panicked, which is logged.
pub(super) type Outcome = Option<Result<Prepared, Problems>>;

/// A preparation in progress.
pub(super) type Preparing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Starts to prepare. `open` are the addresses of the open listeners, `open_metrics` those of
/// `metrics.bind`.
pub(super) fn start(reload: Reload, open: Vec<Bind>, open_metrics: Vec<Bind>) -> Preparing {
    let loading = start_loading(reload);
    Box::pin(async move {
        let loaded = match *loading.await.ok()? {
            Ok(loaded) => loaded,
            Err(problems) => return Some(Err(problems)),
        };
        let config = &loaded.config;
        let missing = missing(&config.server.bind, &open);
        let opened = match Opened::open(missing, Vec::new()).await {
            Ok(opened) => opened,
            Err(error) => return Some(Err(problem_of(&config.server.location, &error))),
        };
        let mut inherited = Vec::new();
        let opening = MetricsListeners::open(config, &open_metrics, &mut inherited);
        let opened_metrics = match opening.await {
            Ok(opened) => opened,
            Err(error) => return Some(Err(problem_of(&config.metrics.location, &error))),
        };
        Some(Ok(Prepared {
            loaded,
            opened,
            opened_metrics,
        }))
    })
}

/// Returns the Problem of a listener that cannot be opened, of the section at this location.
pub(super) fn problem_of(section: &SourceLocation, error: &OpenError) -> Problems {
    let location = section.key("bind").index(error.index);
    let mut problems = Problems::default();
    problems.push(Problem::error(location, error.to_string()));
    problems
}

/// Loads the configuration on its own thread: a task of the blocking pool that waits for a file
/// would keep the runtime from shutting down.
fn start_loading(reload: Reload) -> oneshot::Receiver<Box<Result<Loaded, Problems>>> {
    let (done, loading) = oneshot::channel();
    // A thread that cannot be started drops `done`, which counts as a panic: the reload is refused.
    let _ = std::thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || drop(done.send(Box::new(reload.load()))));
    loading
}
