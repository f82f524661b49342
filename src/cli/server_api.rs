//! Server API: calls of a running server by the command line.

use std::path::Path;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use serde::Deserialize;

use super::arguments::ServerApiArguments;
use crate::client::{
    Address, Client, ClientError, ClientSettings, EndpointUrl, Protocol, RequestBody,
};
use crate::config::{Bind, Config, HttpRoute, Problems, Secret, hide_url, process_environment};
use crate::database::{io_cause, why_not_connected};
use crate::http::views::publish::matches;
use crate::net::url::{Url, UrlError};

/// The maximum size of a response.
const RESPONSE_BYTES_MAX: u64 = 8 << 20;

/// The server to call, and the token to call it with.
pub(super) struct Caller {
    url: String,
    /// The value of `Host`, if it differs from the URL's.
    host: Option<String>,
    token: String,
}

/// The options of a `publish` route that this command reads.
#[derive(Deserialize)]
struct Options {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
pub(super) struct Token {
    token: Secret,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    pub(super) connections: bool,
}

impl Token {
    /// Returns whether the token allows a group.
    pub(super) fn covers(&self, group: &str) -> bool {
        self.groups.iter().any(|pattern| matches(pattern, group))
    }
}

/// Why the server or the token cannot be determined.
pub(super) enum Unknown {
    Problems(Problems),
    Sentence(String),
}

impl Caller {
    /// Returns the URL without its secrets.
    pub(super) fn shown(&self) -> String {
        hide_url(&self.url)
    }

    /// Determines the server and the token. The arguments override the environment, which overrides the
    /// configuration, of which the first token that `allows` the call is taken; `no_token` is the
    /// sentence if there is none.
    pub(super) fn find(
        arguments: &ServerApiArguments,
        allows: impl Fn(&Token) -> bool,
        no_token: &str,
    ) -> Result<Self, Unknown> {
        let url = arguments.url.clone();
        let token = arguments.token.clone();
        if let (Some(url), Some(token)) = (&url, &token) {
            return Ok(Self {
                url: url.clone(),
                host: None,
                token: token.clone(),
            });
        }
        let sentence = |sentence: &str| Unknown::Sentence(sentence.to_owned());
        let file = &arguments.file.config;
        let (config, _) = match Config::load(file, &process_environment) {
            Ok(loaded) => loaded,
            Err(_) if url.is_some() && !file.exists() => {
                return Err(sentence(
                    "expected a token: --token or the variable ONEPORT_PUBLISH_TOKEN, found none",
                ));
            }
            Err(problems) => return Err(Unknown::Problems(problems)),
        };
        let route = config
            .http_routes
            .iter()
            .find(|route| route.view == "publish");
        let Some(route) = route else {
            return Err(sentence(
                "expected a route with view = \"publish\" in the configuration, or --url and --token, found none",
            ));
        };
        let token = match token {
            Some(token) => token,
            None => own_token(route, allows).ok_or_else(|| sentence(no_token))?,
        };
        let (url, host) = match url {
        Some(url) => (url, None),
        None => own_url(&config, route).ok_or_else(|| {
            sentence(
                "expected a TCP address in server.bind and a path that ends in {*call}, or --url, found none",
            )
        })?,
    };
        Ok(Self { url, host, token })
    }

    /// Returns the call at a path below the API's: a POST of JSON, or a GET without.
    pub(super) fn call(
        &self,
        path: &str,
        json: Option<String>,
        ca: Option<&Path>,
    ) -> Result<Call, String> {
        let url = format!("{}/{path}", self.url.trim_end_matches('/'));
        if let Err(error @ UrlError::Unencoded { .. }) = Url::parse(&self.url) {
            return Err(error.to_string());
        }
        let Ok(url) = EndpointUrl::parse(&url) else {
            return Err(bad_url(self));
        };
        let Address::Tcp { host, .. } = &url.address else {
            return Err(bad_url(self));
        };
        let host = host.clone();
        let protocol = url.protocol(ca).map_err(|error| error.to_string())?;
        let (address, uri) = (url.address, url.uri);
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.token))
            .map_err(|_| "expected a token of visible characters, found others".to_owned())?;
        token.set_sensitive(true);
        let (method, body) = match json {
            Some(json) => (Method::POST, RequestBody::full(json)),
            None => (Method::GET, RequestBody::full(String::new())),
        };
        let is_post = method == Method::POST;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = &self.host {
            request = request.header(header::HOST, host);
        }
        if is_post {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .header(header::AUTHORIZATION, token)
            .body(body)
            .map_err(|error| error.to_string())?;
        Ok(Call {
            address,
            protocol,
            host,
            request,
            shown: self.shown(),
        })
    }
}

/// Returns the first token that allows the call.
fn own_token(route: &HttpRoute, allows: impl Fn(&Token) -> bool) -> Option<String> {
    let options: Result<Options, _> = route.options.read();
    let mut tokens = options.ok()?.tokens.into_iter();
    Some(tokens.find(allows)?.token.0)
}

/// Returns the URL of the server on this machine and the `Host` to send, if it differs: the
/// route's, or an allowed host if the URL's is not allowed.
fn own_url(config: &Config, route: &HttpRoute) -> Option<(String, Option<String>)> {
    let path = route.path.as_deref()?;
    let base = path.split("{*").next().filter(|base| *base != path)?;
    let address = config
        .server
        .bind
        .iter()
        .find_map(|listen| match &listen.address {
            Bind::Tcp(address) => Some(address.as_str()),
            _ => None,
        })?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    let root_path = &config.server.root_path;
    let prefix = &route.prefix;
    // A pattern for a whole domain, such as `.example.com`, also allows the domain itself.
    let named =
        |host: &String| Some(host.trim_start_matches('.').to_owned()).filter(|host| host != "*");
    let allowed = &config.server.allowed_hosts;
    let is_allowed = allowed
        .iter()
        .any(|allowed| allowed == host || allowed == "*");
    let of_route = route.host.as_ref().and_then(named);
    let other = || allowed.iter().find_map(named).filter(|_| !is_allowed);
    let known = of_route.or_else(other);
    Some((
        format!("http://{host}:{port}{root_path}{prefix}{base}"),
        known,
    ))
}

/// A request and its destination.
pub(super) struct Call {
    address: Address,
    protocol: Protocol,
    host: String,
    request: Request<RequestBody>,
    /// The URL without its secrets, for messages.
    shown: String,
}

fn bad_url(caller: &Caller) -> String {
    format!(
        "expected a URL such as http://127.0.0.1:8000/api/ or https://chat.example.com/api/, found {:?}",
        caller.shown()
    )
}

impl Call {
    /// Sends the request, and returns the status and the body of the response; fails with a
    /// sentence.
    pub(super) async fn send(self, timeout: Duration) -> Result<(StatusCode, String), String> {
        let Self {
            address,
            protocol,
            host,
            request,
            shown: url,
        } = self;
        let settings = ClientSettings {
            protocol,
            concurrency: 1,
            connect_timeout: timeout,
            head_timeout: None,
            total_timeout: Some(timeout),
            response_bytes_max: RESPONSE_BYTES_MAX,
            ..ClientSettings::default()
        };
        match Client::new(&address, settings).exchange(request).await {
            Ok(response) => {
                let status = response.status();
                let body = String::from_utf8_lossy(response.body()).into_owned();
                Ok((status, body))
            }
            Err(ClientError::Timeout { .. }) => Err(format!(
                "no answer from {url} within {} seconds; is it the right server?",
                timeout.as_secs()
            )),
            Err(ClientError::Connect { source }) => Err(match io_cause(&*source) {
                Some(io) => why_not_connected(io, &host, &url, "the server"),
                None => format!("{url}: {source}"),
            }),
            Err(ClientError::TooLarge(sentence)) => Err(format!("{url}: {sentence}")),
            Err(_) => Err(format!(
                "{url} does not speak HTTP; is it another server, or a port for TLS?"
            )),
        }
    }
}
