//! From a file's bytes to a [`Draft`](crate::config::Draft): TOML, environment variables, includes,
//! and a serde `Deserializer` that continues after an error.

pub(in crate::config) mod collect;
pub(in crate::config) mod document;
pub(in crate::config) mod environment;
pub(in crate::config) mod include;
pub(in crate::config) mod load;
pub(in crate::config) mod located;
pub(in crate::config) mod path;
pub(in crate::config) mod placeholder;
pub(in crate::config) mod read_error;
pub(in crate::config) mod reader;
pub(in crate::config) mod source_location;
pub(in crate::config) mod syntax;
pub(in crate::config) mod value;
