//! Log: starts the log on standard error, as text or JSON.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::log_format::{JsonLines, TextLines};
use super::log_queue::{Flush, LogQueue};

/// The target of the access log's lines.
pub const ACCESS: &str = "access";

/// The format of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Dropping it waits for the last lines, for at most a second.
#[must_use = "dropping it flushes the log"]
#[derive(Default)]
pub struct Log(#[expect(dead_code, reason = "held for its drop")] Flush);

/// Starts the log on standard error. `level` is a level or a filter in `tracing`'s syntax
/// (`info,oneport::websocket=debug`).
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
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let mut directives = vec![if access { "access=info" } else { "access=off" }];
    if !level.contains("sqlx") {
        directives.push("sqlx=off"); // the store logs its own errors, once
    }
    let filter = directives
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    // Uses its own descriptor, because a write that blocks must not hold the lock of
    // `std::io::stderr`.
    let Ok((queue, flush)) = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stderr| LogQueue::start(File::from(stderr), log_dropped))
    else {
        return Log::default();
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || queue.clone());
    let started = match format {
        Format::Text => builder
            .event_format(TextLines {
                is_colored: std::io::stderr().is_terminal(),
            })
            .try_init(),
        Format::Json => builder.event_format(JsonLines).try_init(),
    };
    started.map_or_else(|_| Log::default(), |()| Log(flush))
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
mod tests {
    use super::*;

    #[test]
    fn misspelt_level_is_no_level() {
        for good in [
            "info",
            "debug,hyper=warn",
            "info,oneport::websocket=debug",
            "off",
        ] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["inof", "", "info,debgu", "info,hyper=inof"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
