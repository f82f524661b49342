//! Spare fields: the map of header fields of a thread's last request, for its next response.
//!
//! A map is two allocations. hyper keeps the map of a response for the fields of the connection's
//! next request; a response that is made at once takes the map of its request in turn.

use std::cell::Cell;

use http::HeaderMap;

/// The largest map that is kept, in fields. hyper keeps the map while its connection is idle, so a
/// larger one would cost each idle client its memory.
const FIELDS_MAX: usize = 12;

thread_local! {
    static SPARE: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// Returns an empty map.
pub(crate) fn take() -> HeaderMap {
    SPARE.take().unwrap_or_default()
}

/// Keeps the map of a request that is done, unless it is large. The memory of names that repeat is
/// not part of a map's capacity, and is not freed by clearing it.
pub(crate) fn keep(mut fields: HeaderMap) {
    let has_repeats = fields.len() > fields.keys_len();
    if fields.capacity() <= FIELDS_MAX && !has_repeats {
        fields.clear();
        SPARE.set(Some(fields));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_map_that_is_kept_is_empty_and_not_large() {
        let value = || HeaderValue::from_static("1");
        let mut fields = HeaderMap::new();
        fields.append("x-one", value());
        keep(fields);
        let mut fields = take();
        assert!(fields.is_empty() && fields.capacity() > 0);
        assert_eq!(fields.get("x-one"), None);
        assert_eq!(take().capacity(), 0);
        fields.append("x-one", value());
        fields.append("x-one", value());
        keep(fields);
        assert_eq!(take().capacity(), 0, "memory of a name that repeats");
        let mut large = HeaderMap::with_capacity(FIELDS_MAX * 2);
        large.insert("x-one", value());
        keep(large);
        assert_eq!(take().capacity(), 0);
    }
}
