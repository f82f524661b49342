//! Text: bytes that are UTF-8, shared without copying.

pub use tungstenite::Utf8Bytes as Text;
