//! Static: files of a directory.

use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tower_http::services::ServeDir;

use crate::config::ConfigPath;
use crate::http::{Body, Failure, Request, Response, View};
use crate::routing::ParamNames;

/// What a path must not hold as it is; the slash stays.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\');

/// `view = "static"`: files of a directory, with ranges, conditional requests and files compressed beforehand (`.br`, `.gz`,
/// `.zst`).
///
/// The file is the route's catch-all parameter. A path that ends in a slash, or a route without the parameter, serves the index; a
/// directory without its slash gets 308 to it. Names that
/// start with a dot are not served, but for `.well-known`.
#[derive(Debug)]
pub struct Static {
    files: ServeDir,
    options: Options,
}

/// What `static` takes.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The directory, relative to the file the route stands in.
    dir: ConfigPath,
    /// The parameter of the route that names the file.
    #[serde(default = "path")]
    param: String,
    /// The file that stands for a directory; "" for none.
    #[serde(default = "index_html")]
    index: String,
    /// The file served in the place of one that is not there, with 200: for pages that route in the browser.
    #[serde(default)]
    fallback: Option<String>,
    /// `Cache-Control` of what is found.
    #[serde(default = "no_cache")]
    cache_control: String,
}

fn path() -> String {
    "path".to_owned()
}

fn index_html() -> String {
    "index.html".to_owned()
}

fn no_cache() -> String {
    "no-cache".to_owned()
}

impl View for Static {
    type Options = Options;

    fn new(options: Options) -> Self {
        let files = ServeDir::new(&options.dir.0)
            .append_index_html_on_directories(false)
            .redirect_to_trailing_slash(false)
            .precompressed_br()
            .precompressed_zstd()
            .precompressed_gzip();
        Self { files, options }
    }

    fn problems(options: &Options, _params: &ParamNames) -> Vec<String> {
        let mut problems = Vec::new();
        if !options.dir.0.is_dir() {
            problems.push(format!(
                "dir: expected a directory, found none at {}",
                options.dir.0.display()
            ));
        }
        if HeaderValue::from_str(&options.cache_control).is_err() {
            problems.push(format!(
                "cache_control: expected a header field's value, found {:?}",
                options.cache_control
            ));
        }
        problems
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let file = request
            .scope
            .url_route
            .params
            .get(&self.options.param)
            .unwrap_or_default();
        let is_hidden = |segment: &str| segment.starts_with('.') && segment != ".well-known";
        if file.split('/').any(is_hidden) || file.contains('\\') {
            return Err(Failure::not_found("there is no such file"));
        }
        let mut response = self.serve(&self.indexed(file), &request).await?;
        if response.status() == StatusCode::NOT_FOUND && self.is_directory(file).await {
            return redirect_to_directory(&request);
        }
        if response.status() == StatusCode::NOT_FOUND
            && let Some(fallback) = &self.options.fallback
        {
            response = self.serve(fallback, &request).await?;
        }
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Failure::not_found("there is no such file"));
        }
        if let Ok(value) = HeaderValue::from_str(&self.options.cache_control) {
            response
                .headers_mut()
                .entry(header::CACHE_CONTROL)
                .or_insert(value);
        }
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Ok(response)
    }
}

impl Static {
    async fn is_directory(&self, file: &str) -> bool {
        let path = self.options.dir.0.join(file.trim_start_matches('/'));
        tokio::fs::metadata(path)
            .await
            .is_ok_and(|found| found.is_dir())
    }

    fn indexed(&self, file: &str) -> String {
        if file.is_empty() || file.ends_with('/') {
            format!("{file}{}", self.options.index)
        } else {
            file.to_owned()
        }
    }

    async fn serve(&self, file: &str, request: &Request) -> Result<Response, Failure> {
        let mut inner = http::Request::new(Body::empty());
        *inner.method_mut() = if request.scope.method == Method::HEAD {
            Method::HEAD
        } else {
            Method::GET
        };
        *inner.uri_mut() = format!(
            "/{}",
            utf8_percent_encode(file.trim_start_matches('/'), PATH)
        )
        .parse()?;
        *inner.headers_mut() = request.scope.headers.to_map();
        let response = self.files.clone().try_call(inner).await?;
        Ok(response.map(Body::stream))
    }
}

/// A directory's pages name their neighbours relative to its slash.
fn redirect_to_directory(request: &Request) -> Result<Response, Failure> {
    let path = format!("/{}/", request.scope.raw_path().trim_matches('/'));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(&path)?);
    Ok(response)
}
