//! Lint: valid settings of `[server]` that are probably mistakes.

use ipnet::IpNet;

use crate::config::problems::problem::{Problem, Problems};
use crate::config::read::source_location::SourceLocation;
use crate::config::read::value::{Node, Value};
use crate::net::{Bind, unix_path_problem};

/// A network wider than these (16 million IPv4 addresses, 2^112 IPv6 addresses) cannot contain only
/// one's own proxies.
const WIDE_V4_BITS: u8 = 8;
const WIDE_V6_BITS: u8 = 16;

/// The prefix length of IPv4-mapped IPv6 addresses (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Checks the `[metrics]` section at this location. `server_bind` is where `server.bind` is.
pub(in crate::config) fn metrics(
    location: &SourceLocation,
    server_bind: &SourceLocation,
    problems: &mut Problems,
) {
    let location = location.key("bind");
    let mut seen = Vec::new();
    // Its own problems are reported elsewhere.
    addresses(server_bind, &mut seen, &mut Problems::default());
    addresses(&location, &mut seen, problems);
    for (index, item) in location.items().unwrap_or_default().iter().enumerate() {
        for key in ["tls", "websocket_over_http2"] {
            if item.entry(key).is_some() {
                let message = "listeners of metrics speak HTTP/1.1 without TLS";
                problems.error(location.index(index).key(key).of_key(), message);
            }
        }
    }
}

/// Checks the `[server]` section at this location.
pub(in crate::config) fn server(location: &SourceLocation, problems: &mut Problems) {
    bind(&location.key("bind"), problems);
    allowed_hosts(&location.key("allowed_hosts"), problems);
    trusted_proxies(&location.key("trusted_proxies"), problems);
}

fn bind(location: &SourceLocation, problems: &mut Problems) {
    let Some(items) = location.items() else {
        return;
    };
    if items.is_empty() {
        let message = "expected at least one address, found none";
        let problem = Problem::error(location.clone(), message);
        problems.push(problem.with_hint("write [\"127.0.0.1:8000\"]"));
    }
    addresses(location, &mut Vec::new(), problems);
}

/// Checks a list of addresses. `seen` are those that were listed before.
fn addresses(location: &SourceLocation, seen: &mut Vec<Bind>, problems: &mut Problems) {
    let items = location.items().unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let location = location.index(index);
        let (text, location) = match (&item.value, item.entry("address")) {
            (Value::String(text), _) => (text, location),
            (_, Some(entry)) => match &entry.node.value {
                Value::String(text) => (text, location.key("address")),
                _ => continue,
            },
            _ => continue,
        };
        let Ok(address) = text.parse::<Bind>() else {
            continue;
        };
        // Port 0 is a different port each time.
        if seen.contains(&address) && address.port() != Some(0) {
            let message = format!("{text:?} is listed twice");
            problems.error(location, message);
            continue;
        }
        seen.push(address.clone());
        let Bind::Unix(path) = address else {
            continue;
        };
        if let Some(message) = unix_path_problem(&location.base().join(path)) {
            let hint = "write a shorter one, such as \"unix:/run/oneport.sock\"";
            problems.push(Problem::error(location, message).with_hint(hint));
        }
    }
}

fn allowed_hosts(location: &SourceLocation, problems: &mut Problems) {
    let Some(items) = location.items() else {
        return;
    };
    if items.is_empty() {
        let message = "no host is allowed, so every request is refused";
        problems.warning(location.clone(), message);
    }
    let star = |node: &Node| matches!(&node.value, Value::String(text) if text == "*");
    if let Some(index) = items.iter().position(star) {
        let message = "\"*\" accepts any Host header; a forged one can end up in links and caches";
        let problem = Problem::warning(location.index(index), message);
        problems.push(problem.with_hint("list the hosts this server is for"));
    }
}

fn trusted_proxies(location: &SourceLocation, problems: &mut Problems) {
    for (index, item) in location.items().unwrap_or_default().iter().enumerate() {
        let Value::String(text) = &item.value else {
            continue;
        };
        let message = match text.parse::<IpNet>() {
            Ok(network) if contains_all(&network) => format!(
                "{text:?} contains all addresses: any client can forge the address that is logged and counted"
            ),
            Ok(network) if is_wide(&network) => {
                format!(
                    "{text:?} contains more than your own proxies: any client in it can forge its address"
                )
            }
            _ => continue,
        };
        problems.push(
            Problem::warning(location.index(index), message)
                .with_hint("list the addresses of the proxies in front"),
        );
    }
}

/// Returns the bits that distinguish the network from others of its family.
fn own_bits(network: &IpNet) -> (u8, u8) {
    match network {
        IpNet::V4(network) => (network.prefix_len(), WIDE_V4_BITS),
        IpNet::V6(network) => match network.addr().to_ipv4_mapped() {
            Some(_) if network.prefix_len() >= MAPPED_BITS => {
                (network.prefix_len() - MAPPED_BITS, WIDE_V4_BITS)
            }
            _ => (network.prefix_len(), WIDE_V6_BITS),
        },
    }
}

fn contains_all(network: &IpNet) -> bool {
    own_bits(network).0 == 0
}

/// Addresses that are only used in private networks (RFC 4193 §3.1, RFC 4291 §2.5.6).
fn is_private(network: &IpNet) -> bool {
    let private = ["fc00::/7", "fe80::/10"].map(str::parse::<IpNet>);
    private
        .iter()
        .flatten()
        .any(|private| private.contains(network))
}

fn is_wide(network: &IpNet) -> bool {
    if is_private(network) {
        return false;
    }
    let (bits, least) = own_bits(network);
    bits < least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_strangers_are_known() {
        let check = |text: &str, everybody: bool, wide: bool| {
            let network: IpNet = text.parse().unwrap();
            assert_eq!(
                (contains_all(&network), is_wide(&network)),
                (everybody, wide),
                "{text}"
            );
        };
        check("0.0.0.0/0", true, true);
        check("::/0", true, true);
        check("::ffff:0:0/96", true, true);
        check("128.0.0.0/1", false, true);
        check("2000::/3", false, true);
        check("10.0.0.0/8", false, false);
        check("172.16.0.0/12", false, false);
        check("fd00::/16", false, false);
        check("fc00::/7", false, false);
        check("fd00::/8", false, false);
        check("fe80::/10", false, false);
        check("f000::/4", false, true);
        check("::1/128", false, false);
    }
}
