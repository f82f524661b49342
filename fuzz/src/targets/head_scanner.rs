//! The head scanner against hyper's parser, httparse: the input is the first bytes of a connection.

use http::Request;
use oneport::fuzzing::{HeadFound, scan_head};

use crate::input::split_tail;

pub fn run(data: &[u8]) {
    let (data, [at, other]) = split_tail(data);
    let mut cuts = [at, other].map(|cut| usize::from(cut).min(data.len()));
    cuts.sort_unstable();
    let mut reads = [
        data[..cuts[0]].to_vec(),
        data[cuts[0]..cuts[1]].to_vec(),
        data[cuts[1]..].to_vec(),
    ];
    let found = scan_head(&mut reads);
    let changed = reads.concat();
    assert_eq!(changed.len(), data.len());
    let mut whole = [data.to_vec()];
    let at_once = scan_head(&mut whole)[0];
    let (Some(before), Some(after)) = (parse_head(data), parse_head(&changed)) else {
        // A head that hyper refuses, or has not whole, has at most one changed digit a line.
        return;
    };
    assert_eq!(before.1, after.1, "the head ends elsewhere");
    assert_eq!(data[before.1..], changed[before.1..], "the body is changed");
    let (before, after) = (before.0, after.0);
    let is_http1 = before.method() != "PRI";
    if is_http1 {
        assert!(!found.contains(&HeadFound::NotHttp), "hyper would serve it");
        assert_ne!(at_once, HeadFound::NotHttp, "hyper would serve it");
    }
    assert_eq!(before.method(), after.method());
    for (name, value) in before.headers() {
        let kept = after
            .headers()
            .get_all(name)
            .iter()
            .any(|kept| kept == value);
        let is_largest = name == "content-length"
            && value
                .as_bytes()
                .windows(19)
                .any(|digits| digits == b"1844674407370955161");
        assert!(kept || is_largest, "{name} is changed");
    }
    // hyper drops a fragment of the target.
    let line_end = data
        .iter()
        .skip_while(|byte| b"\r\n".contains(byte))
        .position(|byte| *byte == b'\n');
    let start = data.iter().position(|byte| !b"\r\n".contains(byte));
    if let (Some(start), Some(length)) = (start, line_end) {
        let has_fragment = data[start..start + length].contains(&b'#');
        assert_eq!(at_once == HeadFound::Fragment, has_fragment);
        assert_eq!(
            found.contains(&HeadFound::Fragment),
            has_fragment,
            "{cuts:?}"
        );
    }
}

/// Parses a head as hyper does. Returns it and its length.
pub(super) fn parse_head(data: &[u8]) -> Option<(Request<()>, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(data) else {
        return None;
    };
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in parsed.headers.iter() {
        request = request.header(header.name, header.value);
    }
    Some((request.body(()).ok()?, length))
}
