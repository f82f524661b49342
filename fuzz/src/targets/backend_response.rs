//! A backend's response: the input is its body.

use oneport::fuzzing::backend_response;
use serde_json::Value;

pub fn run(data: &[u8]) {
    if backend_response(data).is_err() {
        return;
    }
    // In a field that it does not know, it takes any bytes.
    if data.trim_ascii().is_empty() || std::str::from_utf8(data).is_err() {
        return;
    }
    // The event of a `group.send` may nest deeper than serde_json reads.
    match serde_json::from_slice::<Value>(data) {
        Ok(value) => assert!(value.is_null() || value.is_object(), "{value}"),
        Err(error) => assert!(
            error.to_string().contains("recursion")
                || error.to_string().contains("surrogate")
                || error.to_string().contains("number"),
            "{error}"
        ),
    }
}
