//! Params: the values that a path's parameters matched, by name.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// The parameters of one match, in the order of the pattern, with defaults last.
///
/// Values are decoded text. An empty `Params` allocates nothing. Serialises as a map.
///
/// ```
/// use oneport::routing::Params;
///
/// let params: Params = [("room", "lobby"), ("page", "007")].into_iter().collect();
/// assert_eq!(params.get("room"), Some("lobby"));
/// assert_eq!(params.int("page"), Some(7));
/// assert_eq!(params.int("room"), None);
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Params {
    /// A boxed slice has no spare capacity: every open WebSocket keeps its parameters.
    entries: Box<[(Arc<str>, Box<str>)]>,
}

impl Params {
    /// Sets a value. If the name exists, its value is replaced and its position kept.
    pub fn insert(&mut self, name: impl Into<Arc<str>>, value: impl Into<Box<str>>) {
        let name = name.into();
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.append(name, value.into()),
        }
    }

    /// Appends a value whose name is not present yet.
    pub(super) fn push(&mut self, name: &Arc<str>, value: &str) {
        self.append(Arc::clone(name), value.into());
    }

    fn append(&mut self, name: Arc<str>, value: Box<str>) {
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        entries.reserve_exact(1);
        entries.push((name, value));
        self.entries = entries.into_boxed_slice();
    }

    /// Returns the value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| &**value)
    }

    /// Returns the value of a parameter as a number; `None` if it is not a number or does not fit
    /// an `i128`.
    pub fn int(&self, name: &str) -> Option<i128> {
        self.get(name)?.parse().ok()
    }

    /// Iterates over names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<N: Into<Arc<str>>, V: Into<Box<str>>> FromIterator<(N, V)> for Params {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut params = Self::default();
        for (name, value) in entries {
            params.insert(name, value);
        }
        params
    }
}

impl Serialize for Params {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialises_as_a_map_in_order() {
        let params: Params = [("b", "1"), ("a", "x")].into_iter().collect();
        assert_eq!(
            serde_json::to_string(&params).unwrap(),
            r#"{"b":"1","a":"x"}"#
        );
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let params: Params = [("k", "a"), ("j", "x"), ("k", "b")].into_iter().collect();
        assert_eq!(params.iter().collect::<Vec<_>>(), [("k", "b"), ("j", "x")]);
    }

    #[test]
    fn a_number_longer_than_i128_stays_text() {
        let digits = "9".repeat(60);
        let params: Params = [("x", digits.as_str())].into_iter().collect();
        assert_eq!(params.int("x"), None);
        assert_eq!(params.get("x"), Some(digits.as_str()));
    }
}
