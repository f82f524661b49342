//! Prepare: everything of a reload that takes time or can fail, before anything is replaced.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::{Loaded, Reload};
use crate::config::{Bind, Config, Problem, Problems, SourceLocation};
use crate::server::listeners::{OpenError, Opened, missing};
use crate::server::metrics_listeners::MetricsListeners;
use crate::server::stores::open_stores;
use crate::services::{Services, Settings, StoreFailure};

/// A configuration that can be applied.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    /// The listeners that are not open yet.
    pub(super) opened: Opened,
    /// The same of `metrics.bind`.
    pub(super) opened_metrics: Opened,
    /// Sessions, users and keys, with their stores open.
    pub(super) settings: Settings,
}

/// The outcome of a preparation; `None` if the thread panicked, which is logged.
pub(super) type Outcome = Option<Result<Prepared, Problems>>;

/// A preparation in progress.
pub(super) type Preparing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Starts to prepare. `open` are the addresses of the open listeners, `open_metrics` those of
/// `metrics.bind`.
pub(super) fn start(
    reload: Reload,
    services: Services,
    open: Vec<Bind>,
    open_metrics: Vec<Bind>,
) -> Preparing {
    let loading = start_loading(reload);
    Box::pin(async move {
        let loaded = match *loading.await.ok()? {
            Ok(loaded) => loaded,
            Err(problems) => return Some(Err(problems)),
        };
        Some(open_all(loaded, &services, &open, &open_metrics).await)
    })
}

async fn open_all(
    loaded: Loaded,
    services: &Services,
    open: &[Bind],
    open_metrics: &[Bind],
) -> Result<Prepared, Problems> {
    let config = &loaded.config;
    let missing = missing(&config.server.bind, open);
    let opened = Opened::open(missing, Vec::new()).await;
    let opened = opened.map_err(|error| problem_of(&config.server.location, &error))?;
    let mut inherited = Vec::new();
    let opened_metrics = MetricsListeners::open(config, open_metrics, &mut inherited).await;
    let opened_metrics =
        opened_metrics.map_err(|error| problem_of(&config.metrics.location, &error))?;
    let before = services.settings();
    let settings =
        Settings::new(config, Some(&before)).map_err(|error| of_store(config, &error))?;
    if loaded.table.uses_sessions() {
        let differ = settings.stores_differ(&before);
        let opened = open_stores(config, &settings, differ).await;
        opened.map_err(|error| of_store(config, &error))?;
    }
    Ok(Prepared {
        opened,
        opened_metrics,
        settings,
        loaded,
    })
}

/// Returns the Problem of a store that cannot be opened.
fn of_store(config: &Config, failure: &StoreFailure) -> Problems {
    let location = match failure.key.split_once('.') {
        Some(("auth", key)) => config.auth.location.key(key),
        Some((_, key)) => config.session.location.key(key),
        None => (*config.session.location).clone(),
    };
    let sentence = failure.sentence.trim_start_matches(failure.key);
    let mut problems = Problems::default();
    problems.push(Problem::error(location, sentence.trim_start_matches(": ")));
    problems
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
