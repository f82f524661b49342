//! Paths in the file system, relative to the file they are written in.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The type name by which the reader knows that it has to resolve a path.
pub(in crate::config) const NAME: &str = "$oneport::ConfigPath";

/// A path in the file system, relative to the file that contains it.
///
/// Options of views and consumers use it for paths; [`Options::read`](crate::config::Options::read) resolves it. Read by
/// any other deserializer it stays as it is.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConfigPath(pub PathBuf);

impl<'de> Deserialize<'de> for ConfigPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = ConfigPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<ConfigPath, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ConfigPath, E> {
                Ok(ConfigPath(PathBuf::from(text)))
            }
        }
        deserializer.deserialize_newtype_struct(NAME, Written)
    }
}

impl From<ConfigPath> for PathBuf {
    fn from(path: ConfigPath) -> Self {
        path.0
    }
}

impl AsRef<Path> for ConfigPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
