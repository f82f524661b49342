//! Head scanner: detects parts of a request head that hyper's parser does not report.
//!
//! ```text
//! Start ──> RequestLine ──> Fields ──> Elsewhere ──> Start, after a request without a body
//!   │               └── GET, HEAD ────────^
//!   └── a complete GET or HEAD ───────────^
//! Preface ────────────────────────────────^   only over TLS, agreed by ALPN
//! ```

use crate::net::AgreedProtocol;

/// The maximum bytes of a line kept when a read ends within it. The only relevant line is shorter.
const LINE_BYTES_MAX: usize = 128;

/// The first bytes of a client that speaks HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The start of a version of HTTP/1.
const VERSION: &[u8] = b"HTTP/";

/// The two values of `Content-Length` that hyper uses as internal markers, without their last
/// digit.
const LARGEST: &[u8] = b"1844674407370955161";

/// Scans heads only where one certainly begins: at the start of a connection, and after a request
/// without a body if the read ended with that request. After a body or between pipelined requests
/// it scans nothing.
#[derive(Debug)]
pub(crate) struct HeadScanner {
    position: Position,
    /// Whether a preface of HTTP/2 is no other protocol.
    takes_http2: bool,
    /// The start of a line when a read ended within it.
    line: Vec<u8>,
    /// The last bytes that were read.
    tail: [u8; 4],
}

/// What the scanner found in a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    Nothing,
    /// A fragment, which hyper drops.
    Fragment,
    /// The client speaks another protocol.
    NotHttp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Position {
    /// In the preface of HTTP/2, behind this many bytes of it.
    Preface(usize),
    Start,
    RequestLine,
    Fields,
    Elsewhere,
}

impl HeadScanner {
    pub(crate) fn new(protocol: AgreedProtocol) -> Self {
        Self {
            position: match protocol {
                AgreedProtocol::Http2 => Position::Preface(0),
                _ => Position::Start,
            },
            takes_http2: protocol != AgreedProtocol::Http1,
            line: Vec::new(),
            tail: [0; 4],
        }
    }

    /// Records that hyper has parsed a request. Without a body, the next head begins after it,
    /// unless more bytes than the request's were read.
    pub(crate) fn parsed(&mut self, has_body: bool) {
        self.line.clear();
        self.position = match !has_body && self.tail == *b"\r\n\r\n" {
            true => Position::Start,
            false => Position::Elsewhere,
        };
    }

    /// Scans the bytes of a read before hyper parses them.
    ///
    /// Lowers a `Content-Length` that is one of the two largest 64-bit numbers. hyper uses these as
    /// internal markers and would answer 431. A length one or two bytes shorter is refused as too
    /// long.
    pub(crate) fn scan(&mut self, read: &mut [u8]) -> Found {
        if self.position == Position::Start && is_whole_and_short(read) {
            self.position = Position::Elsewhere;
            self.note_tail(read);
            return Found::Nothing;
        }
        let mut found = Found::Nothing;
        let mut at = 0;
        if let Position::Preface(behind) = self.position {
            let expected = &PREFACE[behind..];
            let compared = expected.len().min(read.len());
            self.position = match compared == expected.len() {
                true => Position::Elsewhere,
                false => Position::Preface(behind + compared),
            };
            return match expected[..compared] == read[..compared] {
                true => Found::Nothing,
                false => Found::NotHttp,
            };
        }
        if self.position == Position::Start {
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            at = read
                .iter()
                .position(|byte| !matches!(byte, b'\r' | b'\n'))
                .unwrap_or(read.len());
            if at < read.len() {
                self.position = Position::RequestLine;
            }
        }
        if self.position == Position::RequestLine {
            let end = memchr::memchr(b'\n', &read[at..]).map(|end| at + end);
            let line = &read[at..end.unwrap_or(read.len())];
            if memchr::memchr(b'#', line).is_some() {
                found = Found::Fragment;
            }
            match end {
                Some(end) => {
                    if !self.line.is_empty() {
                        self.remember(line);
                    }
                    let whole = match self.line.is_empty() {
                        true => line,
                        false => &self.line,
                    };
                    // These requests have no body in practice, so their fields are not scanned.
                    let is_short = whole.starts_with(b"GET ") || whole.starts_with(b"HEAD ");
                    self.position = match is_short {
                        true => Position::Elsewhere,
                        false => Position::Fields,
                    };
                    let is_preface = whole.starts_with(b"PRI * HTTP/2");
                    if !is_short && (is_not_http(whole) || is_preface && !self.takes_http2) {
                        found = Found::NotHttp;
                    }
                    self.line.clear();
                    at = end + 1;
                }
                None => {
                    self.remember(line);
                    // The parser refuses the start of a line already.
                    if is_not_http(&self.line) {
                        found = Found::NotHttp;
                    }
                }
            }
        }
        if self.position == Position::Fields {
            self.scan_fields(&mut read[at..]);
        }
        self.note_tail(read);
        found
    }

    fn scan_fields(&mut self, mut rest: &mut [u8]) {
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, behind) = rest.split_at_mut(end + 1);
            let line = &mut line[..end];
            let is_blank =
                self.line.trim_ascii_end().is_empty() && line.trim_ascii_end().is_empty();
            if is_blank {
                self.position = Position::Elsewhere;
                self.line.clear();
                return;
            }
            lower_largest_length(&self.line, line);
            self.line.clear();
            rest = behind;
        }
        self.remember(rest);
    }

    fn remember(&mut self, part: &[u8]) {
        let room = LINE_BYTES_MAX - self.line.len().min(LINE_BYTES_MAX);
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn note_tail(&mut self, read: &[u8]) {
        if let Some(tail) = read.last_chunk() {
            self.tail = *tail;
            return;
        }
        let kept = read.len().min(4);
        self.tail.copy_within(kept.., 0);
        self.tail[4 - kept..].copy_from_slice(&read[read.len() - kept..]);
    }
}

/// Returns whether the start of a request line has three words, but neither a target nor a version
/// of HTTP/1. A client that sends this cannot read a response of HTTP/1.1 either: a broken preface
/// of HTTP/2 is answered with the end of the connection (RFC 9113 §3.4).
fn is_not_http(line: &[u8]) -> bool {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return false;
    };
    if matches!(method, b"GET" | b"HEAD") {
        return false;
    }
    let is_target = target.starts_with(b"/")
        || target == b"*"
        || method == b"CONNECT"
        || memchr::memchr(b':', target).is_some();
    let is_version = version.first().is_some_and(u8::is_ascii_alphabetic);
    let known = version.len().min(VERSION.len());
    let is_other = is_version && version[..known] != VERSION[..known];
    !method.is_empty() && !target.is_empty() && !is_target && is_other
}

/// Returns whether a read is a GET whose head is complete and has no fragment, as nearly all are.
fn is_whole_and_short(read: &[u8]) -> bool {
    read.starts_with(b"GET ")
        && read.ends_with(b"\r\n\r\n")
        && memchr::memchr2(b'#', b'\n', read).is_some_and(|at| read[at] == b'\n')
}

/// Lowers the largest lengths in a line. `before` is the part of the line from earlier reads.
fn lower_largest_length(before: &[u8], line: &mut [u8]) {
    let Some(last) = line.iter().rposition(u8::is_ascii_digit) else {
        return;
    };
    if !matches!(line[last], b'4' | b'5') {
        return;
    }
    let whole: Vec<u8> = before.iter().chain(&line[..last]).copied().collect();
    let Some(colon) = memchr::memchr(b':', &whole) else {
        return;
    };
    let (name, value) = (&whole[..colon], whole[colon + 1..].trim_ascii_start());
    let digits = value
        .iter()
        .position(|digit| *digit != b'0')
        .map_or(&[][..], |first| &value[first..]);
    let is_behind_digits = line[last + 1..].trim_ascii().is_empty();
    if name.eq_ignore_ascii_case(b"content-length") && digits == LARGEST && is_behind_digits {
        line[last] = b'3';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner() -> HeadScanner {
        HeadScanner::new(AgreedProtocol::Any)
    }

    /// Feeds a text in reads that end at the `cuts`. Returns the text that the parser gets, and the
    /// read in which a fragment was found.
    fn watch(watch: &mut HeadScanner, text: &str, cuts: &[usize]) -> (String, Option<usize>) {
        let mut bytes = text.as_bytes().to_vec();
        let mut seen = None;
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let mut start = 0;
        for (read, end) in ends.enumerate() {
            if watch.scan(&mut bytes[start..end]) == Found::Fragment {
                seen.get_or_insert(read);
            }
            start = end;
        }
        (String::from_utf8(bytes).unwrap(), seen)
    }

    fn check(text: &str, expected: Option<&str>) {
        // Cut the head at every position.
        for cut in 0..=text.len() {
            let (found, _) = watch(&mut scanner(), text, &[cut]);
            let is_cut_in_digits = expected.is_some() && found == text;
            if is_cut_in_digits {
                // The parser already had the last digit, or the start of the line was too far back.
                assert!(cut > text.find("18446").unwrap(), "{cut}");
                continue;
            }
            assert_eq!(found, expected.unwrap_or(text), "cut at {cut}");
        }
    }

    #[test]
    fn only_the_two_largest_lengths_of_a_head_are_lowered() {
        check(
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
            Some("POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n"),
        );
        check(
            "POST / HTTP/1.1\r\nX: 18446744073709551615\r\ncontent-length:0018446744073709551614 \r\n\r\n",
            Some(
                "POST / HTTP/1.1\r\nX: 18446744073709551615\r\ncontent-length:0018446744073709551613 \r\n\r\n",
            ),
        );
        for text in [
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 184467440737095516155\r\n\r\n",
            "POST / HTTP/1.1\r\nX-Content-Length: 18446744073709551615\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\nContent-Length: 18446744073709551615\r\n\r\n",
            "POST / HTTP/1.1\n\nContent-Length: 18446744073709551615\r\n\r\n",
            "POST / HTTP/1.1\r\nA: b\r\n\r\na\ncontent-length: 18446744073709551615\r\n",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_fragment_is_seen_in_the_request_line_alone_and_wherever_it_is_cut() {
        for text in [
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET /a# HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /#a HTTP/1.1\r\n\r\n",
        ] {
            for cut in 0..=text.len() {
                let (_, seen) = watch(&mut scanner(), text, &[cut]);
                assert!(seen.is_some(), "{text:?} cut at {cut}");
            }
        }
        let text = "GET /a HTTP/1.1\r\nX-Color: #fff\r\n\r\n#\n";
        for cut in 0..=text.len() {
            let (_, seen) = watch(&mut scanner(), text, &[cut]);
            assert_eq!(seen, None, "cut at {cut}");
        }
    }

    #[test]
    fn line_without_a_target_and_a_version_is_not_http_wherever_it_is_cut() {
        let is_found = |text: &str, cut: usize| {
            let mut bytes = text.as_bytes().to_vec();
            let mut scanner = scanner();
            let (first, rest) = bytes.split_at_mut(cut);
            let (second, third) = rest.split_at_mut(rest.len().min(3));
            [first, second, third]
                .map(|read| scanner.scan(read))
                .contains(&Found::NotHttp)
        };
        for text in [
            "INVALID CONNECTION PREFACE\r\n\r\n",
            "\r\nNICK alice USER\n",
            "PRI X XTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            for cut in 0..=text.len() {
                assert!(is_found(text, cut), "{text:?} cut at {cut}");
            }
        }
        let long = format!("POST {} HTTP/1.1\r\n", "a".repeat(LINE_BYTES_MAX - 10));
        for text in [
            "hello\r\n\r\n",
            " GET /page/ HTTP/1.1\r\n\r\n",
            "POST  /page/ HTTP/1.1\r\n\r\n",
            "hello you\r\n\r\n",
            "GET x FOOBAR\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "POST / XTTP/1.1\r\n\r\n",
            "POST a HTTP/1.1\r\n\r\n",
            "POST http://a/ XTTP/1.1\r\n\r\n",
            "OPTIONS * XTTP/1.1\r\n\r\n",
            "CONNECT a XTTP/1.1\r\n\r\n",
            &long,
        ] {
            for cut in 0..=text.len() {
                assert!(!is_found(text, cut), "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn client_that_agreed_on_http2_sends_its_preface() {
        let is_refused = |text: &[u8], cut: usize| {
            let mut bytes = text.to_vec();
            let mut scanner = HeadScanner::new(AgreedProtocol::Http2);
            let (first, second) = bytes.split_at_mut(cut);
            [first, second]
                .map(|read| scanner.scan(read))
                .contains(&Found::NotHttp)
        };
        let sound = [PREFACE, b"\0\0\0\x04\0\0\0\0\0POST a b\r\n"].concat();
        for cut in 0..=sound.len() {
            assert!(!is_refused(&sound, cut), "cut at {cut}");
        }
        let mut broken = PREFACE.to_vec();
        *broken.last_mut().unwrap() = b'\r';
        for text in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &broken[..], b"a"] {
            for cut in 0..=text.len() {
                assert!(is_refused(text, cut), "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn client_that_agreed_on_http1_sends_no_preface_of_http2() {
        let is_refused = |text: &[u8], cut: usize| {
            let mut bytes = text.to_vec();
            let mut scanner = HeadScanner::new(AgreedProtocol::Http1);
            let (first, second) = bytes.split_at_mut(cut);
            [first, second]
                .map(|read| scanner.scan(read))
                .contains(&Found::NotHttp)
        };
        let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..=PREFACE.len() {
            assert!(is_refused(PREFACE, cut), "cut at {cut}");
            assert!(!is_refused(get, cut), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_a_request_is_looked_at_only_where_a_head_certainly_begins() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let line = "GET /#a HTTP/1.1\r\n";
        let mut one = scanner();
        watch(&mut one, request, &[]);
        one.parsed(false);
        assert_eq!(watch(&mut one, line, &[]).1, Some(0));
        // Half of the next head came with the request, so its fields must not be scanned as a
        // request line.
        let mut one = scanner();
        watch(
            &mut one,
            &format!("{request}GET / HTTP/1.1\r\nX-Color: "),
            &[],
        );
        one.parsed(false);
        assert_eq!(watch(&mut one, "#fff\r\n\r\n", &[]).1, None);
        // A body follows the head.
        let mut one = scanner();
        watch(
            &mut one,
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            &[],
        );
        one.parsed(true);
        assert_eq!(watch(&mut one, "a#b\r\n", &[]).1, None);
    }
}
