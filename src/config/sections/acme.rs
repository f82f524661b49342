//! The `[server.tls.acme]` section: certificates that the server obtains and renews by itself.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::config::values::checked::{ListOf, checked, via};
use crate::config::values::config_path::ConfigPath;
use crate::config::values::secret::Secret;

/// The most domains; each has a certificate of its own.
const DOMAINS_MAX: usize = 100;

/// `[server.tls.acme]`. Its presence lets the server obtain certificates (RFC 8555).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeConfig {
    /// The names to obtain a certificate for, each its own. Required.
    #[serde(deserialize_with = "via::<Domains, _, _>")]
    pub domains: Vec<String>,
    /// Where the CA writes to about certificates that end soon, such as
    /// `"mailto:ops@example.com"`. Default: none.
    #[serde(deserialize_with = "via::<Contact, _, _>")]
    pub contact: String,
    /// The URL of the CA's directory. Default: Let's Encrypt's.
    #[serde(deserialize_with = "via::<DirectoryUrl, _, _>")]
    pub directory: String,
    /// The directory of the account's key, the certificates and the challenges, which processes may
    /// share. Default: `"tls/acme"`.
    pub cache: ConfigPath,
    /// A file with the authorities that may sign the certificate of the directory's own server;
    /// `None`: those of the system.
    pub ca: Option<ConfigPath>,
    /// The challenge that proves control of a name. Default: `"auto"`.
    pub challenge: AcmeChallenge,
    /// The type of the certificates' keys. Default: `"p256"`.
    pub curve: AcmeCurve,
    /// The profile to ask the CA for, such as `"shortlived"`; empty: the CA's default.
    pub profile: String,
    /// The account at a CA that knows its customers already.
    pub external_account: Option<ExternalAccount>,
}

/// The challenge that proves control of a name.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum AcmeChallenge {
    /// `tls-alpn-01`, or `http-01` if a listener has port 80 and none has 443; after a failure the
    /// other.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// A TLS handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A plain request on port 80 (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http01,
}

/// The type of a certificate's key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum AcmeCurve {
    /// ECDSA on the curve P-256.
    #[default]
    P256,
    /// ECDSA on the curve P-384.
    P384,
}

/// An external account (RFC 8555 §7.3.4).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccount {
    /// The identifier of the key.
    pub key_id: String,
    /// The key, in base64url.
    pub hmac_key: HmacKey,
}

/// The key of an external account.
#[derive(Clone, Deserialize, PartialEq)]
#[serde(try_from = "Secret")]
pub struct HmacKey(Vec<u8>);

/// Hides the key.
impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(hidden)")
    }
}

impl HmacKey {
    /// Returns the bytes of the key.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Secret> for HmacKey {
    type Error = String;

    fn try_from(text: Secret) -> Result<Self, String> {
        let text = text.0.trim_end_matches('=');
        data_encoding::BASE64URL_NOPAD
            .decode(text.as_bytes())
            .ok()
            .filter(|key| !key.is_empty())
            .map(Self)
            .ok_or_else(|| "expected a key in base64url, found another text".to_owned())
    }
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            contact: String::new(),
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            cache: ConfigPath("tls/acme".into()),
            ca: None,
            challenge: AcmeChallenge::default(),
            curve: AcmeCurve::default(),
            profile: String::new(),
            external_account: None,
        }
    }
}

/// The list of domains, each once.
#[derive(Debug, Deserialize)]
#[serde(try_from = "ListOf<Domain>")]
struct Domains(Vec<String>);

impl TryFrom<ListOf<Domain>> for Domains {
    type Error = String;

    fn try_from(written: ListOf<Domain>) -> Result<Self, String> {
        let mut domains: Vec<String> = Vec::new();
        for domain in Vec::<String>::from(written) {
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        match domains.len() {
            1..=DOMAINS_MAX => Ok(Self(domains)),
            0 => Err("expected at least one domain, found none".to_owned()),
            found => Err(format!(
                "expected at most {DOMAINS_MAX} domains, found {found}"
            )),
        }
    }
}

impl From<Domains> for Vec<String> {
    fn from(domains: Domains) -> Self {
        domains.0
    }
}

checked! {
    /// A name that a CA certifies, in lower case.
    Domain(String) from String as "String", |text| match domain_problem(&text) {
        None => Ok(text.to_ascii_lowercase()),
        Some(why) => Err(format!("expected a domain such as \"chat.example.com\", found {text:?}; {why}")),
    }
}

checked! {
    /// A contact, or nothing.
    Contact(String) from String as "String", |text| {
        let address = text.strip_prefix("mailto:").unwrap_or_default();
        let is_address = address
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'?'));
        if text.is_empty() || (is_address && is_plain) {
            Ok(text)
        } else {
            Err(format!("expected one address such as \"mailto:ops@example.com\", found {text:?}"))
        }
    }
}

checked! {
    /// The URL of a directory.
    DirectoryUrl(String) from String as "String", |text| {
        let uri = text.parse::<http::Uri>().ok();
        let is_https = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("https")
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if text.len() > DIRECTORY_BYTES_MAX {
            Err(format!("expected a URL of at most {DIRECTORY_BYTES_MAX} characters, found {}", text.len()))
        } else if is_https {
            Ok(text)
        } else {
            Err(format!("expected a URL such as \"https://acme.example.com/directory\", found {text:?}"))
        }
    }
}

/// The longest domain. The longest name of its files in the cache has 12 characters more, and 255
/// are possible.
const DOMAIN_BYTES_MAX: usize = 243;

/// The longest URL of a directory, which is the name of a directory in the cache.
const DIRECTORY_BYTES_MAX: usize = 255;

fn domain_problem(text: &str) -> Option<&'static str> {
    let is_label = |label: &str| {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.starts_with("*.") {
        Some("a wildcard takes the challenge dns-01, which is not supported: use certificate files")
    } else if text.contains("://") {
        Some("leave out the scheme")
    } else if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        Some("it is an address")
    } else if text.contains('/') {
        Some("leave out the path")
    } else if text.contains(':') {
        Some("leave out the port")
    } else if !text.is_ascii() {
        Some("write it in its ASCII form (xn--...)")
    } else if text.len() > DOMAIN_BYTES_MAX {
        Some("at most 243 characters are possible: it is the name of a file in the cache")
    } else if !text.split('.').all(is_label) {
        Some("a domain consists of labels of letters, digits and hyphens, with dots between them")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_names() {
        for good in [
            "chat.example.com",
            "localhost",
            "xn--bcher-kva.example",
            "a_b.test",
        ] {
            assert_eq!(domain_problem(good), None, "{good}");
        }
        let long = "a".repeat(64);
        let longer = vec!["abcdefghi"; 25].join(".");
        assert_eq!(domain_problem(&longer[..243]), None);
        for bad in [
            "",
            ".example.com",
            "example.com.",
            "a..b",
            "*.example.com",
            "https://a.test",
            "a.test:443",
            "a.test/",
            "127.0.0.1",
            "[::1]",
            "bücher.example",
            "-a.test",
            "a-.test",
            "a b",
            &long,
            &longer,
        ] {
            assert!(domain_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn key_of_an_external_account_is_shown_nowhere() {
        let key = HmacKey::try_from(Secret("c2VjcmV0LWtleQ==".to_owned())).unwrap();
        assert_eq!(key.bytes(), b"secret-key");
        assert_eq!(format!("{key:?}"), "HmacKey(hidden)");
        for bad in ["", "=", "not base64!"] {
            let error = HmacKey::try_from(Secret(bad.to_owned())).unwrap_err();
            assert!(!error.contains("not base64"), "{error}");
        }
    }
}
