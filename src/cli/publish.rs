//! `oneport publish`: sends an event to a group through the server API.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use serde::Deserialize;

use super::arguments::PublishArguments;
use super::output::{print, print_error, print_problems};
use super::{CONFIG, FAILURE, OK, USAGE};
use crate::channels::{Event, GroupName};
use crate::client::{
    Address, Client, ClientError, ClientSettings, EndpointUrl, Protocol, RequestBody,
};
use crate::config::{Bind, Config, HttpRoute, Problems, Secret, hide_url, process_environment};
use crate::database::{io_cause, why_not_connected};
use crate::http::views::publish::matches;
use crate::net::url::{Url, UrlError};

/// The timeout for the server's response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum size of a response.
const RESPONSE_BYTES_MAX: u64 = 1 << 20;

/// The maximum number of bytes to read from standard input.
const EVENT_BYTES_MAX: u64 = 1 << 20;

/// The maximum number of characters shown of an event that is not JSON.
const SHOWN_CHARS_MAX: usize = 60;

/// The server to call, and the token to call it with.
struct Caller {
    url: String,
    /// The value of `Host`, if it differs from the URL's.
    host: Option<String>,
    token: String,
}

impl Caller {
    /// Returns the URL without its secrets.
    fn shown(&self) -> String {
        hide_url(&self.url)
    }
}

/// The options of a `publish` route that this command reads.
#[derive(Deserialize)]
struct Options {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: Secret,
    #[serde(default)]
    groups: Vec<String>,
}

pub(super) fn run(arguments: &PublishArguments) -> u8 {
    let usage = |sentence: String| {
        print_error(&format!("oneport publish: {sentence}"));
        USAGE
    };
    let group = match GroupName::new(&arguments.group) {
        Ok(group) => group,
        Err(error) => return usage(format!("group: {error}")),
    };
    let json = match read_json(&arguments.json) {
        Ok(json) => json,
        Err(error) => return usage(error),
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(&json).is_err() {
        let shown: String = json.chars().take(SHOWN_CHARS_MAX).collect();
        return usage(format!("not JSON: {shown:?}"));
    }
    if let Err(error) = Event::from_json(&json) {
        return usage(error.to_string());
    }
    let caller = match caller(arguments, &group) {
        Ok(caller) => caller,
        Err(Unknown::Problems(problems)) => {
            print_problems(&problems);
            return CONFIG;
        }
        Err(Unknown::Sentence(sentence)) => return usage(sentence),
    };
    let request = match request(&caller, &group, json, arguments.ca.as_deref()) {
        Ok(request) => request,
        Err(sentence) => return usage(sentence),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answered = match runtime {
        Ok(runtime) => runtime.block_on(call(request, &caller.shown())),
        Err(error) => Err(format!("cannot start the runtime: {error}")),
    };
    match answered {
        Ok((status, body)) if status.is_success() => {
            print(body.trim_end());
            OK
        }
        Ok((status, body)) => {
            print_error(&format!(
                "oneport publish: expected the server to take the event, found {status}: {}{}",
                body.trim_end(),
                advice(status, &body, &caller, &group)
            ));
            FAILURE
        }
        Err(sentence) => {
            print_error(&format!("oneport publish: {sentence}"));
            FAILURE
        }
    }
}

/// Returns a hint for a response that is not a success.
fn advice(status: StatusCode, body: &str, caller: &Caller, group: &GroupName) -> String {
    let url = caller.shown();
    let advice = match status {
        StatusCode::UNAUTHORIZED => "is the token one of the route's options.tokens?".to_owned(),
        StatusCode::FORBIDDEN => format!(
            "do the token's groups hold {group:?}?",
            group = group.as_str()
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!(
                "is {url} the path of a route with view = \"publish\", without what its catch-all holds?"
            )
        }
        StatusCode::BAD_REQUEST if body.contains("host not allowed") => {
            "is the host of the URL one of server.allowed_hosts?".to_owned()
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            "the server, or what is behind it, is not ready; try again".to_owned()
        }
        status if status.is_redirection() => {
            "redirects are not followed; give the URL that they lead to".to_owned()
        }
        _ => return String::new(),
    };
    format!(" ({advice})")
}

fn read_json(argument: &str) -> Result<String, String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut json = String::new();
    let mut input = std::io::stdin().lock().take(EVENT_BYTES_MAX);
    match input.read_to_string(&mut json) {
        Ok(_) => Ok(json),
        Err(error) => Err(format!("cannot read the standard input: {error}")),
    }
}

/// Why the server or the token cannot be determined.
enum Unknown {
    Problems(Problems),
    Sentence(String),
}

/// Determines the server and the token. The arguments override the environment, which overrides the
/// configuration.
fn caller(arguments: &PublishArguments, group: &GroupName) -> Result<Caller, Unknown> {
    let url = arguments.url.clone();
    let token = arguments.token.clone();
    if let (Some(url), Some(token)) = (&url, &token) {
        return Ok(Caller {
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
        None => own_token(route, group).ok_or_else(|| {
            sentence(
                "expected a token for that group in the route's options, or --token, found none",
            )
        })?,
    };
    let (url, host) = match url {
        Some(url) => (url, None),
        None => own_url(&config, route).ok_or_else(|| {
            sentence(
                "expected a TCP address in server.bind and a path that ends in {*call}, or --url, found none",
            )
        })?,
    };
    Ok(Caller { url, host, token })
}

/// Returns the first token that allows a group.
fn own_token(route: &HttpRoute, group: &GroupName) -> Option<String> {
    let options: Result<Options, _> = route.options.read();
    let is_good = |pattern: &String| matches(pattern, group.as_str());
    let mut tokens = options.ok()?.tokens.into_iter();
    let found = tokens.find(|token| token.groups.iter().any(is_good))?;
    Some(found.token.0)
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
struct Call {
    address: Address,
    protocol: Protocol,
    host: String,
    request: Request<RequestBody>,
}

fn request(
    caller: &Caller,
    group: &GroupName,
    json: String,
    ca: Option<&Path>,
) -> Result<Call, String> {
    let url = format!("{}/groups/{group}", caller.url.trim_end_matches('/'));
    if let Err(error @ UrlError::Unencoded { .. }) = Url::parse(&caller.url) {
        return Err(error.to_string());
    }
    let Ok(url) = EndpointUrl::parse(&url) else {
        return Err(bad_url(caller));
    };
    let Address::Tcp { host, .. } = &url.address else {
        return Err(bad_url(caller));
    };
    let host = host.clone();
    let protocol = url.protocol(ca).map_err(|error| error.to_string())?;
    let (address, uri) = (url.address, url.uri);
    let mut token = HeaderValue::try_from(format!("Bearer {}", caller.token))
        .map_err(|_| "expected a token of visible characters, found others".to_owned())?;
    token.set_sensitive(true);
    let mut request = Request::post(uri);
    if let Some(host) = &caller.host {
        request = request.header(header::HOST, host);
    }
    let request = request
        .header(header::AUTHORIZATION, token)
        .header(header::CONTENT_TYPE, "application/json")
        .body(RequestBody::full(json))
        .map_err(|error| error.to_string())?;
    Ok(Call {
        address,
        protocol,
        host,
        request,
    })
}

fn bad_url(caller: &Caller) -> String {
    format!(
        "expected a URL such as http://127.0.0.1:8000/api/ or https://chat.example.com/api/, found {:?}",
        caller.shown()
    )
}

/// Sends the request; `url` is shown in messages.
async fn call(call: Call, url: &str) -> Result<(StatusCode, String), String> {
    let Call {
        address,
        protocol,
        host,
        request,
    } = call;
    let settings = ClientSettings {
        protocol,
        concurrency: 1,
        connect_timeout: TIMEOUT,
        head_timeout: None,
        total_timeout: Some(TIMEOUT),
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
            TIMEOUT.as_secs()
        )),
        Err(ClientError::Connect { source }) => Err(match io_cause(&*source) {
            Some(io) => why_not_connected(io, &host, url, "the server"),
            None => format!("{url}: {source}"),
        }),
        Err(ClientError::TooLarge(sentence)) => Err(format!("{url}: {sentence}")),
        Err(_) => Err(format!(
            "{url} does not speak HTTP; is it another server, or a port for TLS?"
        )),
    }
}
