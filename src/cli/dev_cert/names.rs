//! Names: the host names and addresses of a certificate, as written on the command line.

use std::net::IpAddr;

/// The longest name (RFC 1035 §2.3.4, as text).
const NAME_BYTES_MAX: usize = 253;

/// The longest label.
const LABEL_BYTES_MAX: usize = 63;

/// Parses a host name, a wildcard such as `*.app.test`, or an address.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let address = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name = text.len() <= NAME_BYTES_MAX && name.split('.').all(is_label);
    if is_name {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "expected a host name or an address, such as chat.test, *.chat.test or 192.168.1.2, found {text:?}"
        ))
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL_BYTES_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_wildcards_and_addresses() {
        for (text, expected) in [
            ("Chat.Test", "chat.test"),
            ("*.chat.test", "*.chat.test"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.168.1.2", "192.168.1.2"),
            ("[::1]", "::1"),
            ("0:0:0:0:0:0:0:1", "::1"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
        let long = format!("{}.test", "a".repeat(64));
        let longer = vec!["abcdefghi"; 26].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "-a.test",
            "https://a.test",
            "a.test:8000",
            "*",
            "a.*.test",
            "bücher.example",
            "a b",
            &long,
            &longer,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
