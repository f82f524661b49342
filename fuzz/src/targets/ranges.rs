//! `Range`: the input is the field's value, and the length of the file in its last two bytes.

use http::{HeaderMap, HeaderValue, header};
use oneport::http::range::{RequestedRange, requested_range};

use crate::input::split_tail;

pub fn run(data: &[u8]) {
    let (data, length) = split_tail::<2>(data);
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.append(header::RANGE, value);
    for length in [u64::from(u16::from_be_bytes(length)), 100, u64::MAX] {
        let expected = naive(data, length);
        match requested_range(&headers.clone().into(), length) {
            RequestedRange::Whole => assert!(
                expected.as_ref().is_none_or(|parts| parts.len() > 1),
                "{expected:?}"
            ),
            RequestedRange::Part(part) => {
                assert!(part.start < part.end && part.end <= length);
                assert_eq!(expected, Some(vec![(part.start, part.end)]));
            }
            RequestedRange::Parts(parts) => {
                let found: Vec<(u64, u64)> =
                    parts.iter().map(|part| (part.start, part.end)).collect();
                assert_eq!(expected.as_ref(), Some(&found));
                assert!(found.len() <= 16);
                let mut sum = 0_u64;
                for (at, (start, end)) in found.iter().enumerate() {
                    assert!(start < end && *end <= length);
                    sum += end - start;
                    for (other, last) in &found[..at] {
                        assert!(end <= other || last <= start, "parts overlap");
                    }
                }
                assert!(sum < length, "more than the whole");
            }
            RequestedRange::Unsatisfiable => assert_eq!(expected, Some(Vec::new())),
        }
    }
}

/// The parts that exist; `None` if the field is malformed or for an empty file.
fn naive(field: &[u8], length: u64) -> Option<Vec<(u64, u64)>> {
    let text = std::str::from_utf8(field).ok()?;
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || length == 0 {
        return None;
    }
    // Longer than any file: its end is the file's.
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u128>().unwrap_or(u128::MAX))
    };
    let mut parts = Vec::new();
    let mut is_empty = true;
    for spec in set
        .split(',')
        .map(str::trim)
        .filter(|spec| !spec.is_empty())
    {
        is_empty = false;
        let (first, last) = spec.split_once('-')?;
        let whole = u128::from(length);
        let (start, end) = match (first, last) {
            ("", last) => (whole.saturating_sub(number(last)?), whole),
            (first, "") => (number(first)?, whole),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                // Numbers beyond 64 bits are all the same.
                if last.min(u128::from(u64::MAX)) < first.min(u128::from(u64::MAX)) {
                    return None;
                }
                (first, last.saturating_add(1).min(whole))
            }
        };
        if start < end {
            parts.push((start as u64, end as u64));
        }
    }
    (!is_empty).then_some(parts)
}
