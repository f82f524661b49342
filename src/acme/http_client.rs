//! HttpClient: the requests of ACME, over HTTPS.
//!
//! An order takes about ten requests in a few seconds, every two months: each has a connection of
//! its own, and a deadline for all of it.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::net::{ClientTls, ClientTlsSettings, Stream};

/// The longest time of one request, from the look-up of the name to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest response. A chain has a few thousand bytes, a directory a thousand.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 64 * 1024;

const AGENT: &str = concat!("oneport/", env!("CARGO_PKG_VERSION"));

/// A client of one CA (cheap to clone).
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    /// The authorities of the CA's own server; `None`: those of the system.
    ca: Option<PathBuf>,
    /// TLS to each host that the CA has.
    tls: Arc<Mutex<HashMap<String, ClientTls>>>,
    /// How long the CA has asked to wait, in the last response that refused a request.
    asked: Arc<Mutex<Option<Duration>>>,
}

impl HttpClient {
    pub(super) fn new(ca: Option<PathBuf>) -> Self {
        Self {
            ca,
            tls: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// Returns how long the CA has asked to wait since the last call.
    pub(super) fn take_asked(&self) -> Option<Duration> {
        self.asked.lock().take()
    }

    /// Returns the settings of TLS to a host.
    async fn tls(&self, host: &str) -> Result<ClientTls, Box<dyn Error + Send + Sync>> {
        if let Some(tls) = self.tls.lock().get(host) {
            return Ok(tls.clone());
        }
        let settings = ClientTlsSettings {
            ca: self.ca.clone(),
            ..ClientTlsSettings::default()
        };
        let name = host.to_owned();
        let tls = spawn_blocking(move || ClientTls::new(&name, &settings)).await??;
        self.tls.lock().insert(host.to_owned(), tls.clone());
        Ok(tls)
    }

    async fn exchange(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
        let uri = std::mem::take(request.uri_mut());
        let target = Target::of(&uri)?;
        *request.uri_mut() = uri
            .path_and_query()
            .map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
        let headers = request.headers_mut();
        headers.insert(HOST, target.host);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let tls = self.tls(target.name).await?;
        let stream = Stream::connect_tcp(target.name, target.port).await?;
        let stream = tls.connect_http1(stream).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await?;
            Ok(Response::from_parts(head, Full::new(body.to_bytes())))
        };
        // The connection works only while it is polled. It may end before the last bytes of the
        // response are taken out of it.
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            _ = connection => {}
        }
        exchange.await
    }
}

impl instant_acme::HttpClient for HttpClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let fail = |error: Box<dyn Error + Send + Sync>| {
                instant_acme::Error::Other(format!("{host}: {}", innermost(&*error)).into())
            };
            let response = match tokio::time::timeout(TIMEOUT, client.exchange(request)).await {
                Ok(exchanged) => exchanged.map_err(fail)?,
                Err(_) => return Err(fail(io::Error::from(io::ErrorKind::TimedOut).into())),
            };
            let status = response.status();
            if status.is_client_error() || status.is_server_error() {
                let asked = retry_after(response.headers(), SystemTime::now());
                let is_busy = matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                );
                if asked.is_some() || is_busy {
                    *client.asked.lock() = asked;
                }
            }
            Ok(BytesResponse::from(response))
        })
    }
}

/// Where a request goes.
struct Target<'u> {
    /// A name or an address, without brackets.
    name: &'u str,
    port: u16,
    host: HeaderValue,
}

impl<'u> Target<'u> {
    /// A CA's directory names its other URLs: they must be as safe as its own.
    fn of(uri: &'u Uri) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("expected an https URL from the CA, found {uri}").into());
        };
        Ok(Self {
            name: authority.host().trim_matches(['[', ']']),
            port: authority.port_u16().unwrap_or(443),
            host: HeaderValue::from_str(authority.as_str())?,
        })
    }
}

/// Returns how long a response asks to wait (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    at.duration_since(now).ok()
}

/// Returns the message of the innermost cause, which is the most specific.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_are_followed() {
        for (uri, expected) in [
            ("https://ca.test/dir", Some(("ca.test", 443, "ca.test"))),
            ("https://[::1]:14000/", Some(("::1", 14000, "[::1]:14000"))),
            ("http://ca.test/dir", None),
            ("/dir", None),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let target = Target::of(&uri).ok();
            let target = target
                .as_ref()
                .map(|target| (target.name, target.port, target.host.to_str().unwrap()));
            assert_eq!(target, expected, "{uri}");
        }
    }

    #[test]
    fn ca_asks_to_wait_in_seconds_or_until_a_date() {
        let now = httpdate::parse_http_date("Mon, 30 Nov 2026 12:00:00 GMT").unwrap();
        for (value, expected) in [
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("Mon, 30 Nov 2026 12:01:00 GMT", Some(60)),
            ("Mon, 30 Nov 2026 11:00:00 GMT", None),
            ("-1", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
