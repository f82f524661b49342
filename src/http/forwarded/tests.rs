//! Tests of the forwarded fields, one field at a time.

use super::*;

const X: ForwardedFamily = ForwardedFamily::X;
const STANDARD: ForwardedFamily = ForwardedFamily::Standard;

type Fields<'a> = &'a [(&'static str, &'a [u8])];

fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, http::HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn found(family: ForwardedFamily, fields: Fields<'_>) -> Forwarded {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
    read(&headers(fields), family, &trusted, Scheme::Plain)
}

/// Fields in, and out of them the client, the scheme and the host; "" for none.
fn check(family: ForwardedFamily, fields: Fields<'_>, expected: (&str, &str, &str)) {
    let said = found(family, fields);
    let client = said.client.map(|client| client.to_string());
    let scheme = match said.scheme {
        None => "",
        Some(Scheme::Plain) => "http",
        Some(Scheme::Secure) => "https",
    };
    let host = said.host.map(|host| match host.port() {
        Some(port) => format!("{}:{port}", host.name()),
        None => host.name().to_owned(),
    });
    assert_eq!(
        (
            client.as_deref().unwrap_or_default(),
            scheme,
            host.as_deref().unwrap_or_default()
        ),
        expected,
        "{:?}",
        headers(fields)
    );
}

fn client_of_x(addresses: &[u8], expected: &str) {
    check(X, &[("x-forwarded-for", addresses)], (expected, "", ""));
}

#[test]
fn right_most_address_that_is_not_trusted_is_the_client() {
    for (addresses, expected) in [
        (&b"203.0.113.9"[..], "203.0.113.9:0"),
        (b"evil, 203.0.113.9, 10.1.1.1", "203.0.113.9:0"),
        (b"198.51.100.1, 203.0.113.9", "203.0.113.9:0"),
        (
            b"198.51.100.1,10.2.2.2,203.0.113.9,10.1.1.1",
            "203.0.113.9:0",
        ),
        (b"10.2.2.2, 10.1.1.1", "10.2.2.2:0"),
        (b"::ffff:203.0.113.9, ::ffff:10.1.1.1", "203.0.113.9:0"),
        (b"2001:db8::1", "[2001:db8::1]:0"),
        (b"[2001:db8::1]", "[2001:db8::1]:0"),
    ] {
        client_of_x(addresses, expected);
    }
}

/// A client's own elements are to the left of those that the proxy appends.
#[test]
fn nothing_that_a_client_sends_hides_its_address() {
    for sent in [
        &b"\xff\xfe"[..],
        b"caf\xc3\xa9",
        b"not an address",
        b"",
        b",",
        b" , ,, ",
        b"unknown",
        b"\"",
        b"\"203.0.113.1",
        b"203.0.113.1:99999",
        b"203.0.113.1\t",
        b"[::1",
        b"10.9.9.9:x",
    ] {
        let one_field = [sent, b", 203.0.113.9, 10.1.1.1"].concat();
        client_of_x(&one_field, "203.0.113.9:0");
        let fields: Fields<'_> = &[
            ("x-forwarded-for", sent),
            ("x-forwarded-for", b"203.0.113.9"),
            ("x-forwarded-for", b" , "),
            ("x-forwarded-for", b"10.1.1.1,"),
        ];
        check(X, fields, ("203.0.113.9:0", "", ""));
    }
    for sent in [
        &b"\xff"[..],
        b"for=\"",
        b"for=\"\\",
        b"for=\"\\\"",
        b"for=\"203.0.113.1, for=203.0.113.2",
        b"for=\"\\\\\"",
        b"\"",
        b"for=_hidden",
        b"for=unknown;proto=https",
        b"",
        b" , ",
        b";;;",
        b"for=203.0.113.1;for=203.0.113.2",
    ] {
        for appended in [
            &b", for=203.0.113.9"[..],
            b", for=\"203.0.113.9\"",
            b",for=203.0.113.9, for=10.1.1.1",
        ] {
            let one_field = [sent, appended].concat();
            check(
                STANDARD,
                &[("forwarded", &one_field)],
                ("203.0.113.9:0", "", ""),
            );
        }
        let fields: Fields<'_> = &[("forwarded", sent), ("forwarded", b"for=203.0.113.9")];
        check(STANDARD, fields, ("203.0.113.9:0", "", ""));
    }
}

#[test]
fn element_that_is_no_address_ends_the_walk_at_the_last_good_one() {
    client_of_x(b"203.0.113.9, not an address, 10.1.1.1", "10.1.1.1:0");
    client_of_x(b"203.0.113.9, not an address", "");
    let hidden = b"for=203.0.113.9, for=unknown, for=10.1.1.1";
    check(STANDARD, &[("forwarded", hidden)], ("10.1.1.1:0", "", ""));
}

#[test]
fn port_in_an_address_is_the_clients() {
    for (address, expected) in [
        (&b"203.0.113.9:5678"[..], "203.0.113.9:5678"),
        (b"[2001:db8::1]:5", "[2001:db8::1]:5"),
        (b"203.0.113.9:5678, 10.1.1.1:80", "203.0.113.9:5678"),
    ] {
        let fields: Fields<'_> = &[("x-forwarded-for", address), ("x-forwarded-port", b"8443")];
        check(X, fields, (expected, "", ""));
    }
    let fields: Fields<'_> = &[
        ("x-forwarded-for", b"203.0.113.9"),
        ("x-forwarded-port", b"8443"),
    ];
    check(X, fields, ("203.0.113.9:0", "", ""));
    for (node, expected) in [
        (&b"for=\"203.0.113.9:5678\""[..], "203.0.113.9:5678"),
        (b"for=\"203.0.113.9:_x\"", "203.0.113.9:0"),
        (b"For=\"[2001:db8::1]:4711\"", "[2001:db8::1]:4711"),
        (b"for=\"[2001:db8::1]\"", "[2001:db8::1]:0"),
    ] {
        check(STANDARD, &[("forwarded", node)], (expected, "", ""));
    }
}

/// The client is two elements from the right of its list, so its scheme, host and port are too.
#[test]
fn scheme_host_and_port_are_those_of_the_proxy_that_saw_the_client() {
    let chain = &b"198.51.100.1, 203.0.113.9, 10.1.1.1"[..];
    for (proto, expected) in [
        (&b"http, https, http"[..], "https"),
        (b"https, http", "https"),
        (b"https", "https"),
        (b"https, ,http,", "https"),
        (b"\xff, https, http", "https"),
        (b"https, \xff, http", ""),
        (b"https, javascript, http", ""),
        (b"wss, ws", "https"),
        (b"HTTPS", "https"),
        (b"", ""),
    ] {
        let fields: Fields<'_> = &[("x-forwarded-for", chain), ("x-forwarded-proto", proto)];
        check(X, fields, ("203.0.113.9:0", expected, ""));
    }
    for (host, expected) in [
        (&b"evil.example, a.example, inner"[..], "a.example"),
        (b"a.example, inner", "a.example"),
        (b"a.example", "a.example"),
        (b"evil.example, a b, inner", ""),
        (b"evil.example, a_b, inner", ""),
        (b"\xff, a.example, inner", "a.example"),
    ] {
        let fields: Fields<'_> = &[("x-forwarded-for", chain), ("x-forwarded-host", host)];
        check(X, fields, ("203.0.113.9:0", "", expected));
    }
    // Straight from the client: what it sent itself is to the left.
    let fields: Fields<'_> = &[
        ("x-forwarded-for", b"10.3.3.3, 203.0.113.9"),
        ("x-forwarded-proto", b"https, http"),
        ("x-forwarded-host", b"evil.example, a.example"),
    ];
    check(X, fields, ("203.0.113.9:0", "http", "a.example"));
}

#[test]
fn forwarded_port_completes_the_forwarded_host() {
    for (proto, host, port, expected) in [
        ("https", "a.example", "8443", "a.example:8443"),
        ("https", "a.example", "443", "a.example"),
        ("http", "a.example", "443", "a.example:443"),
        ("http", "a.example", "80", "a.example"),
        ("https", "a.example:9", "8443", "a.example:9"),
        ("https", "[::1]", "8443", "[::1]:8443"),
        ("https", "a.example", "0", "a.example"),
        ("https", "a.example", "+8443", "a.example"),
        ("https", "a.example", "99999", "a.example"),
        ("https", "a.example", "1, 8443", "a.example:8443"),
    ] {
        let fields: Fields<'_> = &[
            ("x-forwarded-proto", proto.as_bytes()),
            ("x-forwarded-host", host.as_bytes()),
            ("x-forwarded-port", port.as_bytes()),
        ];
        check(X, fields, ("", proto, expected));
    }
}

#[test]
fn one_element_of_the_standard_field_says_all() {
    for (field, expected) in [
        (
            &b"for=203.0.113.9;proto=https;host=a.example, for=10.0.0.2"[..],
            ("203.0.113.9:0", "https", "a.example"),
        ),
        (
            b"for=203.0.113.1;proto=https;host=evil.example, for=203.0.113.9;proto=http;host=a.example",
            ("203.0.113.9:0", "http", "a.example"),
        ),
        (
            b"for=203.0.113.9, for=10.0.0.2;proto=https;host=\"a.example:8443\"",
            ("203.0.113.9:0", "https", "a.example:8443"),
        ),
        (
            b"for=203.0.113.9;ext=\"a, for=1.2.3.4; b\";proto=https",
            ("203.0.113.9:0", "https", ""),
        ),
        (
            b"for=203.0.113.9;host=\"a\\.example\";proto=gopher",
            ("203.0.113.9:0", "", ""),
        ),
    ] {
        check(STANDARD, &[("forwarded", field)], expected);
    }
}

#[test]
fn only_the_family_that_is_chosen_is_read() {
    let fields: Fields<'_> = &[
        ("forwarded", b"for=203.0.113.1;proto=https;host=a.example"),
        ("x-forwarded-for", b"203.0.113.2"),
        ("x-forwarded-proto", b"http"),
    ];
    check(X, fields, ("203.0.113.2:0", "http", ""));
    check(STANDARD, fields, ("203.0.113.1:0", "https", "a.example"));
}

#[test]
fn fields_that_are_not_believed_are_removed() {
    for (believed, stays) in [
        (None, &["accept"][..]),
        (
            Some(X),
            &["x-forwarded-for", "x-forwarded-prefix", "accept"],
        ),
        (Some(STANDARD), &["forwarded", "accept"]),
    ] {
        let mut headers = headers(&[
            ("x-forwarded-for", b"1"),
            ("x-forwarded-prefix", b"1"),
            ("x-real-ip", b"1"),
            ("forwarded", b"1"),
            ("daphne-root-path", b"1"),
            ("x_under", b"1"),
            ("accept", b"*/*"),
        ]);
        let removed = strip(&mut headers, believed);
        strip_ambiguous(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_by_key(|name| stays.iter().position(|known| known == name));
        assert_eq!(left, stays);
        assert!(removed.is_some());
    }
}

#[test]
fn a_field_that_is_removed_is_seen_beforehand() {
    for name in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-anything",
        "x-real-ip",
        "daphne-root-path",
        "x_forwarded_for",
        "a_b",
        "date",
        "x-request-id",
        "from",
        "user-agent",
    ] {
        let fields = headers(&[(name, b"1")]);
        let mut left = fields.clone();
        strip(&mut left, None);
        strip_ambiguous(&mut left);
        assert_eq!(has_strippable(&fields), left.is_empty(), "{name}");
    }
}
