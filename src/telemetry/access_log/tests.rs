//! Tests of the form of access log lines.

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use serde_json::Value;

use super::*;

struct Sent(HeaderMap);

impl RequestHeaders for Sent {
    fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        self.0.get(name).map(HeaderValue::as_bytes)
    }
}

/// Values that try to forge a line or a field, or to act on a terminal.
const FORGERIES: [&[u8]; 10] = [
    b"x\" 200 1 \"-\" \"-",
    b"a\nb",
    b"\r\x1b[2Jgone",
    b"x] \"GET / HTTP/1.1\" 200",
    b"back\\slash\\\"",
    b"\xff\xfe\x80 not utf-8",
    "\u{9b}31m red \u{202e}txt.exe \u{2028}".as_bytes(),
    b"tab\there\0",
    b"status=500 user=\"admin\"",
    b"{status}",
];

fn record<'r>(sent: &'r Sent, user: Option<&'r str>) -> AccessRecord<'r> {
    AccessRecord {
        kind: AccessKind::Http,
        id: &"00000000000000ab",
        trace_id: None,
        client: Some("[2001:db8::1]:5000".parse().unwrap()),
        method: "GET",
        scheme: "https",
        host: None,
        path: "/a%20b",
        query: Some("x=1&ticket=abc"),
        version: Version::HTTP_11,
        route: "home",
        user,
        status: 200,
        bytes: Some(12),
        seconds: Some(0.25),
        end: None,
        request_headers: sent,
        response_headers: None,
    }
}

fn socket<'r>(sent: &'r Sent, reason: &'r str) -> AccessRecord<'r> {
    AccessRecord {
        kind: AccessKind::Websocket,
        status: 101,
        bytes: Some(9),
        end: Some(SocketEnd {
            code: 1013,
            client_code: None,
            upstream_code: None,
            cause: "slow_client",
            reason,
            messages: 3,
            bytes_in: 7,
            bytes_out: 9,
            dropped: Some(1),
        }),
        ..record(sent, None)
    }
}

fn rendered(renderer: &Renderer, record: &AccessRecord<'_>) -> String {
    let mut line = String::new();
    renderer.write(&mut line, record);
    line
}

fn template(written: &str) -> Renderer {
    match AccessFormat::parse(written).unwrap() {
        AccessFormat::Template(template) => Renderer::Template(template),
        other => panic!("{other:?}"),
    }
}

fn lines(style: Style, fields: &[&str]) -> Renderer {
    let fields = fields.iter().map(|name| AccessField::parse(name).unwrap());
    Renderer::Lines(Lines::new(style, &fields.collect::<Vec<_>>()))
}

const TEXT: Style = Style::Text { is_colored: false };

fn sent(user_agent: &[u8]) -> Sent {
    let mut headers = HeaderMap::new();
    let value = match HeaderValue::from_bytes(user_agent) {
        Ok(value) => value,
        // No header field has a line feed; the lines must not rely on it.
        Err(_) => HeaderValue::from_static("refused"),
    };
    headers.insert("user-agent", value);
    Sent(headers)
}

#[test]
fn combined_line_is_that_of_apache_and_nginx() {
    let mut with_referer = sent(b"curl/8");
    let referer = HeaderValue::from_static("https://a.example/?q=\"1\"");
    with_referer.0.insert("referer", referer);
    let line = rendered(
        &template("combined"),
        &record(&with_referer, Some("alice b")),
    );
    let (start, rest) = line.split_once(" [").unwrap();
    let (_, rest) = rest.split_once("] ").unwrap();
    assert_eq!(start, r"2001:db8::1 - alice\x20b");
    assert_eq!(
        rest,
        "\"GET /a%20b?x=1&ticket=(hidden) HTTP/1.1\" 200 12 \"https://a.example/?q=\\x221\\x22\" \"curl/8\"\n"
    );
    let none = AccessRecord {
        client: None,
        bytes: None,
        ..record(&with_referer, None)
    };
    let line = rendered(&template("common"), &none);
    assert!(line.starts_with("- - - ["), "{line}");
    assert!(line.ends_with("HTTP/1.1\" 200 -\n"), "{line}");
}

/// A combined line has exactly three quoted values and no control character.
#[test]
fn no_value_forges_a_line_or_a_field_of_a_template() {
    let shape =
        regex::Regex::new(r#"^\S+ - \S+ \[[^\]" ]+ \+0000\] "[^"]*" \d{3} \d+ "[^"]*" "[^"]*"$"#)
            .unwrap();
    for value in FORGERIES {
        let (sent, user) = (sent(value), String::from_utf8_lossy(value));
        let mut record = record(&sent, Some(&user));
        record.path = &user;
        let line = rendered(&template("combined"), &record);
        let whole = line.strip_suffix('\n').unwrap();
        assert!(shape.is_match(whole), "{line:?}");
        assert!(
            whole.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "{line:?}"
        );
    }
}

#[test]
fn no_value_forges_a_line_or_a_field_of_text_and_json() {
    let fields = ["user", "header:user-agent", "status"];
    for value in FORGERIES {
        let (sent, user) = (sent(value), String::from_utf8_lossy(value));
        let record = record(&sent, Some(&user));
        let line = rendered(&lines(TEXT, &fields), &record);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.ends_with(" status=200\n"), "{line:?}");
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let line = rendered(&lines(Style::Json, &fields), &record);
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["user"], *user);
        assert_eq!(object["status"], 200);
        assert_eq!(object.as_object().unwrap().len(), 7, "{line}");
    }
}

#[test]
fn long_values_are_bounded_in_bytes() {
    let long = "é\"".repeat(50_000);
    let sent = sent("é".repeat(30_000).as_bytes());
    let record = AccessRecord {
        path: &long,
        ..record(&sent, Some(&long))
    };
    for renderer in [
        template("combined"),
        lines(TEXT, &["path", "user", "header:user-agent"]),
        lines(Style::Json, &["path", "user", "header:user-agent"]),
    ] {
        let line = rendered(&renderer, &record);
        assert!(line.len() < 3 * 4 * 2048 + 300, "{}", line.len());
    }
}

#[test]
fn usual_lines_are_those_of_the_log() {
    let sent = sent(b"x");
    let line = rendered(&lines(TEXT, &[]), &record(&sent, Some("alice")));
    let (_, line) = line.split_once(' ').unwrap();
    assert_eq!(
        line,
        " INFO access: http id=00000000000000ab client=[2001:db8::1]:5000 method=\"GET\" path=\"/a%20b\" route=\"home\" user=\"alice\" status=200 bytes=12 seconds=0.25\n"
    );
    let line = rendered(&lines(TEXT, &[]), &socket(&sent, ""));
    let (_, line) = line.split_once(' ').unwrap();
    assert_eq!(
        line,
        " INFO access: websocket id=00000000000000ab client=[2001:db8::1]:5000 path=\"/a%20b\" route=\"home\" code=1013 cause=\"slow_client\" seconds=0.25 messages=3 bytes_in=7 bytes_out=9 dropped=1\n"
    );
    let line = rendered(&lines(Style::Json, &[]), &socket(&sent, "why"));
    let object: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["message"], "websocket");
    assert_eq!(object["target"], "access");
    assert_eq!(
        (&object["code"], &object["reason"]),
        (&1013.into(), &"why".into())
    );
}

#[test]
fn template_writes_an_accepted_handshake_once_at_its_end() {
    let sent = sent(b"x");
    let renderer = template("{kind} {status} {bytes} {cause}");
    let accepted = AccessRecord {
        kind: AccessKind::Handshake,
        status: 101,
        ..record(&sent, None)
    };
    assert_eq!(rendered(&renderer, &accepted), "");
    let refused = AccessRecord {
        status: 403,
        ..accepted
    };
    assert_eq!(rendered(&renderer, &refused), "handshake 403 12 -\n");
    assert_eq!(
        rendered(&renderer, &socket(&sent, "")),
        "websocket 101 9 slow_client\n"
    );
}

#[test]
fn braces_are_doubled_and_mistakes_are_named() {
    let sent = sent(b"x");
    let line = rendered(
        &template("{{{status}}} {header:missing}"),
        &record(&sent, None),
    );
    assert_eq!(line, "{200} -\n");
    for (wrong, expected) in [
        ("{status", "expected a \"}\" after"),
        ("status}", "expected a \"{\" before"),
        ("{stauts}", "expected one of"),
        ("{}", "expected one of"),
        (
            "xml",
            "expected \"text\", \"json\", \"common\", \"combined\" or a line",
        ),
        ("{status}\n{path}", "expected one line of text"),
    ] {
        let error = AccessFormat::parse(wrong).unwrap_err();
        assert!(error.starts_with(expected), "{wrong:?}: {error}");
    }
}
