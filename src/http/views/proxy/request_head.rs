//! Request head: the header fields that the upstream gets for a request.
//!
//! The gateway has already refused malformed heads and removed the forwarded fields that did not
//! come from a trusted proxy. From what is left, this file removes the fields of the connection
//! (RFC 9110 §7.6.1), and any other spelling of a field that an application could take for one that
//! Oneport writes. Then it writes `Host`, the forwarded fields, and those of `request_headers`.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{self, Entry};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::header_rules::{HeaderRules, WrittenHeaderRules, is_odd, variable};
use super::target::PathRule;
use crate::client::{is_hop_by_hop, remove_hop_by_hop};
use crate::config::OptionErrors;
use crate::http::forwarded::{
    self, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PREFIX, FORWARDED_PROTO,
    ForwardedChain, REAL_IP,
};
use crate::http::framing::is_framing;
use crate::http::upgrade::has_token;
use crate::http::{Failure, Mapped};
use crate::routing::RouteContext;
use crate::scope::{ClientAddress, Scheme, Scope};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
/// CGI gives applications a field `Proxy` as `HTTP_PROXY`, the variable that sets the proxy of
/// their own requests.
const PROXY: HeaderName = HeaderName::from_static("proxy");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The most fields that Oneport adds, apart from those of options.
const OWN_FIELDS_MAX: usize = 9;

/// The `Host` of a request to the upstream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum HostRule {
    /// The client's.
    #[default]
    Preserve,
    /// The address of the server in `upstream`.
    Upstream,
    /// A fixed name.
    Name(HeaderValue),
}

/// The family of forwarded fields that the upstream gets.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize)]
pub(crate) enum WrittenForwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and, below a prefix, `-Prefix`.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    X,
    /// `Forwarded` (RFC 7239).
    #[serde(rename = "forwarded")]
    Standard,
    /// Both families.
    #[serde(rename = "both")]
    Both,
    /// Neither: those of a trusted proxy pass unchanged.
    #[serde(rename = "off")]
    Off,
}

/// How the head of a request becomes the head for the upstream: the options that the view and the
/// consumer share.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestRules {
    /// The options `strip_prefix` and `rewrite`.
    pub(crate) path: PathRule,
    /// The option `host`.
    pub(crate) host: HostRule,
    /// The option `forwarded`.
    pub(crate) forwarded: WrittenForwarded,
    /// The option `request_headers`.
    pub(crate) headers: HeaderRules,
}

impl HostRule {
    /// Parses the option `host`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "preserve" => Ok(Self::Preserve),
            "upstream" => Ok(Self::Upstream),
            name => {
                let is_host = name.parse::<Authority>().is_ok() && !name.contains('@');
                HeaderValue::from_str(name)
                    .ok()
                    .filter(|_| is_host)
                    .map(Self::Name)
                    .ok_or_else(|| {
                        format!("expected \"preserve\", \"upstream\" or the name of a host, found {name:?}")
                    })
            }
        }
    }
}

impl RequestRules {
    /// Parses the options of these names.
    pub(crate) fn parse(
        (strip_prefix, rewrite): (&str, Option<&str>),
        host: &str,
        forwarded: WrittenForwarded,
        request_headers: &WrittenHeaderRules,
        errors: &mut OptionErrors,
    ) -> Self {
        let host = HostRule::parse(host).unwrap_or_else(|message| {
            errors.error("host", message);
            HostRule::default()
        });
        Self {
            path: PathRule::parse(strip_prefix, rewrite, errors),
            host,
            forwarded,
            headers: HeaderRules::parse("request_headers", request_headers, errors),
        }
    }

    /// Returns what the paths of the route are mapped onto, at servers with these URLs.
    pub(crate) fn mapped(&self, urls: &[String]) -> Mapped {
        Mapped::Servers {
            urls: urls.to_vec(),
            stripped: self.path.stripped().to_owned(),
            rewritten: self.path.rewritten().map(str::to_owned),
        }
    }

    /// Attaches the rules to their route.
    pub(crate) fn mount(&mut self, route: &RouteContext<'_>, errors: &mut OptionErrors) {
        errors.extend(self.path.mount(route.pattern, &route.params));
        errors.extend(self.headers.check("request_headers", &route.params));
    }

    /// Returns the path and query for the upstream. Fails with 400 for a path that some servers
    /// resolve to another one.
    pub(crate) fn target(&self, scope: &Scope) -> Result<PathAndQuery, Failure> {
        self.path.target(scope)
    }

    /// Returns the header fields for the upstream, without those that frame the body.
    ///
    /// Of the connection's fields only `TE: trailers` is left. `Host` is absent if the upstream's
    /// own address belongs there.
    pub(crate) fn headers(&self, scope: &Scope) -> HeaderMap {
        let sent = scope.headers.as_map();
        let takes_trailers = has_token(&sent, &header::TE, "trailers");
        let mut headers = end_to_end(&sent);
        self.remove_lookalikes(&mut headers);
        if scope.http_version == Version::HTTP_2 {
            join_cookies(&mut headers);
        }
        if takes_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        if scope.method == Method::OPTIONS {
            decrement_max_forwards(&mut headers);
        }
        match &self.host {
            HostRule::Preserve => {}
            HostRule::Upstream => drop(headers.remove(header::HOST)),
            HostRule::Name(name) => drop(headers.insert(header::HOST, name.clone())),
        }
        self.write_forwarded(scope, &mut headers);
        let mut id = String::with_capacity(16);
        let _ = write!(id, "{}", scope.request_id);
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(REQUEST_ID, id);
        }
        self.headers.apply(scope, &mut headers);
        headers
    }

    /// Removes fields whose name becomes the same variable as that of a field that Oneport writes,
    /// or as that of another rule's field.
    fn remove_lookalikes(&self, headers: &mut HeaderMap) {
        let has_odd_rule = self.headers.has_odd_name();
        if !has_odd_rule && !headers.keys().any(is_odd) {
            return;
        }
        let is_lookalike = |name: &&HeaderName| {
            if self.headers.names(name) {
                return false;
            }
            if has_odd_rule && self.headers.names_variable(name.as_str()) {
                return true;
            }
            is_odd(name) && self.is_own(name.as_str())
        };
        let lookalikes: Vec<HeaderName> = headers.keys().filter(is_lookalike).cloned().collect();
        for name in lookalikes {
            headers.remove(name);
        }
    }

    /// Returns whether a name becomes the same variable as that of a field that only Oneport
    /// writes.
    fn is_own(&self, name: &str) -> bool {
        let variable = variable(name);
        forwarded::is_forwarded(&variable)
            || self.headers.names_variable(&variable)
            || HeaderName::try_from(&variable).is_ok_and(|name| {
                is_framing(&name) || name == header::HOST || name == REQUEST_ID || name == PROXY
            })
    }

    fn write_forwarded(&self, scope: &Scope, headers: &mut HeaderMap) {
        let (writes_x, writes_standard) = match self.forwarded {
            WrittenForwarded::Off => return,
            WrittenForwarded::X => (true, false),
            WrittenForwarded::Standard => (false, true),
            WrittenForwarded::Both => (true, true),
        };
        let chain: Option<&ForwardedChain> = scope.extensions.get();
        let direct = scope.client.map(ClientAddress::ip);
        let addresses: &[IpAddr] = match (chain, &direct) {
            (Some(chain), _) => &chain.0,
            (None, Some(client)) => std::slice::from_ref(client),
            (None, None) => &[], // a peer on a unix socket
        };
        // Of the family that is not written, those of a trusted proxy would contradict these.
        headers.remove(header::FORWARDED);
        headers.remove(REAL_IP);
        if writes_standard {
            set(headers, header::FORWARDED, &standard(scope, addresses));
        }
        if writes_x {
            self.write_x_forwarded(scope, addresses, headers);
        } else {
            let x: Vec<HeaderName> = headers
                .keys()
                .filter(|name| forwarded::is_forwarded(name.as_str()))
                .filter(|name| **name != header::FORWARDED)
                .cloned()
                .collect();
            for name in x {
                headers.remove(name);
            }
        }
    }

    fn write_x_forwarded(&self, scope: &Scope, addresses: &[IpAddr], headers: &mut HeaderMap) {
        let mut list = String::with_capacity(64);
        for address in addresses {
            if !list.is_empty() {
                list.push_str(", ");
            }
            push_address(&mut list, address.to_canonical());
        }
        set(headers, FORWARDED_FOR, &list);
        let (scheme, usual) = match scope.security {
            Scheme::Plain => ("http", 80),
            Scheme::Secure => ("https", 443),
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        match &scope.host {
            Some(host) => {
                set(headers, FORWARDED_HOST, host.as_str());
                headers.insert(FORWARDED_PORT, host.port().unwrap_or(usual).into());
            }
            None => {
                headers.remove(FORWARDED_HOST);
                headers.remove(FORWARDED_PORT);
            }
        }
        if let PathRule::Strip(prefix) = &self.path {
            let earlier = headers.get(&FORWARDED_PREFIX);
            let earlier = earlier.and_then(|value| value.to_str().ok());
            let earlier = earlier.map_or("", |value| value.trim_end_matches('/'));
            let whole = format!("{earlier}{}{prefix}", scope.root_path());
            set(headers, FORWARDED_PREFIX, &whole);
        }
    }
}

/// Copies the fields that pass: not those of the client's connection, which `Connection` may name,
/// and not those that are written for the upstream's.
fn end_to_end(sent: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(sent.len() + OWN_FIELDS_MAX);
    for (name, value) in sent {
        let is_replaced = is_hop_by_hop(name)
            || matches!(*name, header::CONTENT_LENGTH | header::EXPECT)
            || name == PROXY
            || name == HTTP2_SETTINGS;
        if !is_replaced {
            headers.append(name.clone(), value.clone());
        }
    }
    let names_others = sent.get_all(header::CONNECTION).iter().any(|value| {
        let value = value.as_bytes();
        !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close")
    });
    if names_others {
        for value in sent.get_all(header::CONNECTION) {
            headers.append(header::CONNECTION, value.clone());
        }
        remove_hop_by_hop(&mut headers);
    }
    headers
}

/// Appends an address; faster than by its `Display`.
fn push_address(list: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _ = write!(list, "{address}");
        return;
    };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            list.push('.');
        }
        if octet >= 100 {
            list.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            list.push(char::from(b'0' + octet / 10 % 10));
        }
        list.push(char::from(b'0' + octet % 10));
    }
}

/// Joins the cookies, which HTTP/2 may send as one field each (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (fields.next(), fields.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for field in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(field.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Counts this hop (RFC 9110 §7.6.2).
fn decrement_max_forwards(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut field) = headers.entry(MAX_FORWARDS) {
        match max_forwards(field.get()) {
            Some(left) => drop(field.insert(left.saturating_sub(1).into())),
            None => drop(field.remove()),
        }
    }
}

fn max_forwards(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.parse().ok()
}

/// Returns whether a request may not be forwarded any further (RFC 9110 §7.6.2).
pub(super) fn is_last_hop(scope: &Scope) -> bool {
    let is_counted = matches!(scope.method, Method::OPTIONS | Method::TRACE);
    is_counted
        && scope
            .headers
            .get(&MAX_FORWARDS)
            .is_some_and(|left| left == b"0")
}

/// Returns the value of `Forwarded`: an element for the client and one for each trusted proxy
/// behind it.
fn standard(scope: &Scope, addresses: &[IpAddr]) -> String {
    let mut list = String::new();
    let node = |list: &mut String, address: &IpAddr| {
        let _ = match address.to_canonical() {
            IpAddr::V4(address) => write!(list, "for={address}"),
            IpAddr::V6(address) => write!(list, "for=\"[{address}]\""),
        };
    };
    match addresses.first() {
        Some(client) => node(&mut list, client),
        None => list.push_str("for=unknown"),
    }
    if let Some(host) = &scope.host {
        let _ = write!(list, ";host=\"{}\"", host.as_str());
    }
    let _ = write!(
        list,
        ";proto={}",
        match scope.security {
            Scheme::Plain => "http",
            Scheme::Secure => "https",
        }
    );
    for proxy in addresses.iter().skip(1) {
        list.push_str(", ");
        node(&mut list, proxy);
    }
    list
}

/// Sets a field; an empty value removes it.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
        _ => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests;
