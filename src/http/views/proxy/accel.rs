//! Accel: the file that an application asks its proxy to send (`X-Accel-Redirect`, `X-Sendfile`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, MapDeserializer};

use crate::config::{ConfigPath, OptionErrors};
use crate::http::views::Static;
use crate::http::{Request, Response, View};

const ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");
const SENDFILE: HeaderName = HeaderName::from_static("x-sendfile");

/// The characters of a file's name to encode; the slashes between its segments stay.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// The option `accel`: the directory of the files that an application may ask for.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accel {
    /// The directory, relative to the file that defines the route.
    pub(super) dir: ConfigPath,
    /// The path that stands for the directory in `X-Accel-Redirect`.
    #[serde(default = "root")]
    pub(super) prefix: String,
}

fn root() -> String {
    "/".to_owned()
}

/// The file that a response names cannot be sent: the client gets 502.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadFile {
    /// It is outside of the directory, or hidden.
    #[error("expected a file below {dir:?}, found {found:?} in {field}")]
    Outside {
        /// The directory.
        dir: String,
        /// The value of the field.
        found: String,
        /// The field.
        field: HeaderName,
    },
}

/// Returns whether a response names a file.
pub(super) fn names_file(headers: &HeaderMap) -> bool {
    headers.contains_key(ACCEL_REDIRECT) || headers.contains_key(SENDFILE)
}

impl Accel {
    /// Returns the view that serves the files. Reports what is wrong with the options.
    pub(super) fn files(&self, errors: &mut OptionErrors) -> Option<Static> {
        if !self.prefix.starts_with('/') {
            let found = &self.prefix;
            let message = format!("expected a path such as \"/protected/\", found {found:?}");
            errors.error("accel.prefix", message);
        }
        let dir = self.dir.0.to_str().unwrap_or_default();
        if !self.dir.0.is_dir() {
            let dir = self.dir.0.display();
            errors.error("accel.dir", format!("no such directory: {dir}"));
            return None;
        }
        let options = MapDeserializer::<_, ValueError>::new([("dir", dir)].into_iter());
        let options = <Static as View>::Options::deserialize(options).ok()?;
        Static::new(options).ok()
    }

    /// Returns the file that a response names, relative to the directory; `None` if it names none.
    ///
    /// `X-Accel-Redirect` is a path below `prefix`, percent-encoded, as nginx reads it.
    /// `X-Sendfile` is a path of the file system; a relative one begins at the directory.
    pub(super) fn file(&self, headers: &HeaderMap) -> Option<Result<String, BadFile>> {
        let (field, name) = if let Some(value) = headers.get(ACCEL_REDIRECT) {
            (ACCEL_REDIRECT, self.redirected(value.as_bytes()))
        } else {
            let value = headers.get(SENDFILE)?;
            (SENDFILE, self.sent(value.as_bytes()))
        };
        let found = headers
            .get(&field)
            .map_or(&b""[..], |value| value.as_bytes());
        Some(
            name.filter(|name| is_inside(name))
                .ok_or_else(|| BadFile::Outside {
                    dir: self.dir.0.display().to_string(),
                    found: String::from_utf8_lossy(found).into_owned(),
                    field,
                }),
        )
    }

    fn redirected(&self, value: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(value).ok()?;
        let path = text.split(['?', '#']).next().unwrap_or(text);
        let path = percent_decode_str(path).decode_utf8().ok()?;
        let below = path.strip_prefix(self.prefix.trim_end_matches('/'))?;
        below.strip_prefix('/').map(str::to_owned)
    }

    fn sent(&self, value: &[u8]) -> Option<String> {
        let path = Path::new(std::str::from_utf8(value).ok()?);
        if path.is_relative() {
            return path.to_str().map(str::to_owned);
        }
        // The application may know the directory by its real path, or through a link.
        let real: Option<PathBuf> = self.dir.0.canonicalize().ok();
        let below = path
            .strip_prefix(&self.dir.0)
            .ok()
            .or_else(|| path.strip_prefix(real.as_deref()?).ok())?;
        below.to_str().map(str::to_owned)
    }
}

/// Returns the request for a file that an application has named, in place of the client's: with its
/// ranges and conditions.
pub(super) fn request_for(mut request: Request, name: &str) -> Request {
    let scope = Arc::make_mut(&mut request.scope);
    let encoded = utf8_percent_encode(name, NAME).to_string();
    if let Ok(target) = PathAndQuery::try_from(format!("/{encoded}")) {
        scope.target = target;
    }
    scope.url_route.params = [("path", name)].into_iter().collect();
    if scope.method != Method::HEAD {
        scope.method = Method::GET;
    }
    request
}

/// Returns the response with a file and the fields that the application has set, except those that
/// describe the bytes of its own response.
pub(super) fn with_fields_of(mut file: Response, headers: &HeaderMap) -> Response {
    let describes_bytes = |name: &HeaderName| {
        matches!(
            *name,
            header::ACCEPT_RANGES
                | header::CONTENT_ENCODING
                | header::CONTENT_LENGTH
                | header::CONTENT_RANGE
                | header::ETAG
                | header::LAST_MODIFIED
        )
    };
    let is_multipart = file
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|media| {
            file.status() == StatusCode::PARTIAL_CONTENT
                && media.as_bytes().starts_with(b"multipart/")
        });
    for name in headers.keys().filter(|name| !describes_bytes(name)) {
        if *name == header::CONTENT_TYPE && is_multipart {
            continue;
        }
        // `Vary` of both: the file's encoding, and what the application has chosen by.
        if *name != header::VARY {
            file.headers_mut().remove(name);
        }
        for value in headers.get_all(name) {
            file.headers_mut().append(name, value.clone());
        }
    }
    file
}

/// Returns whether a relative path stays inside its directory and names no hidden file.
fn is_inside(name: &str) -> bool {
    let is_refused = |segment: &str| segment.is_empty() || segment.starts_with('.');
    !name.split('/').any(is_refused)
        && !name
            .chars()
            .any(|found| found == '\\' || found.is_control())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn file(field: &'static str, value: &str) -> Option<String> {
        let accel = Accel {
            dir: ConfigPath("/srv/media".into()),
            prefix: "/protected/".to_owned(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(field, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        accel.file(&headers).unwrap().ok()
    }

    #[test]
    fn accel_redirect_is_an_encoded_path_below_the_prefix() {
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(
                file("x-accel-redirect", value).as_deref(),
                expected,
                "{value}"
            );
        };
        check("/protected/a.pdf", Some("a.pdf"));
        check(
            "/protected/2024/r%C3%A9sum%C3%A9%20(1).pdf?x=1",
            Some("2024/résumé (1).pdf"),
        );
        for outside in [
            "/protected/../secret",
            "/protected/%2e%2e/secret",
            "/protected/a/%2E%2E/%2e%2e/secret",
            "/protected//etc/passwd",
            "/protected/a%00.pdf",
            "/protected/.env",
            "/protected/..\\secret",
            "/protected/",
            "/protected",
            "/protectedx/a",
            "/a.pdf",
            "protected/a.pdf",
            "http://a/protected/a.pdf",
            "",
        ] {
            check(outside, None);
        }
    }

    #[test]
    fn sendfile_is_a_path_of_the_file_system() {
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(file("x-sendfile", value).as_deref(), expected, "{value}");
        };
        check("/srv/media/a/b.pdf", Some("a/b.pdf"));
        check("/srv/media/a%20b.pdf", Some("a%20b.pdf"));
        check("b.pdf", Some("b.pdf"));
        for outside in [
            "/etc/passwd",
            "/srv/media/../secret",
            "/srv/media",
            "/srv/mediax/a",
            "../a",
            "a/../../b",
            "/srv/media/.env",
            "",
        ] {
            check(outside, None);
        }
    }

    #[test]
    fn a_response_without_the_fields_names_no_file() {
        let accel = Accel {
            dir: ConfigPath("/srv".into()),
            prefix: root(),
        };
        assert_eq!(accel.file(&HeaderMap::new()), None);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEL_REDIRECT, HeaderValue::from_static("/a/b"));
        assert_eq!(accel.file(&headers), Some(Ok("a/b".to_owned())));
    }
}
