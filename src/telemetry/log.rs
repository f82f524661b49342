//! Log: starts the log and the access log, and changes their settings while they run.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::access_log::{self, AccessField, AccessFormat, AccessLog, Lines, Renderer, Style};
use super::log_file::LogFile;
use super::log_format::LogLines;
use super::log_queue::{Closed, Flush, LogQueue, Replacement};

/// The target of the access log's lines.
pub const ACCESS: &str = "access";

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings of the log and of the access log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogSettings {
    /// The format of lines.
    pub format: Format,
    /// A level or a filter in `tracing`'s syntax (`info,oneport::websocket=debug`).
    pub level: String,
    /// The file that lines are appended to; `None`: standard error.
    pub file: Option<PathBuf>,
    /// The access log; `None` turns it off.
    pub access: Option<AccessSettings>,
}

/// The settings of the access log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessSettings {
    /// The form of a line.
    pub format: AccessFormat,
    /// The fields of a line of text or JSON; empty: the usual ones.
    pub fields: Vec<AccessField>,
    /// The file that lines are appended to; `None`: that of the log.
    pub file: Option<PathBuf>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: Format::Text,
            level: "info".to_owned(),
            file: None,
            access: Some(AccessSettings::default()),
        }
    }
}

/// A file of the log cannot be opened.
#[derive(Debug, Error)]
#[error("cannot open {path}: {source}")]
pub struct LogFileError {
    /// Whether it is the file of the access log.
    pub is_access: bool,
    /// The path.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// Dropping it waits for the last lines, for at most a second.
#[must_use = "dropping it flushes the log"]
#[derive(Debug, Default)]
pub struct Log {
    /// Whether it is the one that has started the log.
    is_owner: bool,
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.is_owner {
            let running = RUNNING.lock().take();
            drop(running); // waits for the last lines
        }
    }
}

/// The log that runs.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    lines: LogLines,
    filter: Box<dyn Fn(EnvFilter) + Send>,
    queue: LogQueue,
    file: Option<PathBuf>,
    /// Of `access_file`.
    access: Option<(PathBuf, LogQueue, Flush)>,
    /// Those of `access_file` before a reload without one.
    closed: Closed,
    _flush: Flush,
}

/// The next file of the access log, with its queue.
type NextAccess = (PathBuf, LogQueue, Replacement);

/// Starts the log on standard error, with the access log if `access` is set.
///
/// A separate thread writes the lines. If their reader stalls or a disk is full, lines are dropped
/// and counted ([`log_lines_dropped`](super::log_lines_dropped)); a request never waits for the
/// log. If the program has installed its own subscriber, or calls this twice, nothing changes.
///
/// ```
/// use oneport::telemetry::{Format, start_log};
///
/// let _log = start_log(Format::Text, "info", true);
/// tracing::info!("started");
/// ```
pub fn start_log(format: Format, level: &str, access: bool) -> Log {
    let settings = LogSettings {
        format,
        level: level.to_owned(),
        file: None,
        access: access.then(AccessSettings::default),
    };
    start_log_with(&settings).unwrap_or_default()
}

/// Starts the log like [`start_log`], with all its settings. Fails if a file cannot be opened.
pub fn start_log_with(settings: &LogSettings) -> Result<Log, LogFileError> {
    let mut running = RUNNING.lock();
    if running.is_some() {
        return Ok(Log::default());
    }
    let file = opened(settings.file.as_deref(), false)?;
    let access = opened(access_file(settings), true)?;
    let started = match file {
        Some(file) => LogQueue::start(file, log_dropped),
        None => stderr().and_then(|stderr| LogQueue::start(stderr, log_dropped)),
    };
    let Ok((queue, flush)) = started else {
        return Ok(Log::default());
    };
    let lines = LogLines::new(settings.format, is_colored(settings.file.as_deref()));
    let writer = queue.clone();
    let builder = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .event_format(lines.clone())
        .with_env_filter(filter(&settings.level))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    if builder.try_init().is_err() {
        return Ok(Log::default());
    }
    let mut started = Running {
        lines,
        filter: Box::new(move |filter| drop(handle.reload(filter))),
        queue,
        file: settings.file.clone(),
        access: None,
        closed: Closed::default(),
        _flush: flush,
    };
    let access = started.prepare_access(settings, access)?;
    started.set_access(settings, access);
    *running = Some(started);
    Ok(Log { is_owner: true })
}

/// Changes the settings of the log that [`start_log_with`] has started; otherwise nothing. Fails if
/// a file cannot be opened, and then changes nothing.
pub fn reconfigure_log(settings: &LogSettings) -> Result<(), LogFileError> {
    let mut running = RUNNING.lock();
    match &mut *running {
        Some(running) => running.reconfigure(settings),
        None => Ok(()),
    }
}

impl Running {
    fn reconfigure(&mut self, settings: &LogSettings) -> Result<(), LogFileError> {
        let is_new = self.file != settings.file;
        let file = opened(settings.file.as_deref().filter(|_| is_new), false)?;
        let access_path = access_file(settings);
        let is_known = self.access_path() == access_path;
        let access = opened(access_path.filter(|_| !is_known), true)?;
        let output = is_new.then(|| self.prepare(settings, file)).transpose()?;
        let access = self.prepare_access(settings, access)?;

        // From here on nothing fails.
        if let Some(output) = output {
            output.make();
            self.file.clone_from(&settings.file);
        }
        (self.filter)(filter(&settings.level));
        let is_colored = is_colored(settings.file.as_deref());
        self.lines.set(settings.format, is_colored);
        self.set_access(settings, access);
        Ok(())
    }

    fn access_path(&self) -> Option<&Path> {
        self.access.as_ref().map(|(path, ..)| path.as_path())
    }

    /// Prepares the output of the log: a file that is open, or standard error.
    fn prepare(
        &self,
        settings: &LogSettings,
        file: Option<LogFile>,
    ) -> Result<Replacement, LogFileError> {
        let output = match file {
            Some(file) => self.queue.prepare(file),
            None => stderr().and_then(|stderr| self.queue.prepare(stderr)),
        };
        output.map_err(|source| LogFileError {
            is_access: false,
            path: settings.file.clone().unwrap_or("/dev/stderr".into()),
            source,
        })
    }

    /// Prepares the file of the access log, if there is another one. Returns it with its queue: the
    /// one before, so that lines which wait go to the new file, or the first.
    fn prepare_access(
        &mut self,
        settings: &LogSettings,
        file: Option<LogFile>,
    ) -> Result<Option<NextAccess>, LogFileError> {
        let (Some(path), Some(file)) = (access_file(settings), file) else {
            return Ok(None);
        };
        let queue = match &self.access {
            Some((_, queue, _)) => Ok(queue.clone()),
            None => self
                .closed
                .admit()
                .map(|()| LogQueue::without_output(log_dropped)),
        };
        match queue.and_then(|queue| Ok((queue.prepare(file)?, queue))) {
            Ok((output, queue)) => Ok(Some((path.to_owned(), queue, output))),
            Err(source) => Err(LogFileError {
                is_access: true,
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Replaces the access log. Without a `next` file it keeps the one that is open, if the
    /// settings name one.
    fn set_access(&mut self, settings: &LogSettings, next: Option<NextAccess>) {
        let mut before = None;
        match (next, &mut self.access) {
            (Some((path, _, output)), Some((open, ..))) => {
                output.make();
                *open = path;
            }
            (Some((path, queue, output)), access @ None) => {
                output.make();
                *access = Some((path, queue.clone(), Flush::of(queue)));
            }
            (None, access) => before = access.take_if(|_| access_file(settings).is_none()),
        }
        let own = self.access.as_ref().map(|(_, queue, _)| queue.clone());
        let is_file = own.is_some();
        let queue = own.unwrap_or_else(|| self.queue.clone());
        access_log::set(settings.access.as_ref().map(|access| {
            let is_colored = !is_file && is_colored(settings.file.as_deref());
            let style = match (&access.format, settings.format) {
                (AccessFormat::Json, _) | (AccessFormat::AsLog, Format::Json) => Style::Json,
                _ => Style::Text { is_colored },
            };
            let renderer = match &access.format {
                AccessFormat::Template(template) => Renderer::Template(template.clone()),
                _ => Renderer::Lines(Lines::new(style, &access.fields)),
            };
            AccessLog { renderer, queue }
        }));
        if let Some((_, _, flush)) = before {
            self.closed.close(flush);
        }
    }
}

fn access_file(settings: &LogSettings) -> Option<&Path> {
    settings.access.as_ref()?.file.as_deref()
}

fn opened(path: Option<&Path>, is_access: bool) -> Result<Option<LogFile>, LogFileError> {
    let open = |path: &Path| {
        LogFile::open(path).map_err(|source| LogFileError {
            is_access,
            path: path.to_owned(),
            source,
        })
    };
    path.map(open).transpose()
}

/// Returns standard error with a descriptor of its own: a write that blocks must not hold the lock
/// of `std::io::stderr`.
fn stderr() -> io::Result<File> {
    io::stderr().as_fd().try_clone_to_owned().map(File::from)
}

fn is_colored(file: Option<&Path>) -> bool {
    file.is_none() && io::stderr().is_terminal()
}

fn filter(level: &str) -> EnvFilter {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    if level.contains("sqlx") {
        return filter;
    }
    match "sqlx=off".parse() {
        Ok(directive) => filter.add_directive(directive), // the store logs its own errors, once
        Err(_) => filter,
    }
}

fn log_dropped(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were dropped: the log could not be written, or not fast enough"
    );
}

/// Checks a level or a filter.
pub fn check_level(level: &str) -> Result<(), String> {
    // `EnvFilter` accepts any word as the name of a module, but a single word is meant as a level.
    for word in level.split(',').map(str::trim) {
        let is_word = word.chars().all(char::is_alphanumeric);
        if word.is_empty() || (is_word && word.parse::<LevelFilter>().is_err()) {
            return Err(format!("no such level: {word:?}"));
        }
    }
    EnvFilter::try_new(level)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
