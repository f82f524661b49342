//! Exposition: the response to a scraper: all metrics in the format and the coding that it prefers.
//!
//! A large table has tens of thousands of series. They are written, and compressed, in pieces, and
//! other tasks run in between.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};

use super::encoding::{self, Encoding};
use super::{Failure, Response, respond};
use crate::scope::Headers;
use crate::services::Services;
use crate::telemetry::TextFormat;

/// The least bytes of a piece, except the last one.
const PIECE_BYTES: usize = 64 * 1024;

/// Returns the metrics of this process. `headers` are the scraper's.
pub(crate) async fn exposition(
    services: &Services,
    headers: &Headers,
) -> Result<Response, Failure> {
    let Some(snapshot) = services.read_metrics() else {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this process collects no metrics",
        ));
    };
    tokio::task::yield_now().await;
    let format = TextFormat::preferred(headers.all(&header::ACCEPT));
    let is_compressed = encoding::accepted(headers)
        .first_of(&[Encoding::Gzip])
        .is_some();
    let mut gzip = is_compressed.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let mut text = String::new();
    let mut pieces = snapshot.pieces(format);
    while pieces.write_next(PIECE_BYTES, &mut text) {
        if let Some(gzip) = &mut gzip {
            gzip.write_all(text.as_bytes())?;
            text.clear();
        }
        tokio::task::yield_now().await;
    }
    let body = match gzip {
        Some(mut gzip) => {
            gzip.write_all(text.as_bytes())?;
            Bytes::from(gzip.finish()?)
        }
        None => Bytes::from(text),
    };
    let mut response = respond(200, format.content_type(), body);
    let fields = response.headers_mut();
    fields.insert(
        header::VARY,
        HeaderValue::from_static("accept, accept-encoding"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_compressed {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
