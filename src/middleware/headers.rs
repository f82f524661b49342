//! Headers: fixed header fields on every answer.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `headers`: the route's `headers` on every answer, in the place of fields of the same name.
#[derive(Debug)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Takes the fields of a route.
    #[must_use]
    pub fn new(fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self(fields)
    }

    pub(super) fn after(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name, value.clone());
        }
    }
}
