//! Sessions: what is remembered of a visitor between requests.

use serde_json::{Map, Value};

/// The data of one visitor's session, as it was when the request or the handshake came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// The values by name: JSON, as Django's serializer has it.
    pub data: Map<String, Value>,
}
