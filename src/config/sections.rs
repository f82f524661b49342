//! The small sections: `[log]`, `[templates]`, `[channel_layer]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::checked::{PositiveCount, PositiveDuration, via};
use super::config_path::ConfigPath;
use super::place::Place;
use super::suggest::nearest;

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

/// `[channel_layer]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelLayerConfig {
    /// What carries events between consumers. Default: `"memory"`, within this process.
    #[serde(deserialize_with = "via::<Backend, _, _>")]
    pub backend: String,
    /// The events that may wait for one channel. Default: 100.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub capacity: usize,
    /// How long an event may wait before it is dropped. Default: 60 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub expiry: Duration,
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

impl Default for ChannelLayerConfig {
    fn default() -> Self {
        Self {
            backend: "memory".to_owned(),
            capacity: 100,
            expiry: Duration::from_secs(60),
            place: Place::default(),
        }
    }
}

const BACKENDS: [&str; 1] = ["memory"];

/// The name of a channel layer that this build has.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Backend(String);

impl TryFrom<String> for Backend {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if BACKENDS.contains(&text.as_str()) {
            return Ok(Self(text));
        }
        let meant = nearest(&text, BACKENDS)
            .map(|known| format!("; did you mean {known:?}?"))
            .unwrap_or_default();
        Err(format!(
            "unknown channel layer {text:?}; known: {}{meant}",
            BACKENDS.join(", ")
        ))
    }
}

impl From<Backend> for String {
    fn from(backend: Backend) -> Self {
        backend.0
    }
}
