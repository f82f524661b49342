//! Draft: a configuration as far as it could be read.

use super::Config;
use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;

/// A configuration as far as it could be read, and everything wrong with it so far.
///
/// What could not be read is made up or left out, so a draft is not for running: it is for looking up the names in it
/// (`gateway::compile_draft`), so that the Problems of all stages are reported at once.
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
    /// What could be read.
    pub config: Config,
    /// What is wrong so far, warnings among it.
    pub problems: Problems,
    /// Where it is wrong.
    pub error_locations: ErrorLocations,
}

impl Draft {
    /// The configuration with its warnings, or all problems if one of them is an error.
    pub fn finish(self) -> Result<(Config, Problems), Problems> {
        self.problems.into_result(self.config)
    }
}
