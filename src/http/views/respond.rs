//! Respond: a fixed status, fixed fields, a fixed body.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http::framing;
use crate::http::{Body, Failure, OnDisconnect, Request, Response, View};
use crate::routing::ParamNames;

/// `view = "respond"`: a fixed status, fixed header fields and a fixed body.
#[derive(Debug)]
pub struct Respond {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What `respond` takes.
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

    fn new(options: Options) -> Self {
        let mut headers = HeaderMap::new();
        let fields = options
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in
            std::iter::once(("content-type", options.content_type.as_str())).chain(fields)
        {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                headers.insert(name, value);
            }
        }
        if options.body.is_empty() && !options.headers.contains_key("content-type") {
            headers.remove(header::CONTENT_TYPE);
        }
        Self {
            status: StatusCode::from_u16(options.status).unwrap_or_default(),
            headers,
            body: Bytes::from(options.body),
        }
    }

    fn problems(options: &Options, _params: &ParamNames) -> Vec<String> {
        let mut problems = Vec::new();
        if !(200..=599).contains(&options.status) {
            problems.push(format!(
                "status: expected 200 to 599, found {}",
                options.status
            ));
        }
        if HeaderValue::from_str(&options.content_type).is_err() {
            problems.push(format!(
                "content_type: expected a media type, found {:?}",
                options.content_type
            ));
        }
        if matches!(options.status, 204 | 205 | 304) && !options.body.is_empty() {
            problems.push(format!(
                "body: expected none with status {}, which has no body, found {:?}",
                options.status, options.body
            ));
        }
        for (name, value) in &options.headers {
            if let Some(sentence) = framing::refusal(name) {
                problems.push(format!("headers: {sentence}"));
            }
            if HeaderName::from_bytes(name.as_bytes()).is_err()
                || HeaderValue::from_str(value).is_err()
            {
                problems.push(format!(
                    "headers: expected the name and the value of a header field, found {name:?}"
                ));
            }
        }
        problems
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, _request: Request) -> Result<Response, Failure> {
        let mut response = Response::new(Body::full(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        Ok(response)
    }
}
