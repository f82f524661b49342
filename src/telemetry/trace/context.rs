//! Trace context: the identity of a span, as it passes between processes (W3C Trace Context).

use std::fmt;
use std::sync::Arc;

/// The most bytes of a `tracestate`, and the most members (W3C Trace Context §3.3.1).
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;

/// The identifier of a trace: sixteen bytes, not all zero.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TraceId(pub(crate) [u8; 16]);

/// The identifier of a span: eight bytes, not all zero.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SpanId(pub(crate) [u8; 8]);

/// The identity of a span.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    /// Whether the span is recorded.
    pub(crate) is_sampled: bool,
    /// The value of `tracestate`; `None` if it is empty.
    pub(crate) state: Option<Arc<str>>,
}

impl TraceId {
    pub(super) fn random() -> Self {
        Self(fastrand::u128(1..).to_be_bytes())
    }

    /// Returns a number that is random among traces.
    pub(super) fn number(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl SpanId {
    pub(super) fn random() -> Self {
        Self(fastrand::u64(1..).to_be_bytes())
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl TraceContext {
    /// Parses the fields `traceparent` and `tracestate` of a request. `None` for a malformed or a
    /// repeated `traceparent`. A malformed `tracestate` is ignored.
    pub(crate) fn parse<'v>(
        mut parents: impl Iterator<Item = &'v [u8]>,
        states: impl Iterator<Item = &'v [u8]>,
    ) -> Option<Self> {
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let mut context = parse_parent(parent)?;
        context.state = parse_state(states);
        Some(context)
    }

    /// Returns its identifiers, for processes of this program.
    pub(crate) fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (trace, span) = bytes.split_at_mut(16);
        trace.copy_from_slice(&self.trace_id.0);
        span.copy_from_slice(&self.span_id.0);
        bytes
    }

    /// Reads the identifiers of a sampled span; `None` if one of them is zero.
    pub(crate) fn from_bytes(bytes: &[u8; 24]) -> Option<Self> {
        let (trace_id, span_id) = bytes.split_first_chunk::<16>()?;
        let span_id = span_id.first_chunk::<8>()?;
        let is_valid = *trace_id != [0; 16] && *span_id != [0; 8];
        is_valid.then_some(Self {
            trace_id: TraceId(*trace_id),
            span_id: SpanId(*span_id),
            is_sampled: true,
            state: None,
        })
    }

    /// Returns the value of `traceparent`.
    pub(crate) fn parent(&self) -> String {
        let flags = u8::from(self.is_sampled);
        format!("00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// Parses `VERSION-TRACE_ID-SPAN_ID-FLAGS`. A later version may be longer.
fn parse_parent(parent: &[u8]) -> Option<TraceContext> {
    let mut parts = parent.split(|byte| *byte == b'-');
    let [version]: [u8; 1] = hex(parts.next()?)?;
    let trace_id: [u8; 16] = hex(parts.next()?)?;
    let span_id: [u8; 8] = hex(parts.next()?)?;
    let [flags]: [u8; 1] = hex(parts.next()?)?;
    let is_whole = match version {
        0 => parts.next().is_none(),
        0xff => false,
        _ => true,
    };
    let is_valid = is_whole && trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some(TraceContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        is_sampled: flags & 1 == 1,
        state: None,
    })
}

/// Reads bytes in lower case.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Joins the values of `tracestate`. `None` if they are empty, malformed or too long.
fn parse_state<'v>(states: impl Iterator<Item = &'v [u8]>) -> Option<Arc<str>> {
    let mut joined = String::new();
    let mut members = 0;
    for state in states {
        let state = std::str::from_utf8(state).ok()?;
        for member in state
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']))
        {
            if member.is_empty() {
                continue;
            }
            members += 1;
            let (key, value) = member.split_once('=')?;
            let is_key = (1..=256).contains(&key.len())
                && key.bytes().all(|byte| {
                    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@')
                });
            let is_value = (1..=256).contains(&value.len())
                && value
                    .bytes()
                    .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=');
            if !is_key || !is_value || members > STATE_MEMBERS_MAX {
                return None;
            }
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
        }
    }
    (1..=STATE_BYTES_MAX)
        .contains(&joined.len())
        .then(|| joined.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(parents: &[&str], states: &[&str]) -> Option<TraceContext> {
        TraceContext::parse(
            parents.iter().map(|parent| parent.as_bytes()),
            states.iter().map(|state| state.as_bytes()),
        )
    }

    #[test]
    fn parent_is_written_as_it_was_read() {
        let context = parse(&[PARENT], &["a=1", "b@c=2 3,,"]).unwrap();
        assert_eq!(context.parent(), PARENT);
        assert_eq!(context.state.as_deref(), Some("a=1,b@c=2 3"));
        assert!(context.is_sampled);
        let later = PARENT.replacen("00", "cc", 1) + "-what-ever";
        assert_eq!(parse(&[&later], &[]).unwrap().parent(), PARENT);
        let unsampled = parse(&[&PARENT.replace("-01", "-02")], &[]).unwrap();
        assert!(!unsampled.is_sampled);
    }

    #[test]
    fn identifiers_pass_between_processes() {
        let context = parse(&[PARENT], &[]).unwrap();
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        assert_eq!(TraceContext::from_bytes(&[0; 24]), None);
    }

    #[test]
    fn malformed_parent_is_none() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for wrong in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}0"),
            &format!("{PARENT}-"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace("b7ad6b7169203331", "0000000000000000"),
            zeros,
            &PARENT.replace('-', "_"),
            &PARENT.replace("b7", "g7"),
            &format!(" {PARENT}"),
        ] {
            assert_eq!(parse(&[wrong], &[]), None, "{wrong:?}");
        }
        assert_eq!(parse(&[PARENT, PARENT], &[]), None);
        assert_eq!(parse(&[], &["a=1"]), None);
    }

    #[test]
    fn malformed_state_is_dropped_and_the_parent_kept() {
        let many: Vec<String> = (0..33).map(|number| format!("k{number}=v")).collect();
        let long = format!("a={}", "x".repeat(257));
        let longer: Vec<String> = (0..5)
            .map(|n| format!("k{n}={}", "x".repeat(120)))
            .collect();
        for wrong in [
            "A=1",
            "a",
            "=1",
            "a=",
            "a=b=c",
            "a=\u{e9}",
            &many.join(","),
            &long,
            &longer.join(","),
        ] {
            let context = parse(&[PARENT], &[wrong]).unwrap();
            assert_eq!(context.state, None, "{wrong:?}");
        }
    }
}
