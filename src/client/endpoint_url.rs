//! EndpointUrl: the address of an endpoint, and the URI of requests to it.

use std::fmt;
use std::path::{Path, PathBuf};

use http::Uri;

use super::connector::Protocol;
use crate::net::url::Url;
use crate::net::{ClientTls, ClientTlsError, ClientTlsSettings, unix_path_problem};

/// The address of an endpoint.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// `http://HOST:PORT/PATH` or `https://HOST:PORT/PATH`.
    Tcp {
        /// A name or an address; an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `http+unix://SOCKET:/PATH`: the path of the socket.
    Unix(PathBuf),
}

/// The URL of an endpoint, parsed.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct EndpointUrl {
    /// The address to connect to.
    pub address: Address,
    /// The absolute URI of a request. For a Unix socket its authority is `localhost`.
    pub uri: Uri,
    /// Whether the scheme is `https`.
    pub is_tls: bool,
    /// The URL without its query, which may hold a token: for metrics and the log.
    pub label: String,
}

/// The reason why a text is not the URL of an endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointUrlError {
    /// It has another scheme, no host, or a port that is not a number from 1 to 65535.
    #[error(
        "expected \"http://HOST:PORT/PATH\", \"https://HOST:PORT/PATH\" or \"http+unix://SOCKET:/PATH\""
    )]
    Form,
    /// It contains a user name or a password, which would not be sent.
    #[error("expected a URL without a user name and a password, found one with an @ sign")]
    Credentials,
    /// The path of the socket is too long.
    #[error("{0}")]
    SocketPath(String),
}

/// Hides the query.
impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.label)
    }
}

impl EndpointUrl {
    /// Parses `http://HOST:PORT/PATH`, `https://HOST:PORT/PATH` and `http+unix://SOCKET:/PATH`.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        let label = text.split(['?', '#']).next().unwrap_or(text).to_owned();
        if let Some(rest) = text.strip_prefix("http+unix://") {
            let (socket, path) = rest.split_once(":/").ok_or(EndpointUrlError::Form)?;
            if socket.is_empty() {
                return Err(EndpointUrlError::Form);
            }
            if let Some(problem) = unix_path_problem(socket.as_ref()) {
                return Err(EndpointUrlError::SocketPath(problem));
            }
            let uri = format!("http://localhost/{path}");
            return Ok(Self {
                address: Address::Unix(socket.into()),
                uri: uri.parse().map_err(|_| EndpointUrlError::Form)?,
                is_tls: false,
                label,
            });
        }
        let url = Url::parse_endpoint(text).map_err(|_| EndpointUrlError::Form)?;
        if url.username() != Ok(None) || url.password() != Ok(None) {
            return Err(EndpointUrlError::Credentials);
        }
        // hyper's type is stricter: it rejects texts that have to be corrected, such as
        // `http:///host`.
        let uri: Uri = text.parse().map_err(|_| EndpointUrlError::Form)?;
        let is_tls = url.scheme() == "https";
        let is_http = (is_tls || url.scheme() == "http") && uri.authority().is_some();
        let Some(host) = url.host().filter(|_| is_http) else {
            return Err(EndpointUrlError::Form);
        };
        let port = url.port().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self {
            address: Address::Tcp { host, port },
            uri,
            is_tls,
            label,
        })
    }
}

impl EndpointUrl {
    /// Returns the protocol of the endpoint. `https` trusts the certificates in `ca`, or those of
    /// the system.
    pub fn protocol(&self, ca: Option<&Path>) -> Result<Protocol, ClientTlsError> {
        match &self.address {
            Address::Tcp { host, .. } if self.is_tls => {
                let settings = ClientTlsSettings {
                    ca: ca.map(Path::to_owned),
                    ..ClientTlsSettings::default()
                };
                Ok(Protocol::Tls(ClientTls::new(host, &settings)?))
            }
            _ => Ok(Protocol::Http1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_the_endpoint_listens() {
        let url = EndpointUrl::parse("http://[::1]:9000/ws?key=1").unwrap();
        let host = "::1".to_owned();
        assert_eq!(url.address, Address::Tcp { host, port: 9000 });
        assert_eq!(url.label, "http://[::1]:9000/ws");
        assert_eq!(format!("{url:?}"), "EndpointUrl(http://[::1]:9000/ws)");
        for (text, path) in [
            ("http://app:9000/users/@me/ws", "/users/@me/ws"),
            ("http://app:9000/auth?next=/a@b", "/auth?next=/a@b"),
        ] {
            let url = EndpointUrl::parse(text).unwrap();
            let host = "app".to_owned();
            assert_eq!(url.address, Address::Tcp { host, port: 9000 }, "{text}");
            assert_eq!(url.uri.path_and_query().unwrap().as_str(), path);
        }
        let long = format!("http+unix:///{}:/ws", "x".repeat(200));
        let error = EndpointUrl::parse(&long).unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
        let url = EndpointUrl::parse("http+unix:///run/a.sock:/ws?x=1").unwrap();
        assert_eq!(url.address, Address::Unix("/run/a.sock".into()));
        assert_eq!(url.uri, "http://localhost/ws?x=1");
        let url = EndpointUrl::parse("http+unix://run/a.sock:/").unwrap();
        assert_eq!(url.address, Address::Unix("run/a.sock".into()));
        for bad in [
            "",
            "ws://h",
            "http://",
            "http://h:99999/",
            "/ws",
            "http+unix://a",
            "http+unix://:/a",
        ] {
            assert_eq!(
                EndpointUrl::parse(bad),
                Err(EndpointUrlError::Form),
                "{bad}"
            );
        }
        let url = EndpointUrl::parse("https://h/a").unwrap();
        let host = "h".to_owned();
        assert_eq!(url.address, Address::Tcp { host, port: 443 });
        assert!(url.is_tls);
        let secret = EndpointUrl::parse("http://ann:secret@h/");
        assert_eq!(secret, Err(EndpointUrlError::Credentials));
    }
}
