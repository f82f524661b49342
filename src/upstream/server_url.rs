//! ServerUrl: the URL of a server, parsed.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;

use super::options::TlsOptions;
use crate::client::{Address, ClientTls, ClientTlsSettings, EndpointUrl, Protocol};
use crate::config::OptionErrors;
use crate::net::unix_path_problem;

/// The URL of a server.
#[derive(Clone, Debug)]
pub(super) struct ServerUrl {
    /// As it is written.
    pub(super) text: Arc<str>,
    pub(super) address: Address,
    pub(super) protocol: Protocol,
    /// The authority, for requests without `Host`.
    pub(super) host: HeaderValue,
}

/// The scheme of HTTP/2 without TLS.
const H2C: &str = "h2c://";

impl ServerUrl {
    /// Parses `http://HOST:PORT`, `https://HOST:PORT`, `h2c://HOST:PORT` and `unix:PATH`.
    ///
    /// Adds an error about `key`, or about an option of `tls`.
    pub(super) fn parse(
        text: &str,
        tls: &TlsOptions,
        key: &str,
        errors: &mut OptionErrors,
    ) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            if let Some(problem) = unix_path_problem(path.as_ref()) {
                errors.error(key, problem);
                return None;
            }
            return Some(Self {
                text: text.into(),
                address: Address::Unix(path.into()),
                protocol: Protocol::Http1,
                host: HeaderValue::from_static("localhost"),
            });
        }
        let mut refuse = |why: &str| {
            errors.error(
                key,
                format!(
                    "expected \"http://HOST:PORT\", \"https://HOST:PORT\", \"h2c://HOST:PORT\" or \"unix:PATH\"{why}, found {:?}",
                    crate::config::hide_url(text)
                ),
            );
            None
        };
        let is_h2c = text.starts_with(H2C);
        let plain = match text.strip_prefix(H2C) {
            Some(rest) => format!("http://{rest}"),
            None => text.to_owned(),
        };
        let Ok(url) = EndpointUrl::parse(&plain) else {
            return refuse("");
        };
        let Address::Tcp { host, .. } = &url.address else {
            return refuse("");
        };
        let written = url.uri.path_and_query().map_or("/", |path| path.as_str());
        if written != "/" || plain.ends_with(['?', '#']) {
            return refuse(" without a path (strip_prefix and rewrite change paths)");
        }
        let authority = url.uri.authority().map(Authority::as_str);
        let Ok(authority) = HeaderValue::from_str(authority.unwrap_or_default()) else {
            return refuse("");
        };
        let protocol = match (is_h2c, url.is_tls) {
            (true, _) => Protocol::Http2,
            (false, false) => Protocol::Http1,
            (false, true) => match ClientTls::new(host, &tls.settings()) {
                Ok(tls) => Protocol::Tls(tls),
                Err(error) => {
                    errors.error(format!("tls.{}", error.key), error.to_string());
                    return None;
                }
            },
        };
        Some(Self {
            text: text.trim_end_matches('/').into(),
            address: url.address.clone(),
            protocol,
            host: authority,
        })
    }

    /// Returns the name to look up, and the port. `None`: the URL has an address, or a socket.
    pub(super) fn name(&self) -> Option<(&str, u16)> {
        match &self.address {
            Address::Tcp { host, port } if host.parse::<std::net::IpAddr>().is_err() => {
                Some((host, *port))
            }
            _ => None,
        }
    }
}

impl TlsOptions {
    /// Returns the files that they name.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.ca, &self.certificate, &self.key];
        files.into_iter().flatten().map(AsRef::as_ref)
    }

    fn settings(&self) -> ClientTlsSettings {
        let path = |path: &Option<crate::config::ConfigPath>| path.clone().map(Into::into);
        ClientTlsSettings {
            ca: path(&self.ca),
            certificate: path(&self.certificate),
            key: path(&self.key),
            server_name: self.server_name.clone(),
            verify: self.verify,
            http2: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerUrl, String> {
        let mut errors = OptionErrors::default();
        let url = ServerUrl::parse(text, &TlsOptions::default(), "upstream[0]", &mut errors);
        url.ok_or_else(|| errors.to_string())
    }

    #[test]
    fn urls_say_where_a_server_listens_and_what_it_speaks() {
        let tcp = |host: &str, port| Address::Tcp {
            host: host.to_owned(),
            port,
        };
        for (text, address, host) in [
            (
                "http://127.0.0.1:9000",
                tcp("127.0.0.1", 9000),
                "127.0.0.1:9000",
            ),
            ("http://app/", tcp("app", 80), "app"),
            ("h2c://[::1]:9000", tcp("::1", 9000), "[::1]:9000"),
            ("https://app.test", tcp("app.test", 443), "app.test"),
            (
                "unix:/run/a.sock",
                Address::Unix("/run/a.sock".into()),
                "localhost",
            ),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.address, url.host.to_str().unwrap()), (address, host));
        }
        assert!(matches!(
            parse("h2c://a").unwrap().protocol,
            Protocol::Http2
        ));
        assert!(matches!(
            parse("https://a").unwrap().protocol,
            Protocol::Tls(_)
        ));
        assert_eq!(parse("http://app:1").unwrap().name(), Some(("app", 1)));
        assert_eq!(parse("http://[::1]:1").unwrap().name(), None);
        for text in [
            "",
            "app:9000",
            "ws://app",
            "unix:",
            "http://app/api",
            "http://app?x=1",
            "http://app/?",
            "http://ann:secret@app",
            "http+unix:///run/a.sock:/",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.starts_with("upstream[0]: expected \"http://"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
