//! Forwarded fields: the input is fields in lines, as a client and its proxies send them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use oneport::fuzzing::forwarded_chain;
use oneport::http::forwarded::{
    Forwarded, ForwardedFamily, is_trusted, read, strip, strip_ambiguous,
};
use oneport::scope::Scheme;

use crate::input::fields;

const FAMILIES: [ForwardedFamily; 2] = [ForwardedFamily::X, ForwardedFamily::Standard];

pub fn run(data: &[u8]) {
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32"]
        .iter()
        .map(|net| net.parse().expect("a net"))
        .collect();
    let sent = fields(data);
    let headers = sent.clone();
    for family in FAMILIES {
        let found = read(&headers, family, &trusted, Scheme::Plain);
        let chain = forwarded_chain(&headers, family, &trusted, Some([10, 0, 0, 1].into()));
        assert_eq!(chain.last(), Some(&IpAddr::from([10, 0, 0, 1])));
        assert!(
            chain[1..]
                .iter()
                .all(|address| is_trusted(*address, &trusted))
        );
        match found.client {
            Some(client) => assert_eq!(chain[0], client.ip()),
            None => assert_eq!(chain.len(), 1),
        }
    }
    let by_us = read(&headers, ForwardedFamily::X, &trusted, Scheme::Plain).client;
    assert_eq!(by_us, naive(&headers, &trusted));
    spoofed(&sent, &trusted);
    // Nothing of a family that is not believed remains.
    let mut own = sent;
    strip_ambiguous(&mut own);
    strip(&mut own, None);
    for family in FAMILIES {
        let found = read(&own, family, &trusted, Scheme::Plain);
        assert_eq!(found, Forwarded::default());
    }
    assert!(own.keys().all(|name| !name.as_str().contains('_')));
}

/// Whatever a client sends, the element of its proxy counts.
fn spoofed(sent: &HeaderMap, trusted: &[IpNet]) {
    for (name, family, elements) in [
        (
            "x-forwarded-for",
            ForwardedFamily::X,
            ["203.0.113.9", "203.0.113.9"],
        ),
        (
            "forwarded",
            ForwardedFamily::Standard,
            ["for=203.0.113.9", "for=\"203.0.113.9:80\""],
        ),
    ] {
        for element in elements {
            // In a field of its own.
            let mut headers = sent.clone();
            headers.append(name, HeaderValue::from_static(element));
            check(&headers, family, trusted);
            // At the end of the last field.
            let mut fields: Vec<HeaderValue> = sent.get_all(name).iter().cloned().collect();
            if let Some(last) = fields.pop() {
                let whole = [last.as_bytes(), b", ", element.as_bytes()].concat();
                fields.push(HeaderValue::from_bytes(&whole).expect("a value"));
            }
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(name, field);
            }
            if !headers.is_empty() {
                check(&headers, family, trusted);
            }
        }
    }
}

fn check(headers: &HeaderMap, family: ForwardedFamily, trusted: &[IpNet]) {
    let found = read(headers, family, trusted, Scheme::Plain);
    let client = found.client.map(|client| client.ip());
    assert_eq!(client, Some([203, 0, 113, 9].into()), "{headers:?}");
}

/// The client in `X-Forwarded-For`: the first from the right that is not trusted.
fn naive(headers: &HeaderMap, trusted: &[IpNet]) -> Option<SocketAddr> {
    let fields: Vec<String> = headers
        .get_all("x-forwarded-for")
        .iter()
        .map(|field| String::from_utf8_lossy(field.as_bytes()).into_owned())
        .collect();
    let list = fields.join(",");
    let mut client = None;
    let is_space = |found: char| found.is_ascii_whitespace();
    for text in list
        .split(',')
        .rev()
        .map(|text| text.trim_matches(is_space))
    {
        if text.is_empty() {
            continue;
        }
        let Some(address) = address(text) else {
            break;
        };
        client = Some(address);
        if !trusted.iter().any(|net| net.contains(&address.ip())) {
            break;
        }
    }
    client
}

/// Reads an address with or without a port, which a proxy may hide.
fn address(text: &str) -> Option<SocketAddr> {
    let shown = match text.rfind(":_") {
        Some(at)
            if text.len() > at + 2
                && text[at + 2..]
                    .chars()
                    .all(|found| found.is_ascii_alphanumeric() || "._-".contains(found)) =>
        {
            &text[..at]
        }
        _ => text,
    };
    let bare = shown
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(inside) => inside.parse().ok().filter(IpAddr::is_ipv6),
        None => shown.parse().ok(),
    };
    let found = match ip {
        Some(ip) => SocketAddr::new(ip, 0),
        None => shown.parse().ok()?,
    };
    Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
}
