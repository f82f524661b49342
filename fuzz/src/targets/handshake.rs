//! The handshake against tungstenite's: the input is a request's head.

use http::{HeaderMap, Method, Request, Version};
use oneport::http::upgrade::protocol_type;
use oneport::scope::ScopeType;
use oneport::websocket::extension::{DeflateSettings, negotiate};
use oneport::websocket::handshake::{Handshake, SUBPROTOCOLS_MAX, check};

use super::head_scanner::parse_head;

pub fn run(data: &[u8]) {
    let Some((request, _)) = parse_head(data) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let headers = &parts.headers;
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let method = match version {
            Version::HTTP_2 if parts.method == Method::GET => &Method::CONNECT,
            _ => &parts.method,
        };
        match check(method, version, headers) {
            Ok(found) => accepted(&found, version, headers),
            Err(failure) => assert!(failure.status().is_client_error()),
        }
    }
    compression(headers);
}

fn accepted(found: &Handshake, version: Version, headers: &HeaderMap) {
    assert_ne!(version, Version::HTTP_10);
    assert!(found.subprotocols.len() <= SUBPROTOCOLS_MAX);
    for protocol in &found.subprotocols {
        assert!(
            protocol.parse::<http::HeaderName>().is_ok(),
            "{protocol:?} is no token"
        );
    }
    if version == Version::HTTP_2 {
        assert_eq!(found.accept, None);
        return;
    }
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    // tungstenite takes neither lists nor several fields.
    let is_plain = one("upgrade")
        .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && one("connection").is_some_and(|connection| connection.to_str().is_ok())
        && one("sec-websocket-version").is_some_and(|version| version == "13");
    if protocol_type(version, headers) != ScopeType::Websocket || !is_plain {
        return;
    }
    let mut request = Request::builder()
        .method("GET")
        .uri("/")
        .body(())
        .expect("a request");
    *request.headers_mut() = headers.clone();
    let response = match tungstenite::handshake::server::create_response(&request) {
        Ok(response) => response,
        // It splits the list at spaces and commas, ours at commas.
        Err(error) => panic!("accepted by the server alone: {error}"),
    };
    let expected = response.headers()["sec-websocket-accept"].to_str().ok();
    assert_eq!(found.accept.as_deref(), expected);
}

fn compression(headers: &HeaderMap) {
    let fields = || {
        let fields = headers.get_all("sec-websocket-extensions").iter();
        fields.map(http::HeaderValue::as_bytes)
    };
    let takeover = DeflateSettings {
        server_context_takeover: true,
        client_context_takeover: true,
        server_max_window_bits: 12,
        client_max_window_bits: 10,
        ..DeflateSettings::default()
    };
    for settings in [DeflateSettings::default(), takeover] {
        let Some(agreed) = negotiate(fields(), &settings) else {
            continue;
        };
        assert!(fields().any(|field| field.windows(18).any(|part| part == b"permessage-deflate")));
        assert!((9..=settings.server_max_window_bits).contains(&agreed.server_window_bits));
        assert!((8..=15).contains(&agreed.client_window_bits));
        assert!(settings.server_context_takeover || !agreed.server_context_takeover);
        assert!(settings.client_context_takeover || !agreed.client_context_takeover);
        // The response is an offer that leads to the same parameters.
        let response = agreed.to_string();
        let again = negotiate([response.as_bytes()].into_iter(), &settings).expect("an offer");
        assert_eq!(again.server_window_bits, agreed.server_window_bits);
        assert_eq!(again.client_window_bits, agreed.client_window_bits);
        assert_eq!(
            again.server_context_takeover,
            agreed.server_context_takeover
        );
        assert_eq!(
            again.client_context_takeover,
            agreed.client_context_takeover
        );
    }
}
