//! Static: serves the files of a directory.

mod cache;
mod cache_control;
mod content;
mod entry;
mod joined_loads;
mod listing;
mod options;
mod refusal;
mod representation;
mod respond;
mod root;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use http::{HeaderValue, StatusCode, header};

use cache::{FileCache, FileCaches, Lookup, Space};
use cache_control::CacheControl;
use entry::{Entry, Found};
use options::{Dotfiles, NO_CACHE, Options};
use refusal::{missing, refusal};
use representation::FixedFields;
use root::Root;

use crate::config::OptionErrors;
use crate::http::encoding::{self, Accepted};
use crate::http::file_threads::FileThreads;
use crate::http::view::{Mapped, OnDisconnect};
use crate::http::{Body, Failure, Request, Response, View};
use crate::routing::{RouteContext, RoutePattern};
use crate::scope::Scope;
use crate::services::Services;

/// `view = "static"`: serves the files of a directory, with ranges, conditional requests and
/// precompressed files (`.br`, `.gz`, `.zst`).
///
/// The file is the route's catch-all parameter. A path that ends in a slash, or a route without the
/// parameter, serves the index; a directory without its slash gets a 308 to the path with it, if
/// the route matches that path too. Names that start with a dot are not served, except
/// `.well-known`, unless `dotfiles` allows it.
///
/// The view serves only paths as the router parsed them: an encoded slash, an empty segment or a
/// backslash names no file. Otherwise a request could bypass a route with stricter middleware,
/// whose pattern does not match that spelling.
pub struct Static {
    options: Options,
    cache_control: CacheControl,
    /// The canonical path, by which views share their threads.
    directory: PathBuf,
    pattern: Option<RoutePattern>,
    /// Set before the first request.
    served: OnceLock<Served>,
}

/// The parts of the view that belong to its server.
struct Served {
    root: Arc<Root>,
    cache: Arc<FileCache>,
    space: Arc<Space>,
}

/// A request, and the codings that it accepts.
type Asked<'r> = (&'r Accepted, &'r Scope, &'r Services);

/// What a path leads to.
enum Target {
    File(Arc<Entry>),
    Listing(Response),
    /// A directory that must be requested with its slash.
    Directory,
}

impl fmt::Debug for Static {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Static")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl View for Static {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let cache_control = options.check()?;
        // The directory itself is looked up for each file: a deployment may replace it.
        let directory = options.dir.0.canonicalize();
        Ok(Self {
            cache_control,
            directory: directory.unwrap_or_else(|_| options.dir.0.clone()),
            options,
            pattern: None,
            served: OnceLock::new(),
        })
    }

    fn started(&self, services: &Services) {
        self.served(services);
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
        let (scope, services) = (&*request.scope, &request.services);
        let name = scope.param(&self.options.param);
        let is_as_routed =
            !name.starts_with('/') && !name.contains("//") && !has_encoded_slash(scope.raw_path());
        let accepted = encoding::accepted(&scope.headers);
        let asked = (&accepted, scope, services);
        let outcome = if is_as_routed && is_servable(name, self.options.dotfiles) {
            self.find(name, asked).await
        } else {
            Err(missing())
        };
        match outcome {
            Ok(Target::File(entry)) => respond::respond(entry.choose(&accepted), None, scope),
            Ok(Target::Listing(response)) => Ok(response),
            Ok(Target::Directory) => redirect_to_directory(scope),
            Err(failure) if failure.status() == StatusCode::NOT_FOUND => {
                Box::pin(self.fall_back(failure, asked)).await
            }
            Err(failure) => Err(failure),
        }
    }
}

impl Static {
    /// Finds what a path leads to.
    async fn find(&self, name: &str, asked: Asked<'_>) -> Result<Target, Failure> {
        let (_, scope, services) = asked;
        let is_directory = name.is_empty() || name.ends_with('/');
        let has_index = !self.options.index.is_empty();
        let found = match !is_directory || has_index {
            true => {
                let file = self.open(&self.file_name(name), asked).await;
                file.map_err(refusal)
            }
            false => Err(missing()),
        };
        match found {
            Ok(Found::File(entry)) => Ok(Target::File(entry)),
            Ok(Found::Directory) if !is_directory && self.takes_slash(name, scope) => {
                Ok(Target::Directory)
            }
            Err(failure)
                if is_directory
                    && self.options.listing
                    && failure.status() == StatusCode::NOT_FOUND =>
            {
                let listing = self.list(name, scope, services).await;
                Ok(Target::Listing(listing.map_err(refusal)?))
            }
            Ok(Found::Directory) => Err(missing()),
            Err(failure) => Err(failure),
        }
    }

    /// Responds with the fallback to a request for a missing file.
    async fn fall_back(&self, failure: Failure, asked: Asked<'_>) -> Result<Response, Failure> {
        let Some(fallback) = self
            .options
            .fallback
            .as_ref()
            .filter(|name| !name.is_empty())
        else {
            return Err(failure);
        };
        let (accepted, scope, _) = asked;
        match self.open(fallback, asked).await.map_err(refusal)? {
            Found::File(entry) => respond::respond(entry.choose(accepted), Some(NO_CACHE), scope),
            Found::Directory => Err(failure),
        }
    }

    async fn open(&self, name: &str, (accepted, _, services): Asked<'_>) -> io::Result<Found> {
        let served = self.served(services);
        let lookup = Lookup {
            space: &served.space,
            root: &served.root,
            name,
            accepted,
            clock: &services.clock,
            fixed: &|name| self.fixed_fields(name),
        };
        served.cache.find(&lookup).await
    }

    async fn list(&self, name: &str, scope: &Scope, services: &Services) -> io::Result<Response> {
        let served = self.served(services);
        let directory = (served.space.number(), &served.root);
        let listings = &served.cache.listings;
        listings
            .respond(directory, name, services.clock.now(), scope)
            .await
    }

    fn served(&self, services: &Services) -> &Served {
        self.served.get_or_init(|| {
            let threads = services.shared::<FileThreads>().of(&self.directory);
            let cache = services.shared::<FileCaches>();
            let cache = cache.of(services.settings().file_cache);
            let (dir, symlinks) = (self.options.dir.0.clone(), self.options.symlinks);
            Served {
                root: Arc::new(Root::new(dir, symlinks, threads)),
                space: cache.space(self.options.settings()),
                cache,
            }
        })
    }

    /// Returns the file name; for a directory, that of its index.
    fn file_name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match name.is_empty() || name.ends_with('/') {
            true => format!("{name}{}", self.options.index).into(),
            false => name.into(),
        }
    }

    /// Returns whether the path with a slash appended reaches the same directory through this
    /// route. Otherwise a redirect could loop forever.
    fn takes_slash(&self, name: &str, scope: &Scope) -> bool {
        if self.options.index.is_empty() && !self.options.listing {
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

    fn fixed_fields(&self, name: &str) -> io::Result<FixedFields> {
        let content_type = HeaderValue::from_str(&self.media_type(name));
        Ok(FixedFields {
            content_type: content_type.map_err(io::Error::other)?,
            cache_control: self.cache_control.of(name).clone(),
        })
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

/// Returns whether a file of this name may be served.
fn is_servable(name: &str, dotfiles: Dotfiles) -> bool {
    let is_refused = |segment: &str| match dotfiles {
        Dotfiles::Deny => segment.starts_with('.') && segment != ".well-known",
        Dotfiles::Allow => matches!(segment, "." | ".."),
    };
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
