//! Headers: sets fixed header fields on every response.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::HeaderPreset;

/// The preset `page`: allows scripts, styles, images and connections from this host only, no inline
/// code, and no framing. `'self'` includes this host's WebSockets; `data:` allows images that a
/// page generates.
const PAGE: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// `headers`: sets the route's `headers` on every response and replaces fields of the same name.
/// Fields of a preset do not replace the view's.
#[derive(Clone, Debug)]
pub struct Headers {
    fields: Vec<(HeaderName, HeaderValue)>,
    preset: Vec<(HeaderName, HeaderValue)>,
}

impl Headers {
    /// Creates the step from a route's fields and its preset. The fields override the preset.
    #[must_use]
    pub fn new(fields: Vec<(HeaderName, HeaderValue)>, preset: Option<HeaderPreset>) -> Self {
        let preset = match preset {
            Some(HeaderPreset::Page) => PAGE.as_slice(),
            None => &[],
        };
        let preset = preset
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .filter(|(name, _)| !fields.iter().any(|(written, _)| written == name))
            .collect();
        Self { fields, preset }
    }

    pub(crate) fn after(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.preset {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}
