//! The small sections: `[log]` and `[templates]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::checked::via;
use super::config_path::ConfigPath;
use super::place::Place;

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How a line looks. Default: `"text"`.
    pub format: LogFormat,
    /// What is logged: a level, or directives such as `"info,oneport::websocket=debug"`. Default: `"info"`.
    pub level: String,
    /// Whether each request and each WebSocket gets a line. Default: `true`.
    pub access: bool,
    /// Where the section stands.
    #[serde(skip)]
    pub place: Place,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// `[templates]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplatesConfig {
    /// The directory of the templates, relative to the file. Default: `"../templates"`.
    #[serde(deserialize_with = "via::<ConfigPath, _, _>")]
    pub dir: PathBuf,
    /// Where the section stands.
    #[serde(skip)]
    pub place: Place,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            access: true,
            place: Place::default(),
        }
    }
}

impl Default for TemplatesConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("../templates"),
            place: Place::default(),
        }
    }
}
