//! Headers: the fields that a route adds to its responses.

use std::ops::Deref;

use serde::Deserialize;

/// A table of header fields, and the preset that it names.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct HeaderFields {
    /// The preset under the key `preset`. Default: none.
    pub preset: Option<HeaderPreset>,
    /// The fields themselves, in the order of the file.
    pub written: Vec<(String, String)>,
}

/// A set of header fields with a name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum HeaderPreset {
    /// Protects a page of this server: its own scripts only, no framing, no type sniffing.
    Page,
}

impl HeaderFields {
    /// Returns whether nothing is added.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.preset.is_none() && self.written.is_empty()
    }
}

/// The fields themselves.
impl Deref for HeaderFields {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        &self.written
    }
}
