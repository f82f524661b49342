//! The `[log]` section.

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{LogField, LogLine, via};
use crate::config::values::config_path::OptionalPath;
use crate::config::values::not_compared::NotCompared;
use crate::telemetry::{AccessField, AccessFormat, AccessSettings, Format, LogSettings};

/// `[log]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The format of a line. Default: `"text"`.
    pub format: LogFormat,
    /// The log level, or directives such as `"info,oneport::websocket=debug"`. Default: `"info"`.
    pub level: String,
    /// The file that lines are appended to; "": standard error. Default: "".
    pub file: OptionalPath,
    /// Whether each request and each WebSocket gets a line. Default: `true`.
    pub access: bool,
    /// The form of these lines. Default: that of [`format`](Self::format).
    #[serde(deserialize_with = "via::<LogLine, _, _>")]
    pub access_format: AccessFormat,
    /// Their fields, if they are text or JSON. Default: the usual ones.
    pub access_fields: AccessFields,
    /// The file that these lines are appended to; "": that of the others. Default: "".
    pub access_file: OptionalPath,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// The fields of a line of the access log.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "Vec<LogField>")]
pub struct AccessFields(pub Vec<AccessField>);

impl From<Vec<LogField>> for AccessFields {
    fn from(fields: Vec<LogField>) -> Self {
        Self(fields.into_iter().map(Into::into).collect())
    }
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
            file: OptionalPath::default(),
            access: true,
            access_format: AccessFormat::AsLog,
            access_fields: AccessFields::default(),
            access_file: OptionalPath::default(),
            location: NotCompared::default(),
        }
    }
}

impl LogConfig {
    /// Returns the settings of the log.
    #[must_use]
    pub fn settings(&self) -> LogSettings {
        LogSettings {
            format: match self.format {
                LogFormat::Text => Format::Text,
                LogFormat::Json => Format::Json,
            },
            level: self.level.clone(),
            file: self.file.0.clone(),
            access: self.access.then(|| AccessSettings {
                format: self.access_format.clone(),
                fields: self.access_fields.0.clone(),
                file: self.access_file.0.clone(),
            }),
        }
    }
}
