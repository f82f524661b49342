//! Compress: the settings of the middleware `compress`.

use serde::Deserialize;

use crate::config::values::checked::{CompressionLevel, via};
use crate::config::values::units::Size;

/// The table `compress` of an HTTP route.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CompressConfig {
    /// The codings, the preferred one first; the client's weights come before this order. Default:
    /// all.
    pub algorithms: Vec<CompressionAlgorithm>,
    /// From 1 (fast) to 9 (small). Default: 4.
    #[serde(deserialize_with = "via::<CompressionLevel, _, _>")]
    pub level: u8,
    /// Shorter bodies are sent as they are. Default: 1 KiB.
    pub min_size: Size,
    /// The media types to compress; `text/*` is all of them, `*+json` all with that suffix.
    /// Default: text, JSON, XML, JavaScript, SVG, WebAssembly; no event streams.
    pub types: Vec<String>,
}

/// A coding that `compress` can produce.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq)]
pub enum CompressionAlgorithm {
    /// Brotli.
    #[serde(rename = "br")]
    Brotli,
    /// Zstandard.
    #[serde(rename = "zstd")]
    Zstd,
    /// gzip.
    #[serde(rename = "gzip")]
    Gzip,
}

impl Default for CompressConfig {
    fn default() -> Self {
        use CompressionAlgorithm::{Brotli, Gzip, Zstd};
        Self {
            algorithms: vec![Brotli, Zstd, Gzip],
            level: 4,
            min_size: Size::kib(1),
            types: [
                "text/*",
                "application/json",
                "application/javascript",
                "application/xml",
                "application/wasm",
                "application/manifest+json",
                "image/svg+xml",
                "*+json",
                "*+xml",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}
