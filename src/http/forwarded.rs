//! Forwarded: the client's address, scheme and host as trusted proxies report them.

mod element;
mod ignored;

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use self::element::Element;
use crate::host::HostHeader;
use crate::scope::Scheme;

pub use crate::config::ForwardedFamily;
pub(crate) use ignored::warn_of_ignored;

/// The values reported by a chain of trusted proxies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forwarded {
    /// The right-most address that is not a trusted proxy; port 0 if none is given.
    pub client: Option<SocketAddr>,
    /// The scheme on the client's side.
    pub scheme: Option<Scheme>,
    /// The host that the client requested, with its port unless it is the scheme's default.
    pub host: Option<HostHeader>,
}

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(crate) const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The addresses of a request that came through trusted proxies: the client's first, the peer's
/// last. An extension of the scope, in a table with a route that passes requests on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ForwardedChain(pub(crate) Box<[IpAddr]>);

/// Reads the fields of one family: `Forwarded` (RFC 7239), or `X-Forwarded-For`, `-Proto`, `-Host`
/// and `-Port`. `arrived` is the scheme of the connection, for a forwarded host whose scheme is not
/// forwarded.
///
/// Called only if the peer itself is trusted. Several fields with one name form one list (RFC 9110
/// §5.3), and empty elements are ignored (§5.6.1). The list of addresses is walked from the right,
/// past every trusted one: each proxy appends the address of its own peer, so an element is as
/// trustworthy as the address to its right. The first address that is not trusted is the client. An
/// element that is not an address ends the walk at the last valid one. Scheme, host and port are
/// those that the same proxy appended: the elements as far from the right as the client's, or the
/// left-most one of a shorter list.
#[must_use]
pub fn read(
    headers: &HeaderMap,
    family: ForwardedFamily,
    trusted: &[IpNet],
    arrived: Scheme,
) -> Forwarded {
    match family {
        ForwardedFamily::Standard => rfc7239(headers, trusted),
        ForwardedFamily::X => x_forwarded(headers, trusted, arrived),
    }
}

/// Returns the addresses of a request from a trusted peer. Addresses to the left of the client's
/// are its own claim, and left out.
pub(crate) fn chain(
    headers: &HeaderMap,
    family: ForwardedFamily,
    trusted: &[IpNet],
    peer: Option<IpAddr>,
) -> ForwardedChain {
    let addresses: Vec<Option<SocketAddr>> = match family {
        ForwardedFamily::Standard => elements(headers)
            .into_iter()
            .map(|text| Element::parse(text).client)
            .collect(),
        ForwardedFamily::X => list(headers, &FORWARDED_FOR)
            .into_iter()
            .map(element::address)
            .collect(),
    };
    let mut chain: Vec<IpAddr> = peer.into_iter().collect();
    for address in addresses.into_iter().rev() {
        let Some(address) = address else { break };
        chain.push(address.ip());
        if !is_trusted(address.ip(), trusted) {
            break;
        }
    }
    chain.reverse();
    ForwardedChain(chain.into())
}

/// Returns whether an address is one of the trusted proxies.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// Removes the fields that only a trusted proxy may send, and returns the name of the first one.
/// `believed` is the family to keep for a trusted peer. A proxy passes unknown fields on, so fields
/// of the other family come from the client.
pub fn strip(headers: &mut HeaderMap, believed: Option<ForwardedFamily>) -> Option<HeaderName> {
    remove(headers, |name| match family(name) {
        Some(family) => believed != Some(family),
        None => *name == REAL_IP,
    })
}

/// Removes fields that are never allowed: names with `_`, which some applications confuse with `-`,
/// and `Daphne-Root-Path`, which would change the root path.
pub fn strip_ambiguous(headers: &mut HeaderMap) {
    remove(headers, |name| is_ambiguous(name.as_str()));
}

/// Returns whether there is a field that [`strip`] or [`strip_ambiguous`] may remove. Most requests
/// have none.
pub(crate) fn has_strippable(headers: &HeaderMap) -> bool {
    let mut names = headers.keys().map(HeaderName::as_str);
    names.any(|name| match name.as_bytes().first() {
        Some(b'd' | b'f' | b'x') => is_ambiguous(name) || is_forwarded(name),
        _ => name.as_bytes().contains(&b'_'), // the only reason for all others
    })
}

fn is_ambiguous(name: &str) -> bool {
    memchr::memchr(b'_', name.as_bytes()).is_some() || name == "daphne-root-path"
}

/// Returns whether a field of this name is one that proxies write.
pub(crate) fn is_forwarded(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// Returns the family of a field.
fn family(name: &HeaderName) -> Option<ForwardedFamily> {
    if *name == header::FORWARDED {
        Some(ForwardedFamily::Standard)
    } else {
        let is_x = name.as_str().starts_with("x-forwarded-");
        is_x.then_some(ForwardedFamily::X)
    }
}

fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) -> Option<HeaderName> {
    let mut first = None;
    while let Some(name) = headers.keys().find(|name| unwanted(name)).cloned() {
        headers.remove(&name);
        first.get_or_insert(name);
    }
    first
}

/// The result of walking a list of addresses.
struct Walk {
    client: Option<SocketAddr>,
    /// The number of elements to the right of the client's.
    distance: usize,
}

/// Walks addresses from the right. `None` is an element that is not an address.
fn walk(addresses: impl Iterator<Item = Option<SocketAddr>>, trusted: &[IpNet]) -> Walk {
    let mut found = Walk {
        client: None,
        distance: 0,
    };
    for (distance, address) in addresses.enumerate() {
        let Some(address) = address else { break };
        found = Walk {
            client: Some(address),
            distance,
        };
        if !is_trusted(address.ip(), trusted) {
            break;
        }
    }
    found
}

fn rfc7239(headers: &HeaderMap, trusted: &[IpNet]) -> Forwarded {
    let elements = elements(headers).into_iter().rev();
    let elements: Vec<Element> = elements.map(Element::parse).collect();
    let Walk { client, distance } = walk(elements.iter().map(|element| element.client), trusted);
    // If the client's element lacks a value, a proxy nearer to us may have added it.
    let said = elements.get(..=distance).unwrap_or(&elements);
    Forwarded {
        client,
        scheme: said.iter().rev().find_map(|element| element.scheme),
        host: said.iter().rev().find_map(|element| element.host.clone()),
    }
}

fn x_forwarded(headers: &HeaderMap, trusted: &[IpNet], arrived: Scheme) -> Forwarded {
    let addresses = list(headers, &FORWARDED_FOR);
    let Walk { client, distance } = walk(
        addresses.iter().rev().map(|found| element::address(found)),
        trusted,
    );
    let said = |name: &HeaderName| {
        let elements = list(headers, name);
        let at = elements.len().saturating_sub(distance + 1);
        elements.get(at).copied()
    };
    let scheme = said(&FORWARDED_PROTO).and_then(element::scheme);
    let port = || said(&FORWARDED_PORT).and_then(element::port);
    let host = said(&FORWARDED_HOST).and_then(element::host).map(|host| {
        let usual = match scheme.unwrap_or(arrived) {
            Scheme::Plain => 80,
            Scheme::Secure => 443,
        };
        match port().filter(|port| host.port().is_none() && *port != usual) {
            Some(port) => element::with_port(host, port),
            None => host,
        }
    });
    Forwarded {
        client,
        scheme,
        host,
    }
}

/// Returns the elements of all `Forwarded` fields.
fn elements(headers: &HeaderMap) -> Vec<&[u8]> {
    let mut elements: Vec<&[u8]> = Vec::new();
    for field in headers.get_all(header::FORWARDED) {
        element::split_quoted(field.as_bytes(), &mut elements);
    }
    elements
}

/// Returns the elements of a list in one or several fields, without the empty ones.
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
