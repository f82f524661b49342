//! Server: one of the servers of an upstream.

use std::sync::Arc;

use http::{HeaderValue, Request, header};

use super::UpstreamError;
use super::options::UpstreamOptions;
use crate::client::{Address, Client, ClientError, ClientSettings, EndpointUrl, RequestBody};

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    /// Its URL.
    pub(super) label: Arc<str>,
    /// Its own name, for requests without `Host`.
    host: HeaderValue,
    pub(super) client: Client,
}

impl Server {
    pub(super) fn new(url: &str, options: &UpstreamOptions) -> Result<Self, String> {
        let address = match url.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => {
                EndpointUrl::parse(url)
                    .map_err(|error| error.to_string())?
                    .address
            }
        };
        let host = match &address {
            Address::Tcp { host, port: 80 } => host.clone(),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let settings = ClientSettings {
            concurrency: options.max_connections,
            queue_timeout: options.queue_timeout.0,
            connect_timeout: options.connect_timeout.0,
            head_timeout: Some(options.response_timeout.0),
            idle_timeout: Some(options.idle_timeout.0),
            total_timeout: options.total_timeout.map(|timeout| timeout.0),
            response_bytes_max: u64::MAX,
            ..ClientSettings::default()
        };
        Ok(Self {
            label: url.into(),
            host: HeaderValue::from_str(&host).map_err(|error| error.to_string())?,
            client: Client::new(&address, settings),
        })
    }

    /// Sets `Host`, if the request has none.
    pub(super) fn addressed(&self, mut request: Request<RequestBody>) -> Request<RequestBody> {
        let host = request.headers_mut().entry(header::HOST);
        host.or_insert_with(|| self.host.clone());
        request
    }

    pub(super) fn failed(&self, source: ClientError) -> UpstreamError {
        UpstreamError::Server {
            server: self.label.clone(),
            source,
        }
    }
}
