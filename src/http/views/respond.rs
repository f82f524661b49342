//! Respond: a fixed response.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::config::OptionErrors;
use crate::http::framing;
use crate::http::{Body, Failure, OnDisconnect, Request, Response, View, spare_fields};
use crate::scope::Scope;

/// `view = "respond"`: a fixed status, fixed header fields and a fixed body.
#[derive(Debug)]
pub struct Respond {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// The options of `respond`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The status, 200 to 599.
    #[serde(default = "ok")]
    status: u16,
    /// The body.
    #[serde(default)]
    body: String,
    /// `Content-Type`.
    #[serde(default = "plain")]
    content_type: String,
    /// Further header fields.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn ok() -> u16 {
    200
}

fn plain() -> String {
    "text/plain; charset=utf-8".to_owned()
}

impl View for Respond {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let status = StatusCode::from_u16(options.status)
            .ok()
            .filter(|_| (200..=599).contains(&options.status));
        if status.is_none() {
            errors.error(
                "status",
                format!("expected 200 to 599, found {}", options.status),
            );
        }
        let mut headers = HeaderMap::new();
        match HeaderValue::from_str(&options.content_type) {
            Ok(_) if options.body.is_empty() => {}
            Ok(value) => drop(headers.insert(header::CONTENT_TYPE, value)),
            Err(_) => errors.error(
                "content_type",
                format!("expected a media type, found {:?}", options.content_type),
            ),
        }
        if matches!(options.status, 204 | 205 | 304) && !options.body.is_empty() {
            let message = format!(
                "expected none with status {}, which has no body, found {:?}",
                options.status, options.body
            );
            errors.error("body", message);
        }
        for (name, value) in &options.headers {
            if let Some(sentence) = framing::refusal(name) {
                errors.error("headers", sentence);
            }
            match (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                _ => errors.error(
                    "headers",
                    format!("expected the name and the value of a header field, found {name:?}"),
                ),
            }
        }
        errors.into_result(Self {
            status: status.unwrap_or_default(),
            headers,
            body: Bytes::from(options.body),
        })
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    fn responds_now() -> bool {
        true
    }

    fn respond_now(&self, _scope: &Scope) -> Option<Result<Response, Failure>> {
        Some(Ok(self.response()))
    }

    async fn call(&self, _request: Request) -> Result<Response, Failure> {
        Ok(self.response())
    }
}

impl Respond {
    fn response(&self) -> Response {
        let mut response = Response::new(Body::full(self.body.clone()));
        *response.status_mut() = self.status;
        let mut headers = spare_fields::take();
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        *response.headers_mut() = headers;
        response
    }
}
