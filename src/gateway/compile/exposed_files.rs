//! Exposed files: secrets, and files behind stronger middleware, that a view which maps paths onto
//! files or servers would expose.

use std::path::{Path, PathBuf};

use super::compiler::Compiler;
use crate::config::{ConfigPath, Problem, SourceLocation, StoreUrl};
use crate::gateway::table::{HttpEntry, RouteEntry, WebsocketEntry};
use crate::http::Mapped;
use crate::middleware::RESTRICTING;
use crate::routing::{ProtocolTypeRouter, Route, RoutePattern, UrlRouter};

impl Compiler<'_> {
    /// Reports routes that serve a directory with the configuration, a database or a key.
    pub(super) fn check_directories(&mut self, http: &UrlRouter<HttpEntry>, uses_sessions: bool) {
        let secrets = self.secret_files(uses_sessions);
        for (route, written) in http.routes().iter().zip(&self.config.http_routes) {
            let Some(Mapped::Directory(directory)) = &route.value.handler.maps_onto else {
                continue;
            };
            let directory = real(directory);
            for (what, file) in &secrets {
                if file.starts_with(&directory) {
                    let message = format!(
                        "expected a directory without secrets, found {:?}: it holds {what} ({})",
                        directory.display().to_string(),
                        file.display()
                    );
                    let problem = Problem::error(written.options.location().key("dir"), message);
                    self.problems
                        .push(problem.with_hint("serve a directory of its own"));
                }
            }
        }
    }

    /// Warns about a route that maps paths onto files or servers that another route protects with
    /// stronger middleware.
    pub(super) fn check_overlaps(
        &mut self,
        router: &ProtocolTypeRouter<HttpEntry, WebsocketEntry>,
    ) {
        let config = self.config;
        let http: Vec<Mapping<'_>> = (router.http.routes().iter())
            .zip(&config.http_routes)
            .filter_map(|(route, written)| {
                let mapped = route.value.handler.maps_onto.as_ref()?;
                Some(Mapping::new(route, mapped, &written.location))
            })
            .collect();
        for (at, weak) in http.iter().enumerate() {
            for (other, strong) in http.iter().enumerate() {
                if at != other && weak.reaches(strong) {
                    self.check_protection(weak, strong);
                }
            }
        }
        for (route, written) in router
            .websocket
            .routes()
            .iter()
            .zip(&config.websocket_routes)
        {
            let Some(mapped) = &route.value.handler.maps_onto else {
                continue;
            };
            let weak = Mapping::new(route, mapped, &written.location);
            for strong in http
                .iter()
                .filter(|strong| weak.sends_handshakes_to(strong))
            {
                let Some(lacking) = weak.lacking(strong) else {
                    continue;
                };
                let path = weak.requested(strong);
                let is_protected = router.websocket.routes().iter().any(|other| {
                    let start = literal_start(&other.pattern);
                    start.len() > literal_start(weak.pattern).len()
                        && path.as_deref().is_some_and(|path| path.starts_with(&start))
                        && other.value.middleware.contains(lacking)
                });
                if !is_protected {
                    self.check_protection(&weak, strong);
                }
            }
        }
    }

    fn check_protection(&mut self, weak: &Mapping<'_>, strong: &Mapping<'_>) {
        let Some(lacking) = weak.lacking(strong) else {
            return;
        };
        let message = format!(
            "maps paths onto what {} ({}) protects with {lacking:?}, without {lacking:?} itself",
            strong.place.path(),
            strong.pattern
        );
        let hint = match weak.place.path().starts_with("websocket") {
            true => format!(
                "a handshake is a GET of its path: give it a narrower path, or add a WebSocket route {} with {lacking:?}",
                strong.pattern
            ),
            false => format!("move it out of {}", shown(weak.mapped)),
        };
        let problem = Problem::warning(weak.place.clone(), message);
        self.problems.push(problem.with_hint(hint));
    }

    /// Returns the files that must not be served, each with its description.
    fn secret_files(&self, uses_sessions: bool) -> Vec<(&'static str, PathBuf)> {
        let config = self.config;
        let mut secrets = Vec::new();
        for document in &config.documents {
            let name = Path::new(document.name()).file_name().unwrap_or_default();
            let file = document.base().join(name);
            if file.is_file() {
                secrets.push(("the configuration", real(&file)));
            }
        }
        let stores = [
            (
                "session.store",
                &config.session.store,
                config.session.location.key("store"),
            ),
            (
                "auth.users",
                &config.auth.users,
                config.auth.location.key("users"),
            ),
        ];
        for (what, store, location) in stores {
            if let (StoreUrl::Sqlite(file) | StoreUrl::DjangoSqlite(file), true) =
                (store, uses_sessions || location.is_written())
            {
                secrets.push((what, real(file)));
            }
        }
        if let Some(bearer) = &config.auth.bearer {
            let files = [
                ("auth.bearer.key_file", &bearer.key_file),
                ("auth.bearer.jwks_file", &bearer.jwks_file),
            ];
            for (what, file) in files {
                if let Some(ConfigPath(file)) = file {
                    secrets.push((what, real(file)));
                }
            }
        }
        if let Some(tls) = &config.server.tls {
            let pairs = tls.certificates.iter().map(|pair| &pair.key);
            for key in tls.key.iter().chain(pairs) {
                secrets.push(("a private key of server.tls", real(key.as_ref())));
            }
        }
        secrets
    }
}

/// A route that maps paths onto files or servers.
struct Mapping<'a> {
    pattern: &'a RoutePattern,
    middleware: &'a [String],
    mapped: &'a Mapped,
    place: &'a SourceLocation,
}

impl<'a> Mapping<'a> {
    fn new<H>(
        route: &'a Route<RouteEntry<H>>,
        mapped: &'a Mapped,
        place: &'a SourceLocation,
    ) -> Self {
        Self {
            pattern: &route.pattern,
            middleware: &route.value.middleware,
            mapped,
            place,
        }
    }

    /// Returns whether both map paths onto the same files or servers.
    fn reaches(&self, strong: &Self) -> bool {
        match (self.mapped, strong.mapped) {
            (Mapped::Directory(outer), Mapped::Directory(inner)) => {
                real(inner).starts_with(real(outer))
            }
            (Mapped::Servers { .. }, Mapped::Servers { .. }) => {
                // A request for a path of `strong` takes `strong`, unless one changes the path.
                self.shares_servers(strong)
                    && self
                        .requested(strong)
                        .is_some_and(|path| !path.starts_with(&literal_start(strong.pattern)))
            }
            _ => false,
        }
    }

    /// Returns whether a handshake of this WebSocket route may ask for what is behind `strong`.
    fn sends_handshakes_to(&self, strong: &Self) -> bool {
        self.shares_servers(strong) && self.requested(strong).is_some()
    }

    fn shares_servers(&self, strong: &Self) -> bool {
        match (self.mapped, strong.mapped) {
            (Mapped::Servers { urls: one, .. }, Mapped::Servers { urls: other, .. }) => {
                one.iter().any(|url| other.contains(url))
            }
            _ => false,
        }
    }

    /// Returns the path of a request by which this route reaches the upstream's paths behind
    /// `strong`.
    fn requested(&self, strong: &Self) -> Option<String> {
        let inner = strong.upstream_path();
        let below = inner.strip_prefix(self.upstream_path().as_str())?;
        Some(format!("{}{below}", literal_start(self.pattern)))
    }

    /// Returns the start of the path that the upstream gets from the route.
    fn upstream_path(&self) -> String {
        let start = literal_start(self.pattern);
        match self.mapped {
            Mapped::Servers {
                stripped,
                rewritten,
                ..
            } => match rewritten {
                Some(rewritten) => rewritten.clone(),
                None => start.strip_prefix(stripped).unwrap_or(&start).to_owned(),
            },
            Mapped::Directory(_) => start,
        }
    }

    /// Returns the middleware that protects `strong` and not this route.
    fn lacking<'s>(&self, strong: &Mapping<'s>) -> Option<&'s String> {
        strong
            .middleware
            .iter()
            .find(|name| RESTRICTING.contains(&name.as_str()) && !self.middleware.contains(name))
    }
}

/// Returns the path of a route up to its first parameter.
fn literal_start(pattern: &RoutePattern) -> String {
    if pattern.is_regex() {
        return "/".to_owned();
    }
    let pattern = pattern.to_string();
    pattern.split('{').next().unwrap_or_default().to_owned()
}

fn shown(mapped: &Mapped) -> String {
    match mapped {
        Mapped::Directory(directory) => directory.display().to_string(),
        Mapped::Servers { urls, .. } => urls.join(", "),
    }
}

/// Resolves links for the part of the path that exists: a database may be created later.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real(parent).join(name),
        (_, Some(name)) => std::env::current_dir()
            .map(|here| here.join(name))
            .unwrap_or_else(|_| path.to_owned()),
        _ => path.to_owned(),
    }
}
