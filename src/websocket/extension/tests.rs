//! Tests of the extension: which offer is accepted.

use super::*;

const TAKEOVER: DeflateSettings = DeflateSettings {
    threshold: 0,
    level: 1,
    server_context_takeover: true,
    client_context_takeover: true,
    server_max_window_bits: 15,
    client_max_window_bits: 15,
};

fn agreed(offer: &str, settings: &DeflateSettings) -> Option<String> {
    negotiate([offer.as_bytes()].into_iter(), settings).map(|agreed| agreed.to_string())
}

#[test]
fn plain_offer_is_met_on_the_routes_terms() {
    assert_eq!(
        agreed("permessage-deflate", &TAKEOVER).as_deref(),
        Some("permessage-deflate")
    );
    assert_eq!(
        agreed("permessage-deflate", &DeflateSettings::default()).as_deref(),
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
}

#[test]
fn what_the_client_asks_for_is_kept() {
    for (offer, answer) in [
        ("server_no_context_takeover", "; server_no_context_takeover"),
        ("client_no_context_takeover", "; client_no_context_takeover"),
        ("server_max_window_bits=10", "; server_max_window_bits=10"),
        (
            "server_max_window_bits=\"10\"",
            "; server_max_window_bits=10",
        ),
        ("server_max_window_bits=15", "; server_max_window_bits=15"),
        ("client_max_window_bits", ""),
        ("client_max_window_bits=8", "; client_max_window_bits=8"),
        (
            "client_max_window_bits = 12 ;server_max_window_bits= 9",
            "; server_max_window_bits=9; client_max_window_bits=12",
        ),
    ] {
        assert_eq!(
            agreed(&format!("permessage-deflate; {offer}"), &TAKEOVER),
            Some(format!("permessage-deflate{answer}")),
            "{offer}"
        );
    }
}

/// The client's window may be named only to a client that knows the parameter (§7.1.2.2).
#[test]
fn routes_windows_are_told_where_they_may_be() {
    let small = DeflateSettings {
        server_max_window_bits: 11,
        client_max_window_bits: 10,
        ..TAKEOVER
    };
    assert_eq!(
        agreed("permessage-deflate", &small).as_deref(),
        Some("permessage-deflate; server_max_window_bits=11")
    );
    assert_eq!(
        agreed(
            "permessage-deflate; client_max_window_bits; server_max_window_bits=12",
            &small
        )
        .as_deref(),
        Some("permessage-deflate; server_max_window_bits=11; client_max_window_bits=10")
    );
}

#[test]
fn offer_that_cannot_be_met_is_passed_over() {
    for offer in [
        "",
        ",",
        ";;=",
        "permessage-bzip2",
        "PERMESSAGE-DEFLATE",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=\"",
        "permessage-deflate;",
        "\"permessage-deflate\"",
        "x; y=\", permessage-deflate",
    ] {
        assert_eq!(agreed(offer, &TAKEOVER), None, "{offer}");
    }
}

#[test]
fn offers_behind_the_32nd_are_passed_over() {
    let offers = |others: usize| format!("{}permessage-deflate", "foo; a=b, ,".repeat(others));
    assert!(agreed(&offers(OFFERS_MAX - 1), &TAKEOVER).is_some());
    assert_eq!(agreed(&offers(OFFERS_MAX), &TAKEOVER), None);
    let lines = std::iter::repeat_n(&b"foo"[..], OFFERS_MAX).chain([NAME.as_bytes()]);
    assert_eq!(negotiate(lines, &TAKEOVER), None);
}

/// Every character is read once for its offer and once for its parameters, however the offers are
/// split.
#[test]
fn offers_are_cut_in_one_pass() {
    for field in ["a;".repeat(2_000), ",".repeat(4_000), "\"a,".repeat(1_000)] {
        let parts: Vec<&str> = split(&field, ',').collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert_eq!(bytes + parts.len() - 1, field.len());
    }
}

#[test]
fn first_offer_that_can_be_met_counts() {
    let fields: [&[u8]; 3] = [
        b"\xFF",
        b"foo; a=\"x, permessage-deflate; \\\"\", permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits=10, permessage-deflate",
    ];
    let agreed = negotiate(fields.into_iter(), &TAKEOVER).unwrap();
    assert_eq!(agreed.server_window_bits, 10);
}
