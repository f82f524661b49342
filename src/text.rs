//! Text: reference-counted UTF-8.

pub use tungstenite::Utf8Bytes as Text;
