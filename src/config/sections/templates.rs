//! The `[templates]` section.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::via;
use crate::config::values::config_path::ConfigPath;
use crate::config::values::not_compared::NotCompared;

/// `[templates]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TemplatesConfig {
    /// The directory of the templates, relative to the file. Default: `"../templates"`.
    #[serde(deserialize_with = "via::<ConfigPath, _, _>")]
    pub dir: PathBuf,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

impl Default for TemplatesConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("../templates"),
            location: NotCompared::default(),
        }
    }
}
