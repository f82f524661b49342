//! `Accept-Encoding` against a naive reader: the input is fields in lines.

use http::{HeaderMap, HeaderValue, header};
use oneport::fuzzing::accepted_encodings;

pub fn run(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(4) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::ACCEPT_ENCODING, value);
        }
    }
    let fields: Vec<String> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .map(|field| String::from_utf8_lossy(field.as_bytes()).to_ascii_lowercase())
        .collect();
    let has_field = !fields.is_empty();
    let list = fields.join(",");
    let found = accepted_encodings(&headers.into());
    if !has_field {
        assert!(found.is_empty());
        return;
    }
    let weight = |name: &str| match name {
        "gzip" => weight_of(&list, &["gzip", "x-gzip"]),
        name => weight_of(&list, &[name]),
    };
    let identity = weight("identity").unwrap_or(0);
    for name in ["br", "zstd", "gzip"] {
        let weight = weight(name).or(weight("*")).unwrap_or(0);
        let is_expected = weight > 0 && weight >= identity;
        assert_eq!(found.contains(&name), is_expected, "{list:?}: {name}");
    }
    let weights = found.iter().map(|name| weight(name).or(weight("*")));
    assert!(
        weights.is_sorted_by(|one, other| one >= other),
        "{list:?}: not the best first"
    );
}

/// The weight in thousandths of the first element with one of these names. A malformed one is 0.
fn weight_of(list: &str, names: &[&str]) -> Option<u16> {
    let is_space = |found: char| found.is_ascii_whitespace();
    list.split(',').find_map(|element| {
        let mut parts = element.split(';').map(|part| part.trim_matches(is_space));
        let name = parts.next()?;
        if !names.contains(&name) {
            return None;
        }
        Some(match parts.find_map(|part| part.strip_prefix("q=")) {
            None => 1000,
            Some(written) => match written.parse::<f32>() {
                Ok(weight @ 0.0..=1.0) => (weight * 1000.0) as u16,
                _ => 0,
            },
        })
    })
}
