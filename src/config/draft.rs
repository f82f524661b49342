//! Draft: a configuration, as far as it could be read.

use super::Config;
use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;

/// A configuration, as far as it could be read, and its Problems so far.
///
/// Invalid values are missing or replaced by placeholders, so a draft must not run. It is compiled
/// (`gateway::compile_draft`) to report the Problems of all stages at once.
///
/// ```
/// use oneport::config::Config;
///
/// let text = "[server]\nworkers = 0\n\n[[http.route]]\npath = '/'\nview = 'respond'\n";
/// let draft = Config::draft_of("oneport.toml", text, ".".as_ref(), &|_| None)?;
/// assert!(draft.problems.is_fatal());
/// assert_eq!(draft.config.http_routes[0].view, "respond");
/// # Ok::<(), oneport::config::Problems>(())
/// ```
#[derive(Clone, Debug)]
pub struct Draft {
    /// The values that could be read.
    pub config: Config,
    /// The Problems so far, warnings included.
    pub problems: Problems,
    /// The locations of the errors among them.
    pub error_locations: ErrorLocations,
}

impl Draft {
    /// The configuration with its warnings, or all problems if one of them is an error.
    pub fn finish(self) -> Result<(Config, Problems), Problems> {
        self.problems.into_result(self.config)
    }
}
