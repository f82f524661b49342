//! ConfigUrl: a URL, whose socket path is relative to the file it is written in.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The type name by which the reader recognizes a URL to resolve.
pub(in crate::config) const NAME: &str = "$oneport::ConfigUrl";

/// The scheme of a socket's path.
const UNIX: &str = "unix:";

/// A URL such as `http://127.0.0.1:9000`, or `unix:` and the path of a socket, written relative to
/// its file.
///
/// Options of views and consumers use it; [`Options::read`](crate::config::Options::read) resolves
/// the path. Other deserializers leave it unchanged.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConfigUrl(pub String);

/// Returns the path of a socket, if the URL is one.
pub(in crate::config) fn socket(text: &str) -> Option<&str> {
    text.strip_prefix(UNIX).filter(|path| !path.is_empty())
}

/// Returns the URL of a socket.
pub(in crate::config) fn with_socket(path: &std::path::Path) -> String {
    format!("{UNIX}{}", path.to_string_lossy())
}

impl<'de> Deserialize<'de> for ConfigUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = ConfigUrl;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<ConfigUrl, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ConfigUrl, E> {
                Ok(ConfigUrl(text.to_owned()))
            }
        }
        deserializer.deserialize_newtype_struct(NAME, Written)
    }
}
