//! Proxy: passes requests on to other servers.
//!
//! ```text
//! client ── request ──► target ──► request_head ──► Upload ──► Upstreams::send
//!                                                                    │
//! client ◄── Download ◄── rewrite ◄── response_head ◄────────────────┤ head
//!        ◄── a file of `accel` ◄─────────────────────────────────────┤ X-Accel-Redirect
//!        ◄── a page ◄── 502, 503, 504, intercept_errors ─────────────┘
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `options.rs`, `header_rules.rs`, `header_template.rs` | the options |
//! | `target.rs`, `request_head.rs` | the path and the fields for the upstream |
//! | `response_head.rs`, `rewrite.rs`, `trailers.rs` | the fields for the client |
//! | `upload.rs`, `download.rs` | the bodies, frame by frame |
//! | `accel.rs` | the file that an application asks for |

mod accel;
mod download;
mod header_rules;
mod header_template;
mod options;
mod request_head;
mod response_head;
mod rewrite;
mod target;
mod trailers;
mod upload;

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};

pub(crate) use header_rules::{HeaderRules, WrittenHeaderRules};
pub(crate) use request_head::{RequestRules, WrittenForwarded};
pub(crate) use response_head::{clean, remove_accel};

use accel::{Accel, names_file};
use download::{Abandoned, Download};
use options::Options;
use request_head::is_last_hop;
use rewrite::OwnAddresses;
use upload::{Expectation, Upload, UploadFailure};

use super::Static;
use crate::client::on_informational;
use crate::config::OptionErrors;
use crate::http::upgrade::has_token;
use crate::http::view::{Mapped, OnDisconnect};
use crate::http::{Body, ClientEnd, Failure, Request, Response, View};
use crate::routing::RouteContext;
use crate::scope::{ClientAddress, Scope};
use crate::services::Services;
use crate::upstream::{Affinity, RequestBody, UpstreamBody, UpstreamError, Upstreams};

/// `view = "proxy"`: passes requests on to other servers, and their responses back.
pub struct Proxy {
    upstreams: Upstreams,
    /// The URLs of the servers.
    urls: Vec<String>,
    request_rules: RequestRules,
    response_headers: HeaderRules,
    own: OwnAddresses,
    redirects: bool,
    cookies: bool,
    intercept_errors: Vec<StatusCode>,
    accel: Option<(Accel, Static)>,
    /// Whether the log has warned of files that no option allows.
    has_warned: AtomicBool,
}

/// The status in the access log of a request whose client has left; nginx's number.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The cause of the page for a status of the upstream.
#[derive(Debug, thiserror::Error)]
#[error("the upstream answered {0}")]
struct Intercepted(StatusCode);

/// The client has closed the connection before the upstream has answered.
#[derive(Debug, thiserror::Error)]
#[error("the client has closed the connection")]
struct ClientLeft;

impl View for Proxy {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let request_rules = RequestRules::parse(
            (&options.strip_prefix, options.rewrite.as_deref()),
            &options.host,
            options.forwarded,
            &options.request_headers,
            &mut errors,
        );
        let response_headers =
            HeaderRules::parse("response_headers", &options.response_headers, &mut errors);
        let intercept_errors = intercepted(&options.intercept_errors, &mut errors);
        let accel = options.accel.clone().and_then(|accel| {
            let files = accel.files(&mut errors)?;
            Some((accel, files))
        });
        let own = OwnAddresses::new(options.urls(), request_rules.path.stripped());
        let upstreams = match Upstreams::new(&options.upstream_options()) {
            Ok(upstreams) => upstreams,
            Err(more) => {
                errors.append(more);
                return Err(errors);
            }
        };
        errors.into_result(Self {
            upstreams,
            urls: options.urls().map(str::to_owned).collect(),
            request_rules,
            response_headers,
            own,
            redirects: options.redirects,
            cookies: options.cookies,
            intercept_errors,
            accel,
            has_warned: AtomicBool::new(false),
        })
    }

    fn mount(&mut self, route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        let mut errors = OptionErrors::default();
        self.request_rules.mount(route, &mut errors);
        errors.extend(
            self.response_headers
                .check("response_headers", &route.params),
        );
        errors.into_result(())
    }

    fn started(&self, services: &Services) {
        self.upstreams.start(services);
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    fn has_own_deadlines() -> bool {
        true
    }

    fn maps_onto(&self) -> Option<Mapped> {
        Some(self.request_rules.mapped(&self.urls))
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    fn refusal(&self, scope: &Scope) -> Option<Failure> {
        if scope.method != Method::TRACE {
            return self.request_rules.target(scope).err();
        }
        // A response to TRACE contains the request, with the fields that Oneport has added.
        let allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        let sentence = "method TRACE is not allowed";
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, sentence);
        Some(failure.with_header(header::ALLOW, HeaderValue::from_static(allow)))
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the request twice"
    )]
    fn call(&self, mut request: Request) -> impl Future<Output = Result<Response, Failure>> + Send {
        async move {
            let scope = request.scope.clone();
            if scope.method == Method::TRACE
                && let Some(refusal) = self.refusal(&scope)
            {
                return Err(refusal);
            }
            if is_last_hop(&scope) {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(response);
            }
            let target = self.request_rules.target(&scope)?;
            let failed = UploadFailure::default();
            let outgoing = self.outgoing(target, &mut request, &failed)?;
            let sent = scope.headers.as_map();
            let affinity = Affinity {
                address: scope.client.map(ClientAddress::ip),
                headers: &sent,
            };
            let sent = {
                let sending = pin!(self.upstreams.send(&affinity, outgoing));
                while_connected(&request.client, sending).await
            };
            match sent {
                Some(Ok(response)) if names_file(response.headers()) => {
                    // Boxed, so that the future of every other request is smaller.
                    Box::pin(self.respond_with_file(response, request)).await
                }
                Some(Ok(response)) => {
                    let (parts, body) = self.checked(response, &scope)?;
                    Ok(self.respond(parts, body, request))
                }
                Some(Err(error)) => Err(failed.take().unwrap_or_else(|| failure(error))),
                None => Err(left()),
            }
        }
    }
}

impl Proxy {
    /// Creates the request for the upstream. Takes the body of the client's.
    fn outgoing(
        &self,
        target: PathAndQuery,
        request: &mut Request,
        failed: &UploadFailure,
    ) -> Result<http::Request<RequestBody>, Failure> {
        let scope = &request.scope;
        let mut headers = self.request_rules.headers(scope);
        let body = std::mem::take(&mut request.body);
        let length = http_body::Body::size_hint(&body).exact();
        let mut expectation = None;
        if let Some(length) = length.filter(|length| *length > 0 || has_content(&scope.method)) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let body = if length == Some(0) {
            RequestBody::empty()
        } else {
            let sent = scope.headers.as_map();
            let rules = &self.request_rules.headers;
            if let Some(names) = trailers::trailer_names(&sent, rules) {
                headers.insert(header::TRAILER, names);
            }
            if scope.http_version >= Version::HTTP_11
                && has_token(&sent, &header::EXPECT, "100-continue")
            {
                let continues = HeaderValue::from_static("100-continue");
                headers.insert(header::EXPECT, continues);
                expectation = Some(Arc::new(Expectation::default()));
            }
            let limit = request.body_size;
            let (failed, rules) = (failed.clone(), rules.clone());
            let upload = Upload::new(body, limit, expectation.clone(), failed, rules)?;
            match &expectation {
                Some(expectation) => RequestBody::stream_held(upload, expectation.is_held.clone()),
                None => RequestBody::stream(upload),
            }
        };
        let mut outgoing = http::Request::new(body);
        *outgoing.method_mut() = scope.method.clone();
        *outgoing.uri_mut() = Uri::from(target);
        *outgoing.headers_mut() = headers;
        if let Some(expectation) = expectation {
            on_informational(&mut outgoing, move |status, _| {
                if status == StatusCode::CONTINUE {
                    expectation.meet();
                }
            });
        }
        Ok(outgoing)
    }

    /// Removes the fields of the upstream's connection. Fails if the client gets a page instead.
    fn checked(
        &self,
        response: http::Response<UpstreamBody>,
        scope: &Scope,
    ) -> Result<(Parts, UpstreamBody), Failure> {
        let (mut parts, body) = response.into_parts();
        clean(&mut parts, &scope.method, &self.response_headers).map_err(bad_response)?;
        match self.intercept_errors.contains(&parts.status) {
            true => Err(intercepted_failure(parts.status, &parts.headers)),
            false => Ok((parts, body)),
        }
    }

    /// Returns the response for the client.
    fn respond(&self, parts: Parts, body: UpstreamBody, request: Request) -> Response {
        let Request { scope, client, .. } = request;
        let id = scope.request_id.clone();
        let download = Download::new(body, client, id, &self.response_headers);
        let response = Response::from_parts(parts, Body::stream(download));
        self.finished(response, &scope)
    }

    /// Returns the response for the client, with the file that the upstream asks for.
    async fn respond_with_file(
        &self,
        response: http::Response<UpstreamBody>,
        request: Request,
    ) -> Result<Response, Failure> {
        let scope = request.scope.clone();
        let (parts, body) = self.checked(response, &scope)?;
        let Some((files, name)) = self.named_file(&parts.headers)? else {
            return Ok(self.respond(parts, body, request));
        };
        let file = files.call(accel::request_for(request, &name)).await?;
        let response = accel::with_fields_of(file, &parts.headers);
        Ok(self.finished(response, &scope))
    }

    /// Rewrites the fields of a response that the client gets.
    fn finished(&self, mut response: Response, scope: &Scope) -> Response {
        let headers = response.headers_mut();
        remove_accel(headers);
        if self.redirects {
            self.own.rewrite_urls(headers, scope.root_path());
        }
        if self.cookies {
            self.own.rewrite_cookies(headers, scope.root_path());
        }
        self.response_headers.apply(scope, headers);
        response
    }
}

impl Proxy {
    /// Returns the name of the file that a response asks for, and the view that serves it.
    fn named_file(&self, headers: &HeaderMap) -> Result<Option<(&Static, String)>, Failure> {
        if !names_file(headers) {
            return Ok(None);
        }
        let Some((accel, files)) = &self.accel else {
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    upstream = self.urls.join(", "),
                    "the upstream asks for a file, and the option accel is not set: the response is sent without it"
                );
            }
            return Ok(None);
        };
        match accel.file(headers) {
            Some(Ok(name)) => Ok(Some((files, name))),
            Some(Err(error)) => Err(bad_response(error)),
            None => Ok(None),
        }
    }
}

/// Polls `work` until the client is presumed gone: then returns `None`.
async fn while_connected<T>(
    client: &ClientEnd,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut abandoned = Abandoned::new(client.clone());
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => abandoned.poll(cx).map(|()| None),
    })
    .await
}

/// Returns whether requests with a method usually have content, so that their length is sent even
/// if it is zero (RFC 9110 §8.6).
fn has_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Returns the failure of a request that no server has answered.
fn failure(error: UpstreamError) -> Failure {
    let status = error.status();
    let sentence = match status {
        StatusCode::GATEWAY_TIMEOUT => "the application took too long to answer",
        StatusCode::SERVICE_UNAVAILABLE => "the application is not available; try again",
        StatusCode::BAD_REQUEST => "the body broke off",
        StatusCode::REQUEST_TIMEOUT => "the body came too slowly",
        _ => "the application could not be reached, or sent no valid answer",
    };
    let failure = Failure::new(status, sentence).because(error);
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            failure.with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
        }
        _ => failure,
    }
}

/// Returns the failure of a request whose response cannot be passed on.
fn bad_response(error: impl Error + Send + Sync + 'static) -> Failure {
    Failure::new(
        StatusCode::BAD_GATEWAY,
        "the application sent no valid answer",
    )
    .because(error)
}

/// Returns the failure of a request whose client has left, for the log.
fn left() -> Failure {
    let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST);
    Failure::new(status, "the client has closed the connection").because(ClientLeft)
}

/// Returns the page for a status of the upstream.
fn intercepted_failure(status: StatusCode, headers: &HeaderMap) -> Failure {
    let sentence = match status {
        StatusCode::NOT_FOUND => "there is no such page",
        status if status.is_server_error() => "the application could not answer this request",
        _ => "the application refused this request",
    };
    let mut failure = Failure::new(status, sentence).because(Intercepted(status));
    for name in [header::ALLOW, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        for value in headers.get_all(&name) {
            failure = failure.with_header(name.clone(), value.clone());
        }
    }
    failure
}

/// Parses the option `intercept_errors`.
fn intercepted(written: &[u16], errors: &mut OptionErrors) -> Vec<StatusCode> {
    let mut statuses = Vec::with_capacity(written.len());
    for (index, status) in written.iter().enumerate() {
        match StatusCode::from_u16(*status) {
            Ok(status) if (400..=599).contains(&status.as_u16()) => statuses.push(status),
            _ => errors.error(
                format!("intercept_errors[{index}]"),
                format!("expected a status from 400 to 599, found {status}"),
            ),
        }
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each request allocates it, and moves it once.
    #[test]
    fn future_of_a_request_is_small() {
        fn size<F>(_: impl FnOnce(&'static Proxy, Request) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(View::call);
        assert!(size <= 4096, "{size}");
    }
}
