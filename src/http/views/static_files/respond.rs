//! Respond: the response with a representation: its conditions, its range, its body.

use std::ops::Range;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use super::content::{Content, slice};
use super::representation::{Representation, Stored};
use crate::http::conditional::Precondition;
use crate::http::open_file::FileRange;
use crate::http::range::{RequestedRange, requested_range};
use crate::http::{Body, Failure, Response};
use crate::scope::{Headers, Scope};

/// The bytes read at once of a file that the kernel cannot send, because of TLS or because the file
/// system may wait for a network.
const STEP_BYTES: u32 = 128 * 1024;

/// The fields without which a request is answered with the whole file.
const CONDITIONS: [http::HeaderName; 6] = [
    header::RANGE,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// Creates the response. `cache_control` replaces the file's own.
pub(super) fn respond(
    file: &Representation,
    cache_control: Option<HeaderValue>,
    scope: &Scope,
) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    let is_conditional = has_conditions(&scope.headers);
    if is_conditional {
        match file.validators.evaluate(scope) {
            Precondition::Holds => {}
            Precondition::NotModified => {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.headers_mut() = fields_of_304(file);
                if let Some(cache_control) = cache_control {
                    let fields = response.headers_mut();
                    fields.insert(header::CACHE_CONTROL, cache_control);
                }
                return Ok(response);
            }
            Precondition::Failed => {
                let sentence = "the file has changed: the precondition of the request failed";
                return Err(Failure::new(StatusCode::PRECONDITION_FAILED, sentence));
            }
        }
    }
    response.headers_mut().clone_from(&file.fields);
    if let Some(cache_control) = cache_control {
        let fields = response.headers_mut();
        fields.insert(header::CACHE_CONTROL, cache_control);
    }
    let is_ranged = is_conditional
        && scope.method == Method::GET
        && file
            .validators
            .allows_range(&scope.headers, SystemTime::now());
    let wanted = match is_ranged {
        true => requested_range(&scope.headers, file.len),
        false => RequestedRange::Whole,
    };
    fill(&mut response, file, wanted, scope)?;
    Ok(response)
}

fn has_conditions(headers: &Headers) -> bool {
    CONDITIONS.iter().any(|name| headers.get(name).is_some())
}

/// Returns the fields that a 304 repeats (RFC 9110 §15.4.5).
fn fields_of_304(file: &Representation) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    for name in [
        header::ETAG,
        header::LAST_MODIFIED,
        header::CACHE_CONTROL,
        header::VARY,
    ] {
        if let Some(value) = file.fields.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    fields
}

/// Sets the requested bytes as the body of a response.
fn fill(
    response: &mut Response,
    file: &Representation,
    wanted: RequestedRange,
    scope: &Scope,
) -> Result<(), Failure> {
    let len = file.len;
    let range = match wanted {
        RequestedRange::Unsatisfiable => {
            let sentence = format!("the requested range is outside of the file's {len} bytes");
            let field = HeaderValue::from_str(&format!("bytes */{len}"))?;
            return Err(Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, sentence)
                .with_header(header::CONTENT_RANGE, field));
        }
        RequestedRange::Whole => 0..len,
        RequestedRange::Part(part) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let field = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            let field = HeaderValue::from_str(&field)?;
            response.headers_mut().insert(header::CONTENT_RANGE, field);
            part
        }
        RequestedRange::Parts(parts) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let (content, multipart) = Content::parts(file, parts);
            let content_type = HeaderValue::from_str(&multipart)?;
            *response.body_mut() = Body::stream(content);
            let fields = response.headers_mut();
            fields.insert(header::CONTENT_TYPE, content_type);
            return Ok(());
        }
    };
    if scope.method == Method::HEAD {
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_LENGTH, len.into());
        return Ok(());
    }
    *response.body_mut() = body(file, range, scope.http_version);
    Ok(())
}

fn body(file: &Representation, range: Range<u64>, version: Version) -> Body {
    match &file.content {
        Stored::Memory(bytes) => Body::full(slice(bytes, &range)),
        // Over HTTP/2 each stream of a client may stall for long, so none keeps a file open.
        Stored::Open(open) if version < Version::HTTP_2 => {
            let file = open.clone();
            Body::file(FileRange { file, range }, STEP_BYTES)
        }
        Stored::Open(_) | Stored::Closed => Body::stream(Content::part(file, range)),
    }
}
