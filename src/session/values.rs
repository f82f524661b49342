//! Values: a session's values, parsed while in use and packed while its socket is idle.

use std::sync::Arc;

use serde_json::{Map, Value};

/// The values of a session.
#[derive(Clone)]
pub(super) enum Values {
    /// Parsed values, shared with other readers of the same row.
    Parsed(Arc<Map<String, Value>>),
    /// JSON text, a third of the memory: an open socket keeps its values for hours and seldom reads
    /// them.
    Packed(Box<str>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Parsed(Arc::default())
    }
}

impl From<Arc<Map<String, Value>>> for Values {
    fn from(map: Arc<Map<String, Value>>) -> Self {
        Self::Parsed(map)
    }
}

impl Values {
    /// Returns the parsed values.
    pub(super) fn map(&self) -> Arc<Map<String, Value>> {
        match self {
            Self::Parsed(map) => map.clone(),
            // The text was serialised from a map, so parsing succeeds.
            Self::Packed(text) => Arc::new(serde_json::from_str(text).unwrap_or_default()),
        }
    }

    /// Returns a value.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        match self {
            Self::Parsed(map) => map.get(name).cloned(),
            Self::Packed(_) => self.map().get(name).cloned(),
        }
    }

    /// Returns the parsed values for mutation.
    pub(super) fn make_mut(&mut self) -> &mut Map<String, Value> {
        if let Self::Packed(_) = self {
            *self = Self::Parsed(self.map());
        }
        match self {
            Self::Parsed(map) => Arc::make_mut(map),
            Self::Packed(_) => unreachable!("parsed above"),
        }
    }

    pub(super) fn pack(&mut self) {
        if let Self::Parsed(map) = self
            && !map.is_empty()
            && let Ok(text) = serde_json::to_string(&**map)
        {
            *self = Self::Packed(text.into());
        }
    }
}
