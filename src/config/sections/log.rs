//! The `[log]` section.

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::not_compared::NotCompared;

/// `[log]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The format of a line. Default: `"text"`.
    pub format: LogFormat,
    /// The log level, or directives such as `"info,oneport::websocket=debug"`. Default: `"info"`.
    pub level: String,
    /// Whether each request and each WebSocket gets a line. Default: `true`.
    pub access: bool,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            access: true,
            location: NotCompared::default(),
        }
    }
}
