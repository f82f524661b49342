//! Tests of the handshake: why an upgrade request is refused.

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request(changes: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    headers.insert("sec-websocket-key", KEY.parse().unwrap());
    for (name, value) in changes {
        match value.strip_prefix('+') {
            Some(more) => drop(headers.append(*name, more.parse().unwrap())),
            None if value.is_empty() => drop(headers.remove(*name)),
            None => drop(headers.insert(*name, value.parse().unwrap())),
        }
    }
    headers
}

fn refuses(changes: &[(&'static str, &str)], status: u16, sentence: &str) {
    let failure = check(&Method::GET, Version::HTTP_11, &request(changes)).unwrap_err();
    assert_eq!(
        (failure.status().as_u16(), failure.sentence()),
        (status, sentence),
        "{changes:?}"
    );
}

#[test]
fn sound_handshake_gets_the_key_of_the_rfc() {
    let handshake = check(
        &Method::GET,
        Version::HTTP_11,
        &request(&[
            ("sec-websocket-protocol", "b, a"),
            ("sec-websocket-protocol", "+c"),
        ]),
    )
    .unwrap();
    assert_eq!(
        handshake.accept.as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(handshake.subprotocols, ["b", "a", "c"]);
}

#[test]
fn each_refusal_has_its_status_and_quotes_what_was_found() {
    refuses(
        &[("sec-websocket-version", "12")],
        426,
        "expected Sec-WebSocket-Version 13, found \"12\"",
    );
    refuses(
        &[("sec-websocket-version", "")],
        400,
        "expected Sec-WebSocket-Version 13, found none",
    );
    refuses(
        &[("sec-websocket-key", "")],
        400,
        "expected a Sec-WebSocket-Key, found none",
    );
    refuses(
        &[("sec-websocket-key", "+x")],
        400,
        "expected one Sec-WebSocket-Key, found several",
    );
    refuses(
        &[("sec-websocket-key", "short")],
        400,
        "expected 16 bytes of base64 in Sec-WebSocket-Key, found \"short\"",
    );
    refuses(
        &[("sec-websocket-key", "c2hvcnQ=")],
        400,
        "expected 16 bytes of base64 in Sec-WebSocket-Key, found 5",
    );
    refuses(
        &[("origin", "http://a"), ("origin", "+http://b")],
        400,
        "expected one Origin at most, found several",
    );
    refuses(
        &[("sec-websocket-protocol", "a b")],
        400,
        "expected tokens in Sec-WebSocket-Protocol, found \"a b\"",
    );
    refuses(
        &[("sec-websocket-protocol", "a,a")],
        400,
        "expected each subprotocol once, found \"a\" again",
    );
    refuses(
        &[("content-length", "5")],
        400,
        "expected a handshake without a body, found one",
    );
}

/// The offer is read before routing, so its cost must not grow quadratically.
#[test]
fn subprotocols_are_at_most_64_over_all_lines() {
    let offer = |from: usize, to: usize| {
        let words: Vec<String> = (from..to).map(|number| format!("p{number}")).collect();
        words.join(",")
    };
    let most = request(&[("sec-websocket-protocol", &offer(0, SUBPROTOCOLS_MAX))]);
    let handshake = check(&Method::GET, Version::HTTP_11, &most).unwrap();
    assert_eq!(handshake.subprotocols.len(), SUBPROTOCOLS_MAX);
    let sentence = "expected at most 64 subprotocols, found more";
    for count in [SUBPROTOCOLS_MAX + 1, 3_000] {
        let offer = offer(0, count);
        refuses(&[("sec-websocket-protocol", &offer)], 400, sentence);
    }
    let (first, second) = (offer(0, 40), format!("+{}", offer(40, 80)));
    let lines: [(&str, &str); 2] = [
        ("sec-websocket-protocol", &first),
        ("sec-websocket-protocol", &second),
    ];
    refuses(&lines, 400, sentence);
    // Words after the last one that counts are not read at all.
    let offer = format!("{},a b", offer(0, SUBPROTOCOLS_MAX + 1));
    refuses(&[("sec-websocket-protocol", &offer)], 400, sentence);
}

#[test]
fn other_methods_and_old_versions_are_refused() {
    let post = check(&Method::POST, Version::HTTP_11, &request(&[])).unwrap_err();
    assert_eq!(
        (post.status().as_u16(), &post.headers()["allow"]),
        (405, &HeaderValue::from_static("GET"))
    );
    assert_eq!(
        check(&Method::GET, Version::HTTP_10, &request(&[]))
            .unwrap_err()
            .status(),
        400
    );
}

/// RFC 8441 §5: no key, no `Upgrade`, the rest as over HTTP/1.1.
#[test]
fn extended_connect_needs_no_key() {
    let headers = request(&[("sec-websocket-key", ""), ("sec-websocket-protocol", "a")]);
    let handshake = check(&Method::CONNECT, Version::HTTP_2, &headers).unwrap();
    assert_eq!(handshake.accept, None);
    assert_eq!(handshake.subprotocols, ["a"]);
    let headers = request(&[("sec-websocket-version", "")]);
    let failure = check(&Method::CONNECT, Version::HTTP_2, &headers).unwrap_err();
    assert_eq!(failure.status(), 400);
    let failure = check(&Method::GET, Version::HTTP_2, &headers).unwrap_err();
    assert_eq!(
        (failure.status().as_u16(), &failure.headers()["allow"]),
        (405, &HeaderValue::from_static("CONNECT"))
    );
}

#[test]
fn wrong_version_names_the_one_that_is_spoken() {
    for version in ["8", ""] {
        let failure = check(
            &Method::GET,
            Version::HTTP_11,
            &request(&[("sec-websocket-version", version)]),
        )
        .unwrap_err();
        assert_eq!(failure.headers()["sec-websocket-version"], "13");
    }
}
