//! Exposed files: secrets, and files behind stronger middleware, that a view which maps paths onto
//! files or servers would expose.

use std::path::{Path, PathBuf};

use super::compiler::Compiler;
use crate::config::{ConfigPath, Problem, SourceLocation, StoreUrl};
use crate::gateway::table::HttpEntry;
use crate::http::Mapped;
use crate::middleware::RESTRICTING;
use crate::routing::{Route, UrlRouter};

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
    pub(super) fn check_overlaps(&mut self, http: &UrlRouter<HttpEntry>) {
        let mapping: Vec<(&Route<HttpEntry>, &SourceLocation)> = http
            .routes()
            .iter()
            .zip(&self.config.http_routes)
            .filter(|(route, _)| route.value.handler.maps_onto.is_some())
            .map(|(route, written)| (route, &*written.location))
            .collect();
        for (at, (weak, weak_place)) in mapping.iter().enumerate() {
            for (other, (strong, strong_place)) in mapping.iter().enumerate() {
                if at == other || !reaches(weak, strong) {
                    continue;
                }
                let lacking = strong.value.middleware.iter().find(|name| {
                    RESTRICTING.contains(&name.as_str()) && !weak.value.middleware.contains(name)
                });
                if let Some(lacking) = lacking {
                    let message = format!(
                        "maps paths onto what {} ({}) protects with {lacking:?}, without {lacking:?} itself",
                        strong_place.path(),
                        strong.pattern
                    );
                    let hint = format!("move it out of {}", shown(&weak.value.handler.maps_onto));
                    let problem = Problem::warning((*weak_place).clone(), message);
                    self.problems.push(problem.with_hint(hint));
                }
            }
        }
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

/// Returns whether `weak` and `strong` map paths onto the same files or servers.
fn reaches(weak: &Route<HttpEntry>, strong: &Route<HttpEntry>) -> bool {
    match (
        &weak.value.handler.maps_onto,
        &strong.value.handler.maps_onto,
    ) {
        (Some(Mapped::Directory(outer)), Some(Mapped::Directory(inner))) => {
            real(inner).starts_with(real(outer))
        }
        (Some(Mapped::Servers { urls: one, .. }), Some(Mapped::Servers { urls: other, .. })) => {
            one.iter().any(|url| other.contains(url)) && reaches_path(weak, strong)
        }
        _ => false,
    }
}

/// Returns whether `weak` reaches the paths of the upstream behind `strong`, although a request for
/// a path of `strong` takes `strong`: because one of the two changes the path.
fn reaches_path(weak: &Route<HttpEntry>, strong: &Route<HttpEntry>) -> bool {
    let (outer, inner) = (upstream_path(weak), upstream_path(strong));
    let Some(below) = inner.strip_prefix(outer.as_str()) else {
        return false;
    };
    let requested = format!("{}{below}", literal_start(weak));
    !requested.starts_with(&literal_start(strong))
}

/// Returns the start of the path that the upstream gets from a route.
fn upstream_path(route: &Route<HttpEntry>) -> String {
    let start = literal_start(route);
    match &route.value.handler.maps_onto {
        Some(Mapped::Servers {
            stripped,
            rewritten,
            ..
        }) => match rewritten {
            Some(rewritten) => rewritten.clone(),
            None => start.strip_prefix(stripped).unwrap_or(&start).to_owned(),
        },
        _ => start,
    }
}

/// Returns the path of a route up to its first parameter.
fn literal_start(route: &Route<HttpEntry>) -> String {
    if route.pattern.is_regex() {
        return "/".to_owned();
    }
    let pattern = route.pattern.to_string();
    pattern.split('{').next().unwrap_or_default().to_owned()
}

fn shown(mapped: &Option<Mapped>) -> String {
    match mapped {
        Some(Mapped::Directory(directory)) => directory.display().to_string(),
        Some(Mapped::Servers { urls, .. }) => urls.join(", "),
        None => String::new(),
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
