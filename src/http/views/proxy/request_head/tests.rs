//! Tests of the fields that the upstream gets, one rule at a time.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;

use super::*;
use crate::config::{OptionErrors, Options};
use crate::host::HostHeader;
use crate::scope::{App, RequestId, ScopeType};
use crate::state::State;

type Fields<'a> = &'a [(&'static str, &'a str)];

/// The scope of a request from 192.0.2.1 for example.com, with these fields.
fn scope(fields: Fields<'_>) -> Scope {
    let mut scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    if let Some(host) = headers.get("host") {
        scope.host = HostHeader::parse(host.to_str().unwrap()).ok();
    }
    scope.headers = headers.into();
    scope.client = Some("192.0.2.1:4000".parse::<SocketAddr>().unwrap().into());
    scope.request_id = RequestId::Given("id-1".into());
    scope
}

fn fields(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort_unstable();
    lines
}

/// Rules that write no forwarded fields.
fn bare() -> RequestRules {
    RequestRules {
        forwarded: WrittenForwarded::Off,
        ..RequestRules::default()
    }
}

fn check(rules: &RequestRules, scope: &Scope, expected: &[&str]) {
    let mut found = fields(&rules.headers(scope));
    found.retain(|line| line != "x-request-id: id-1");
    assert_eq!(found, expected, "{:?}", scope.headers);
}

#[test]
fn fields_of_the_connection_are_removed() {
    let check = |sent: Fields<'_>, expected: &[&str]| check(&bare(), &scope(sent), expected);
    check(
        &[
            ("host", "a"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("accept", "*/*"),
        ],
        &["accept: */*", "host: a"],
    );
    check(
        &[
            ("connection", "close, X-One"),
            ("connection", "x-two,,Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
        ],
        &["x-three: 3"],
    );
    check(&[("content-length", "5"), ("expect", "100-continue")], &[]);
    check(&[("proxy", "http://evil.test"), ("te", "gzip")], &[]);
    check(
        &[("te", "gzip, Trailers"), ("connection", "TE")],
        &["connection: te", "te: trailers"],
    );
    check(
        &[("sec-websocket-key", "k"), ("origin", "http://a")],
        &["origin: http://a", "sec-websocket-key: k"],
    );
}

/// A client may name any field in `Connection`; those of Oneport are written afterwards.
#[test]
fn a_client_cannot_have_host_or_the_fields_of_the_proxy_removed() {
    let sent = scope(&[
        ("host", "a"),
        (
            "connection",
            "host, x-forwarded-for, x-forwarded-proto, x-request-id, x-user",
        ),
        ("x-user", "root"),
    ]);
    let rules = RequestRules {
        headers: rules_of("x-user = 'u-{client.host}'"),
        ..RequestRules::default()
    };
    check(
        &rules,
        &sent,
        &[
            "host: a",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: a",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
            "x-user: u-192.0.2.1",
        ],
    );
}

fn rules_of(toml: &str) -> HeaderRules {
    let mut errors = OptionErrors::default();
    let written = Options::from_toml(toml).unwrap().read().unwrap();
    let rules = HeaderRules::parse("request_headers", &written, &mut errors);
    assert!(errors.is_empty(), "{errors}");
    rules
}

#[test]
fn other_spellings_of_the_fields_of_the_proxy_are_removed() {
    let rules = RequestRules {
        headers: rules_of("x-user-id = '{user.id}'"),
        ..bare()
    };
    check(
        &rules,
        &scope(&[
            ("x.forwarded.proto", "https"),
            ("x-forwarded~for", "1.2.3.4"),
            ("x-real!ip", "1.2.3.4"),
            ("content|length", "5"),
            ("transfer.encoding", "chunked"),
            ("x.user-id", "1"),
            ("x-user-id", "1"),
            ("x'request'id", "1"),
            ("x.own", "kept"),
        ]),
        &["x.own: kept"],
    );
}

/// CGI gives the application one variable for both.
#[test]
fn a_rule_covers_every_spelling_of_its_name() {
    let check = |rule: &str, expected: &[&str]| {
        let sent = scope(&[
            ("x-user", "root"),
            ("x.user", "root"),
            ("x~user", "root"),
            ("x-users", "kept"),
        ]);
        let rules = RequestRules {
            headers: rules_of(rule),
            forwarded: WrittenForwarded::Off,
            ..RequestRules::default()
        };
        let mut headers = rules.headers(&sent);
        headers.remove("x-request-id");
        assert_eq!(fields(&headers), expected, "{rule}");
    };
    check("x-user = 'anna'", &["x-user: anna", "x-users: kept"]);
    check("x_user = 'anna'", &["x-users: kept", "x_user: anna"]);
    check("'x.user' = 'anna'", &["x-users: kept", "x.user: anna"]);
    check("x_user = false", &["x-users: kept"]);
    check(
        "x_user = 'anna'\nx-user = 'bert'",
        &["x-user: bert", "x-users: kept", "x_user: anna"],
    );
}

#[test]
fn the_host_is_the_clients_the_upstreams_or_a_name() {
    let host = |text: &str| RequestRules {
        host: HostRule::parse(text).unwrap(),
        ..bare()
    };
    let sent = scope(&[("host", "Example.com:8000")]);
    check(&host("preserve"), &sent, &["host: Example.com:8000"]);
    check(&host("upstream"), &sent, &[]);
    check(&host("app.internal:81"), &sent, &["host: app.internal:81"]);
    check(&host("app.internal"), &scope(&[]), &["host: app.internal"]);
    check(&host("preserve"), &scope(&[]), &[]);
    for name in ["", "a b", "user@a", "http://a", "a/b"] {
        assert!(HostRule::parse(name).is_err(), "{name}");
    }
}

#[test]
fn forwarded_fields_describe_the_client() {
    let x = RequestRules::default();
    let expected = [
        "host: example.com",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: example.com",
        "x-forwarded-port: 80",
        "x-forwarded-proto: http",
    ];
    check(&x, &scope(&[("host", "example.com")]), &expected);
    let mut sent = scope(&[("host", "[2001:db8::1]:8443")]);
    sent.security = Scheme::Secure;
    sent.client = Some("[::ffff:192.0.2.7]:1".parse::<SocketAddr>().unwrap().into());
    check(
        &x,
        &sent,
        &[
            "host: [2001:db8::1]:8443",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: [2001:db8::1]:8443",
            "x-forwarded-port: 8443",
            "x-forwarded-proto: https",
        ],
    );
    // Without a Host, over a unix socket.
    let mut sent = scope(&[]);
    sent.client = None;
    sent.security = Scheme::Secure;
    check(&x, &sent, &["x-forwarded-proto: https"]);
    let standard = RequestRules {
        forwarded: WrittenForwarded::Standard,
        ..RequestRules::default()
    };
    check(&standard, &sent, &["forwarded: for=unknown;proto=https"]);
    let mut sent = scope(&[("host", "a:81")]);
    sent.client = Some("[2001:db8::2]:1".parse::<SocketAddr>().unwrap().into());
    check(
        &standard,
        &sent,
        &[
            "forwarded: for=\"[2001:db8::2]\";host=\"a:81\";proto=http",
            "host: a:81",
        ],
    );
}

/// The gateway keeps the fields of one family from a trusted proxy.
#[test]
fn a_trusted_proxys_chain_goes_on_and_the_clients_claims_do_not() {
    let through = |fields: Fields<'_>| {
        let mut sent = scope(fields);
        let chain: Vec<IpAddr> = ["203.0.113.9", "10.0.0.2", "10.0.0.1"]
            .map(|address| address.parse().unwrap())
            .into();
        sent.extensions.insert(ForwardedChain(chain.into()));
        sent.host = HostHeader::parse("public.example").ok();
        sent
    };
    let sent = through(&[
        ("host", "internal"),
        ("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-ssl", "on"),
    ]);
    check(
        &RequestRules::default(),
        &sent,
        &[
            "host: internal",
            "x-forwarded-for: 203.0.113.9, 10.0.0.2, 10.0.0.1",
            "x-forwarded-host: public.example",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
            "x-forwarded-ssl: on",
        ],
    );
    let both = RequestRules {
        forwarded: WrittenForwarded::Both,
        ..RequestRules::default()
    };
    let written = fields(&both.headers(&through(&[])));
    assert!(
        written.contains(&"forwarded: for=203.0.113.9;host=\"public.example\";proto=http, for=10.0.0.2, for=10.0.0.1".to_owned()),
        "{written:?}"
    );
    // Only one family is written, so the other must not contradict it.
    let standard = RequestRules {
        forwarded: WrittenForwarded::Standard,
        ..RequestRules::default()
    };
    let written = fields(&standard.headers(&sent));
    assert!(
        !written.iter().any(|line| line.starts_with("x-forwarded")),
        "{written:?}"
    );
    let written = fields(&bare().headers(&sent));
    assert!(
        written.contains(&"x-forwarded-ssl: on".to_owned()),
        "{written:?}"
    );
}

#[test]
fn the_removed_prefix_is_told_to_the_application() {
    let mut errors = OptionErrors::default();
    let rules = RequestRules {
        path: PathRule::parse("/api", None, &mut errors),
        ..RequestRules::default()
    };
    let prefix = |sent: &Scope| rules.headers(sent).get("x-forwarded-prefix").cloned();
    assert_eq!(prefix(&scope(&[])).unwrap(), "/api");
    let mut sent = scope(&[("x-forwarded-prefix", "/site/")]);
    sent.app = Some(Arc::new(App {
        root_path: "/sub".into(),
        state: State::default(),
    }));
    assert_eq!(prefix(&sent).unwrap(), "/site/sub/api");
}

#[test]
fn cookies_of_http2_are_joined() {
    let sent: Fields<'_> = &[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=é")];
    let mut over_http2 = scope(sent);
    over_http2.http_version = Version::HTTP_2;
    check(&bare(), &over_http2, &["cookie: a=1; b=2; c=3; d=é"]);
}

#[test]
fn max_forwards_is_counted_for_options() {
    let options = |left: &'static str| {
        let mut sent = scope(&[]);
        sent.method = Method::OPTIONS;
        let map = sent.headers.map_mut();
        map.insert("max-forwards", HeaderValue::from_static(left));
        sent
    };
    check(&bare(), &options("5"), &["max-forwards: 4"]);
    check(&bare(), &options("x"), &[]);
    check(&bare(), &options("99999999999"), &[]);
    assert!(is_last_hop(&options("0")) && !is_last_hop(&options("1")));
    check(
        &bare(),
        &scope(&[("max-forwards", "5")]),
        &["max-forwards: 5"],
    );
}
