//! ConfigPath: a file system path, relative to the file it is written in.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The type name by which the reader recognizes a path to resolve.
pub(in crate::config) const NAME: &str = "$oneport::ConfigPath";

/// A file system path, written relative to its file.
///
/// Options of views and consumers use it for paths; [`Options::read`](crate::config::Options::read)
/// resolves it. Other deserializers leave it unchanged.
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

/// The type name by which the reader recognizes a path that may be empty.
pub(in crate::config) const OPTIONAL_NAME: &str = "$oneport::OptionalPath";

/// A [`ConfigPath`] for which "" is none.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct OptionalPath(pub Option<PathBuf>);

impl<'de> Deserialize<'de> for OptionalPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = OptionalPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<OptionalPath, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OptionalPath, E> {
                let path = Some(text).filter(|text| !text.is_empty());
                Ok(OptionalPath(path.map(PathBuf::from)))
            }
        }
        deserializer.deserialize_newtype_struct(OPTIONAL_NAME, Written)
    }
}
