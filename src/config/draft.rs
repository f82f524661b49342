//! Draft: the part of a configuration that could be read.

use super::Config;
use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;

/// The part of a configuration that could be read, and all its errors so far.
///
/// Values that could not be read are placeholders or left out, so a draft cannot run. It serves to
/// look up the names in it (`gateway::compile_draft`), so that the Problems of all stages are
/// reported at once.
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
    /// The part that could be read.
    pub config: Config,
    /// The problems so far, including warnings.
    pub problems: Problems,
    /// The locations of the errors.
    pub error_locations: ErrorLocations,
}

impl Draft {
    /// Returns the configuration with its warnings, or all problems if one of them is an error.
    pub fn finish(self) -> Result<(Config, Problems), Problems> {
        self.problems.into_result(self.config)
    }
}
