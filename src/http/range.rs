//! Range: the bytes of a representation that a request asks for (RFC 9110 §14).

use std::ops::Range;

use http::header;

use crate::scope::Headers;

/// A request for more parts than this gets the whole representation.
const PARTS_MAX: usize = 16;

/// The parsed `Range` of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestedRange {
    /// The whole representation: no `Range`, or an ignored one.
    Whole,
    /// One part.
    Part(Range<u64>),
    /// Several parts, in the order they were asked for, none empty.
    Parts(Vec<Range<u64>>),
    /// 416: no requested byte exists.
    Unsatisfiable,
}

/// Parses `Range` for a representation of `len` bytes.
///
/// The following are ignored: several fields, a unit other than `bytes` (§14.2), a malformed field,
/// any range of an empty representation, and lists that cost more than the whole: over 16 parts,
/// overlapping parts, or parts whose total length reaches the whole (§17.15). A part that ends
/// after the representation is truncated; parts that begin after it are omitted.
///
/// ```
/// use http::HeaderMap;
/// use oneport::http::range::{RequestedRange, requested_range};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("range", "bytes=0-9".parse().unwrap());
/// assert_eq!(requested_range(&headers.into(), 100), RequestedRange::Part(0..10));
/// ```
#[must_use]
pub fn requested_range(headers: &Headers, len: u64) -> RequestedRange {
    let mut fields = headers.all(&header::RANGE);
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return RequestedRange::Whole;
    };
    let Some(set) = std::str::from_utf8(field).ok().and_then(byte_ranges) else {
        return RequestedRange::Whole;
    };
    if len == 0 {
        return RequestedRange::Whole;
    }
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut specs = 0;
    for spec in set
        .split(',')
        .map(str::trim)
        .filter(|spec| !spec.is_empty())
    {
        specs += 1;
        match part(spec, len) {
            Some(part) if !part.is_empty() => parts.push(part),
            Some(_) => {}
            None => return RequestedRange::Whole,
        }
        if parts.len() > PARTS_MAX {
            return RequestedRange::Whole;
        }
    }
    match parts.len() {
        0 if specs == 0 => RequestedRange::Whole,
        0 => RequestedRange::Unsatisfiable,
        1 => RequestedRange::Part(parts.remove(0)),
        _ if costs_more_than_the_whole(&parts, len) => RequestedRange::Whole,
        _ => RequestedRange::Parts(parts),
    }
}

/// Returns the text after `bytes=`. The unit is case-insensitive.
fn byte_ranges(field: &str) -> Option<&str> {
    let (unit, set) = field.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(set)
}

/// Returns the bytes of one range, empty if they do not exist; `None` if the range is malformed.
fn part(spec: &str, len: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(len.saturating_sub(suffix)..len);
    }
    let first = number(first)?;
    let end = match last {
        "" => len,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(len)
        }
    };
    Some(first.min(len)..end.max(first.min(len)))
}

/// Parses digits. A number that overflows `u64` is after the end of any representation.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

fn costs_more_than_the_whole(parts: &[Range<u64>], len: u64) -> bool {
    let mut sorted: Vec<&Range<u64>> = parts.iter().collect();
    sorted.sort_unstable_by_key(|part| part.start);
    let overlaps = sorted.windows(2).any(|pair| pair[0].end > pair[1].start);
    overlaps || parts.iter().map(|part| part.end - part.start).sum::<u64>() >= len
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn of(field: &str, len: u64) -> RequestedRange {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, field.parse().unwrap());
        requested_range(&headers.into(), len)
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let check =
            |field: &str, expected: RequestedRange| assert_eq!(of(field, 100), expected, "{field}");
        use RequestedRange::{Part, Parts, Unsatisfiable, Whole};
        check("bytes=0-0", Part(0..1));
        check("bytes=0-99", Part(0..100));
        check("bytes=10-", Part(10..100));
        check("bytes=-10", Part(90..100));
        check("bytes=-100", Part(0..100));
        check("bytes=-1000", Part(0..100)); // a suffix longer than the file is all of it
        check("bytes=99-200", Part(99..100));
        check("bytes=0-18446744073709551615", Part(0..100));
        check("bytes=0-99999999999999999999999", Part(0..100));
        check("BYTES=0-1", Part(0..2));
        check("bytes= 0-1 ", Part(0..2));
        check("bytes=0-1, 4-5", Parts(vec![0..2, 4..6]));
        check("bytes=4-5,0-1", Parts(vec![4..6, 0..2]));
        check("bytes=0-1,,4-5,", Parts(vec![0..2, 4..6]));
        check("bytes=0-1,200-300", Part(0..2));
        check("bytes=100-", Unsatisfiable);
        check("bytes=100-200", Unsatisfiable);
        check("bytes=99999999999999999999999-", Unsatisfiable);
        check("bytes=-0", Unsatisfiable);
        check("bytes=200-,300-", Unsatisfiable);
        // Ignored: another unit, malformed, too expensive.
        check("lines=0-1", Whole);
        check("bytes", Whole);
        check("bytes=", Whole);
        check("bytes=-", Whole);
        check("bytes=5-4", Whole);
        check("bytes=a-b", Whole);
        check("bytes=+1-2", Whole);
        check("bytes=0-1,5-4", Whole);
        check("bytes 0-1", Whole);
        check("bytes=0-10,5-20", Whole);
        check("bytes=0-49,50-99", Whole);
        check("bytes=0-,0-,0-", Whole);
        let many: Vec<String> = (0..17).map(|at| format!("{0}-{0}", at * 2)).collect();
        check(&format!("bytes={}", many.join(",")), Whole);
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        for field in ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=7-9"] {
            assert_eq!(of(field, 0), RequestedRange::Whole, "{field}");
        }
    }

    #[test]
    fn several_fields_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, "bytes=0-1".parse().unwrap());
        headers.append(header::RANGE, "bytes=2-3".parse().unwrap());
        assert_eq!(requested_range(&headers.into(), 100), RequestedRange::Whole);
    }
}
