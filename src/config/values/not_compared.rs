//! A field that comparison and hashing skip.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// A field that comparison and hashing skip: two sections that set the same keys are equal,
/// wherever they are written.
///
/// ```
/// use oneport::config::NotCompared;
/// assert_eq!(NotCompared(1), NotCompared(2));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NotCompared<T>(pub T);

impl<T> PartialEq for NotCompared<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for NotCompared<T> {}

impl<T> Hash for NotCompared<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T> Deref for NotCompared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for NotCompared<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
