//! Middleware: a list of steps before a request or a handshake, and after its answer; the same list for both tables.

mod headers;
mod hosts;
mod origin;

use http::HeaderMap;

pub use headers::Headers;
pub use hosts::Hosts;
pub use origin::Origin;

use crate::http::Failure;
use crate::scope::Scope;

/// One step of a route's list.
///
/// The steps run in the order of the list before the view or the consumer; the first that refuses ends the journey. After the
/// answer (a refusal is one too) they run in the reverse order over its header fields.
#[derive(Debug)]
pub enum Step {
    /// Only hosts the server is meant for.
    Hosts(Hosts),
    /// Only pages of allowed origins.
    Origin(Origin),
    /// Fixed header fields on every answer.
    Headers(Headers),
}

impl Step {
    /// The names of all steps in the file.
    pub const NAMES: [&'static str; 3] = ["hosts", "origin", "headers"];

    /// Lets a request or a handshake pass, or refuses it.
    pub async fn before(&self, scope: &mut Scope) -> Result<(), Failure> {
        match self {
            Self::Hosts(step) => step.before(scope),
            Self::Origin(step) => step.before(scope),
            Self::Headers(_) => Ok(()),
        }
    }

    /// Adds to the header fields of the answer.
    pub fn after(&self, headers: &mut HeaderMap) {
        match self {
            Self::Headers(step) => step.after(headers),
            Self::Hosts(_) | Self::Origin(_) => {}
        }
    }
}
