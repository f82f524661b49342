//! Compress: compresses responses for clients that accept it (RFC 9110 §8.4, §12.5.3).

mod body;
mod encoder;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use metrics::counter;

use body::CompressedBody;
use encoder::{Encoder, Encoders};

use crate::config::{CompressConfig, CompressionAlgorithm};
use crate::http::encoding::{self, Encoding};
use crate::http::{Body, Failure, Response};
use crate::scope::Scope;
use crate::services::Services;

/// A complete body up to this size is compressed in the request's task, a longer one on a thread.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A longer complete body is compressed while it is sent, without its length.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// Digests of the bytes that are sent: they would be wrong.
const DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// `compress`: compresses the route's responses, also refusals, if client and media type agree.
#[derive(Clone, Debug)]
pub struct Compress(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    /// In the order of preference.
    encodings: Vec<Encoding>,
    level: u8,
    min_size: u64,
    types: Vec<TypePattern>,
}

/// A pattern of media types, in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
enum TypePattern {
    /// `text/*`, without its star.
    Prefix(String),
    /// `*+json`, without its star.
    Suffix(String),
    Exact(String),
}

impl TypePattern {
    fn new(text: &str) -> Self {
        let text = text.trim().to_ascii_lowercase();
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (None, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            (None, None) => Self::Exact(text),
        }
    }

    fn matches(&self, media_type: &str) -> bool {
        match self {
            // An event stream lasts, and carries secrets beside what others write: only by name.
            Self::Prefix(prefix) => {
                media_type.starts_with(prefix.as_str()) && media_type != "text/event-stream"
            }
            Self::Suffix(suffix) => media_type.ends_with(suffix.as_str()),
            Self::Exact(exact) => media_type == exact,
        }
    }
}

impl Compress {
    /// Creates the step from a route's settings.
    #[must_use]
    pub fn new(settings: &CompressConfig) -> Self {
        let encoding = |algorithm: &CompressionAlgorithm| match algorithm {
            CompressionAlgorithm::Brotli => Encoding::Brotli,
            CompressionAlgorithm::Zstd => Encoding::Zstd,
            CompressionAlgorithm::Gzip => Encoding::Gzip,
        };
        Self(Arc::new(Settings {
            encodings: settings.algorithms.iter().map(encoding).collect(),
            level: settings.level,
            min_size: settings.min_size.bytes(),
            types: settings
                .types
                .iter()
                .map(|it| TypePattern::new(it))
                .collect(),
        }))
    }

    pub(super) async fn after(
        &self,
        scope: &Scope,
        services: &Services,
        response: &mut Response,
    ) -> Result<(), Failure> {
        let settings = &*self.0;
        let choose = || encoding::accepted(&scope.headers).first_of(&settings.encodings);
        if response.status() == StatusCode::NOT_MODIFIED {
            let fields = response.headers_mut();
            if settings.may_have_compressed(fields) {
                add_vary(fields);
                if is_tag_of_compressed(scope, fields, choose) {
                    weaken_etag(fields);
                }
            }
            return Ok(());
        }
        if !settings.may_compress(scope, response) {
            return Ok(());
        }
        add_vary(response.headers_mut());
        // HEAD gets the fields that GET would get; its body is dropped afterwards.
        let Some(encoding) = choose() else {
            return Ok(());
        };
        let encoders = services.shared::<Encoders>();
        let Some(encoder) = encoders.create(encoding, settings.level) else {
            counter!("oneport_uncompressed_total").increment(1);
            return Ok(());
        };
        let (encoder, body) = (encoder?, std::mem::take(response.body_mut()));
        *response.body_mut() = match body.into_whole(WHOLE_BYTES_MAX) {
            Ok(whole) => {
                let compressed = match whole.len() <= INLINE_BYTES_MAX {
                    true => compress(encoder, &whole)?,
                    false => {
                        let bytes = whole.clone();
                        tokio::task::spawn_blocking(move || compress(encoder, &bytes)).await??
                    }
                };
                if compressed.len() >= whole.len() {
                    *response.body_mut() = Body::full(whole);
                    return Ok(());
                }
                Body::full(compressed)
            }
            Err(streamed) => Body::stream(CompressedBody::new(streamed, encoder)),
        };
        let fields = response.headers_mut();
        let name = HeaderValue::from_static(encoding.name());
        fields.insert(header::CONTENT_ENCODING, name);
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(header::ACCEPT_RANGES); // of the bytes before the coding
        weaken_etag(fields);
        Ok(())
    }
}

fn compress(mut encoder: Encoder, bytes: &Bytes) -> std::io::Result<Vec<u8>> {
    encoder.write(bytes)?;
    encoder.finish()
}

impl Settings {
    /// Returns whether a response would be compressed for a client that accepts it.
    fn may_compress(&self, scope: &Scope, response: &Response) -> bool {
        let (status, fields, body) = (response.status(), response.headers(), response.body());
        let has_whole_body = !status.is_informational()
            && ![
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::PARTIAL_CONTENT,
            ]
            .contains(&status);
        // A response to HEAD that is passed on has no body, but the length that GET would give it.
        let length = match scope.method == Method::HEAD && body.is_streamed() {
            true => content_length(fields),
            false => http_body::Body::size_hint(body).upper(),
        };
        let is_short = length.is_some_and(|length| length < self.min_size.max(1));
        has_whole_body
            && !is_short
            && !fields.contains_key(header::CONTENT_RANGE)
            && !DIGESTS.iter().any(|name| fields.contains_key(name))
            && is_plain(fields)
            && fields
                .get(header::CONTENT_TYPE)
                .is_some_and(|content_type| self.is_compressible(content_type))
    }

    /// Returns whether the 200 that a 304 stands for may have been compressed. It need not repeat
    /// the media type.
    fn may_have_compressed(&self, fields: &HeaderMap) -> bool {
        let content_type = fields.get(header::CONTENT_TYPE);
        is_plain(fields) && content_type.is_none_or(|it| self.is_compressible(it))
    }

    fn is_compressible(&self, content_type: &HeaderValue) -> bool {
        let Ok(text) = content_type.to_str() else {
            return false;
        };
        let media_type = text.split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_ascii_lowercase();
        self.types
            .iter()
            .any(|pattern| pattern.matches(&media_type))
    }
}

/// Returns whether a response has no coding, and may get one.
fn is_plain(fields: &HeaderMap) -> bool {
    !fields.contains_key(header::CONTENT_ENCODING) && !forbids_transform(fields)
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    let length = fields.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Returns whether a 304 confirms a compressed response, whose tag is weak: the client asked for
/// that tag, or for none and takes compressed responses.
fn is_tag_of_compressed(
    scope: &Scope,
    fields: &HeaderMap,
    choose: impl FnOnce() -> Option<Encoding>,
) -> bool {
    let Some(tag) = fields.get(header::ETAG) else {
        return false;
    };
    if scope.headers.get(&header::IF_NONE_MATCH).is_none() {
        return choose().is_some();
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    let mut asked = scope.headers.all(&header::IF_NONE_MATCH);
    asked.any(|field| memchr::memmem::find(field, &weak).is_some())
}

/// Returns whether `Cache-Control` has `no-transform` (RFC 9111 §5.2.2.6).
fn forbids_transform(fields: &HeaderMap) -> bool {
    fields
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("no-transform"))
}

/// Adds `accept-encoding` to `Vary`, unless it is there.
fn add_vary(fields: &mut HeaderMap) {
    let has_it = fields
        .get_all(header::VARY)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .any(|name| {
            let name = name.trim();
            name == "*" || name.eq_ignore_ascii_case("accept-encoding")
        });
    if !has_it {
        fields.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Makes a strong entity tag weak: the compressed bytes are not those that it names (RFC 9110
/// §8.8.1).
fn weaken_etag(fields: &mut HeaderMap) {
    let Some(tag) = fields.get_mut(header::ETAG) else {
        return;
    };
    if tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}
