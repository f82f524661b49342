//! Static: serves the files of a directory.

mod content;
mod file;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use http::{HeaderValue, Method, StatusCode, Version, header};

use content::Content;
use file::{Found, FoundFile, Reading, missing, refusal};

use crate::config::{ConfigPath, OptionErrors};
use crate::http::conditional::{Precondition, Validators};
use crate::http::encoding::{self, Encoding};
use crate::http::range::{RequestedRange, requested_range};
use crate::http::view::{Mapped, OnDisconnect};
use crate::http::{Body, Failure, Request, Response, View};
use crate::routing::{RouteContext, RoutePattern};
use crate::scope::Scope;

/// `view = "static"`: serves the files of a directory, with ranges, conditional requests and
/// precompressed files (`.br`, `.gz`, `.zst`).
///
/// The file is the route's catch-all parameter. A path that ends in a slash, or a route without the
/// parameter, serves the index; a directory without its slash gets a 308 to the path with it, if
/// the route matches that path too. Names that start with a dot are not served, except
/// `.well-known`.
///
/// The view serves only paths as the router parsed them: an encoded slash, an empty segment or a
/// backslash names no file. Otherwise a request could bypass a route with stricter middleware,
/// whose pattern does not match that spelling.
#[derive(Debug)]
pub struct Static {
    options: Options,
    cache_control: HeaderValue,
    pattern: Option<RoutePattern>,
}

/// The options of `static`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The directory, relative to the file that defines the route.
    dir: ConfigPath,
    /// The parameter of the route that names the file.
    #[serde(default = "path")]
    param: String,
    /// The file served for a directory; "" for none.
    #[serde(default = "index_html")]
    index: String,
    /// The file served with 200 instead of a missing one, for single-page applications.
    #[serde(default)]
    fallback: Option<String>,
    /// `Cache-Control` of existing files. The fallback always has `no-cache`.
    #[serde(default = "no_cache")]
    cache_control: String,
    /// The charset of text files; "" omits it.
    #[serde(default = "utf_8")]
    charset: String,
}

/// `Cache-Control` of the fallback.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

fn path() -> String {
    "path".to_owned()
}

fn index_html() -> String {
    "index.html".to_owned()
}

fn no_cache() -> String {
    "no-cache".to_owned()
}

fn utf_8() -> String {
    "utf-8".to_owned()
}

impl View for Static {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let dir = options.dir.0.display().to_string();
        if !options.dir.0.is_dir() {
            errors.error("dir", format!("no such directory: {dir}"));
        }
        let cache_control = HeaderValue::from_str(&options.cache_control);
        if cache_control.is_err() {
            let found = &options.cache_control;
            let message = format!("expected a header field's value, found {found:?}");
            errors.error("cache_control", message);
        }
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !options.charset.bytes().all(is_token) {
            let found = &options.charset;
            let message = format!("expected a charset such as \"utf-8\", found {found:?}");
            errors.error("charset", message);
        }
        for (key, name) in [
            ("index", Some(&options.index)),
            ("fallback", options.fallback.as_ref()),
        ] {
            if let Some(name) = name
                && !name.is_empty()
                && !is_servable(name)
            {
                let message = format!(
                    "expected the name of a file below {dir:?} that is neither hidden nor outside of it, found {name:?}"
                );
                errors.error(key, message);
            }
        }
        errors.into_result(Self {
            cache_control: cache_control.unwrap_or(NO_CACHE),
            options,
            pattern: None,
        })
    }

    fn mount(&mut self, route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        self.pattern = route.pattern.cloned();
        Ok(())
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    fn maps_onto(&self) -> Option<Mapped> {
        Some(Mapped::Directory(self.options.dir.0.clone()))
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        let name = scope.param(&self.options.param);
        let is_as_routed =
            !name.starts_with('/') && !name.contains("//") && !has_encoded_slash(scope.raw_path());
        let outcome = if is_as_routed && is_servable(name) {
            self.find(name, scope).await
        } else {
            Err(missing())
        };
        let cache_control = self.cache_control.clone();
        match outcome {
            Ok(Some(file)) => self.respond(&self.file_name(name), file, cache_control, scope),
            Ok(None) => redirect_to_directory(scope),
            Err(failure) if failure.status() == StatusCode::NOT_FOUND => {
                match &self.options.fallback {
                    Some(fallback) if !fallback.is_empty() => {
                        let file = open(self.located(fallback), scope).await;
                        match file.map_err(refusal)? {
                            Found::File(file) => self.respond(fallback, file, NO_CACHE, scope),
                            Found::Directory => Err(failure),
                        }
                    }
                    _ => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }
}

impl Static {
    /// Finds the file of a name; `None` for a directory that must be requested with its slash.
    async fn find(&self, name: &str, scope: &Scope) -> Result<Option<FoundFile>, Failure> {
        let is_directory = name.is_empty() || name.ends_with('/');
        if is_directory && self.options.index.is_empty() {
            return Err(missing());
        }
        match open(self.located(&self.file_name(name)), scope)
            .await
            .map_err(refusal)?
        {
            Found::File(file) => Ok(Some(file)),
            Found::Directory if !is_directory && self.takes_slash(name, scope) => Ok(None),
            Found::Directory => Err(missing()),
        }
    }

    /// Returns the file name; for a directory, that of its index.
    fn file_name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match name.is_empty() || name.ends_with('/') {
            true => format!("{name}{}", self.options.index).into(),
            false => name.into(),
        }
    }

    fn located(&self, name: &str) -> PathBuf {
        self.options.dir.0.join(name)
    }

    /// Returns whether the path with a slash appended reaches the same directory through this
    /// route. Otherwise a redirect could loop forever.
    fn takes_slash(&self, name: &str, scope: &Scope) -> bool {
        if self.options.index.is_empty() {
            return false;
        }
        let root_path = scope.root_path();
        let below = scope.raw_path().strip_prefix(root_path).unwrap_or_default();
        self.pattern
            .as_ref()
            .and_then(|pattern| pattern.params_of(&format!("{below}/")))
            .is_some_and(|params| {
                params.get(&self.options.param).is_some_and(|with_slash| {
                    with_slash
                        .strip_suffix('/')
                        .is_some_and(|before| before == name)
                })
            })
    }

    fn respond(
        &self,
        name: &str,
        open: FoundFile,
        cache_control: HeaderValue,
        scope: &Scope,
    ) -> Result<Response, Failure> {
        let now = SystemTime::now();
        let validators = validators(&open, now);
        let mut response = Response::new(Body::empty());
        let fields = response.headers_mut();
        fields.insert(header::ETAG, HeaderValue::from_str(&validators.etag)?);
        if let Some(modified) = validators.modified {
            let modified = httpdate::fmt_http_date(modified);
            fields.insert(header::LAST_MODIFIED, HeaderValue::from_str(&modified)?);
        }
        fields.insert(header::CACHE_CONTROL, cache_control);
        fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        match validators.evaluate(scope) {
            Precondition::Holds => {}
            Precondition::NotModified => {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return Ok(response);
            }
            Precondition::Failed => {
                let sentence = "the file has changed: the precondition of the request failed";
                return Err(Failure::new(StatusCode::PRECONDITION_FAILED, sentence));
            }
        }
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        fields.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        if let Some(encoding) = open.encoding {
            let name = HeaderValue::from_static(encoding.name());
            fields.insert(header::CONTENT_ENCODING, name);
        }
        let is_ranged = scope.method == Method::GET && validators.allows_range(&scope.headers, now);
        let wanted = match is_ranged {
            true => requested_range(&scope.headers, open.len),
            false => RequestedRange::Whole,
        };
        fill(&mut response, open, wanted, &self.media_type(name), scope)?;
        Ok(response)
    }

    fn media_type(&self, name: &str) -> String {
        let guessed = match mime_guess::from_path(name).first_raw() {
            Some("application/javascript") => "text/javascript", // RFC 9239 §6
            Some(guessed) => guessed,
            None => "application/octet-stream",
        };
        let is_text = guessed.starts_with("text/") || guessed == "application/xml";
        match self.options.charset.as_str() {
            charset if is_text && !charset.is_empty() => format!("{guessed}; charset={charset}"),
            _ => guessed.to_owned(),
        }
    }
}

/// Sets the requested bytes as the body of a response.
fn fill(
    response: &mut Response,
    open: FoundFile,
    wanted: RequestedRange,
    media_type: &str,
    scope: &Scope,
) -> Result<(), Failure> {
    let len = open.len;
    let mut content_type = HeaderValue::from_str(media_type)?;
    let whole = match wanted {
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
            let (content, multipart) = Content::parts(open.handle, parts, len, media_type);
            content_type = HeaderValue::from_str(&multipart)?;
            *response.body_mut() = Body::stream(content);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
            return Ok(());
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    if scope.method == Method::HEAD {
        headers.insert(header::CONTENT_LENGTH, len.into());
        return Ok(());
    }
    *response.body_mut() = match open.content {
        Some(bytes) => {
            let end = usize::try_from(whole.end).unwrap_or(bytes.len());
            let start = usize::try_from(whole.start).unwrap_or(end);
            Body::full(bytes.slice(start..end))
        }
        None => Body::stream(Content::part(open.handle, whole)),
    };
    Ok(())
}

/// Opens a file on a blocking thread.
async fn open(path: PathBuf, scope: &Scope) -> io::Result<Found> {
    let encodings: Vec<Encoding> = encoding::accepted(&scope.headers).iter().collect();
    let reading = match scope.http_version {
        _ if scope.method == Method::HEAD => Reading::Nothing,
        Version::HTTP_2 => Reading::Late,
        _ => Reading::Eager,
    };
    tokio::task::spawn_blocking(move || file::open(&path, &encodings, reading))
        .await
        .map_err(io::Error::other)?
}

/// Returns a file's validators. The entity tag consists of the modification time, in nanoseconds,
/// and the length: changed content gets another tag unless the time is set back.
fn validators(open: &FoundFile, now: SystemTime) -> Validators {
    let age = open
        .modified
        .map(|at| match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => format!("{:x}", since.as_nanos()),
            Err(before) => format!("-{:x}", before.duration().as_nanos()),
        });
    let encoding = open
        .encoding
        .map_or(String::new(), |encoding| format!("-{}", encoding.name()));
    let etag = format!("\"{}-{:x}{encoding}\"", age.unwrap_or_default(), open.len);
    Validators::new(etag, open.modified, now)
}

/// Returns whether a file of this name may be served.
fn is_servable(name: &str) -> bool {
    let is_refused =
        |segment: &str| segment.starts_with('.') && segment != ".well-known" || segment == "..";
    !name.split('/').any(is_refused) && !name.contains('\\') && !name.starts_with('/')
}

/// Returns whether a slash is percent-encoded, which the router does not treat as the end of a
/// segment.
fn has_encoded_slash(raw_path: &str) -> bool {
    raw_path
        .as_bytes()
        .windows(3)
        .any(|escape| escape.eq_ignore_ascii_case(b"%2f"))
}

/// Redirects to the path with its slash: relative links in the directory's pages depend on it.
fn redirect_to_directory(scope: &Scope) -> Result<Response, Failure> {
    // Two slashes at the start would lead to another host.
    let path = scope.raw_path().trim_start_matches('/');
    let location = match scope.target.query() {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(
        header::LOCATION,
        HeaderValue::from_bytes(location.as_bytes())?,
    );
    Ok(response)
}
