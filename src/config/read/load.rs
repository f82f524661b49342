//! Loading: the main file, the files it includes, and the problems of all of them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::Config;
use crate::config::draft::Draft;
use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::lint;
use crate::config::problems::problem::{Problem, Problems};
use crate::config::problems::suggest::did_you_mean;
use crate::config::process_user::user;
use crate::config::read::collect;
use crate::config::read::document::Document;
use crate::config::read::environment::Env;
use crate::config::read::include::{self, Source, Unreadable};
use crate::config::read::located::Located;
use crate::config::read::path::Segment;
use crate::config::read::source_location::SourceLocation;
use crate::config::sections::auth::AuthConfig;
use crate::config::sections::channel_layer::ChannelLayerConfig;
use crate::config::sections::csrf::CsrfConfig;
use crate::config::sections::custom_middleware::CustomMiddlewareSections;
use crate::config::sections::http::{HttpSection, RawHttpRoute};
use crate::config::sections::log::LogConfig;
use crate::config::sections::metrics::MetricsConfig;
use crate::config::sections::server::ServerConfig;
use crate::config::sections::session::SessionConfig;
use crate::config::sections::templates::TemplatesConfig;
use crate::config::sections::tracing::TracingConfig;
use crate::config::sections::websocket::{RawWebsocketRoute, WebsocketSection};
use crate::config::values::checked::Prefix;
use crate::config::values::config_path::ConfigPath;
use crate::config::values::secret::Secret;
use crate::net::Listen;

/// The keys of the main file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MainFile {
    include: Vec<Located<String>>,
    server: ServerConfig,
    log: LogConfig,
    metrics: MetricsConfig,
    tracing: TracingConfig,
    templates: TemplatesConfig,
    session: SessionConfig,
    auth: AuthConfig,
    csrf: CsrfConfig,
    channel_layer: ChannelLayerConfig,
    middleware: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
    http: HttpSection,
    websocket: WebsocketSection,
}

/// The keys of an included file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RouteFile {
    prefix: Option<Prefix>,
    include: Vec<Located<String>>,
    http: RoutesOf<RawHttpRoute>,
    websocket: RoutesOf<RawWebsocketRoute>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "Route: Deserialize<'de>"))]
struct RoutesOf<Route> {
    #[serde(default = "Vec::new")]
    route: Vec<Located<Route>>,
}

impl<Route> Default for RoutesOf<Route> {
    fn default() -> Self {
        Self { route: Vec::new() }
    }
}

/// Replaces a prefix that could not be read, so that an empty path after it is not reported as
/// well.
const UNREAD_PREFIX: &str = "/...";

const ROUTE_FILE_KEYS: [&str; 4] = ["prefix", "include", "http", "websocket"];

/// A load in progress.
pub(in crate::config) struct Loader<'a> {
    env: Env<'a>,
    config: Config,
    problems: Problems,
    /// Locations that are wrong without a Problem of their own.
    unread: Vec<SourceLocation>,
}

impl<'a> Loader<'a> {
    pub(in crate::config) fn new(env: Env<'a>) -> Self {
        Self {
            env,
            config: Config::default(),
            problems: Problems::default(),
            unread: Vec::new(),
        }
    }

    /// Reads as much as possible of the main file and everything it includes.
    pub(in crate::config) fn load(
        mut self,
        source: &Source,
        text: &str,
    ) -> Result<Draft, Problems> {
        let Some(document) = self.document(source, text) else {
            return Err(self.problems.sorted());
        };
        let root = SourceLocation::root(&document);
        let read: Option<MainFile> =
            collect::read(&root, document.root().clone(), &mut self.problems);
        let Some(main) = read else {
            return Err(self.problems.sorted());
        };
        let (http, http_routes) = main.http.into_parts(root.key("http"));
        let (websocket, websocket_routes) = main.websocket.into_parts(root.key("websocket"));
        self.config.base = document.base().to_owned();
        let names = main.middleware.into_keys().collect();
        self.config.middleware = CustomMiddlewareSections::new(names, root.key("middleware"));
        self.config.http = http;
        self.config.websocket = websocket;
        self.config.log = LogConfig {
            location: root.key("log").into(),
            ..main.log
        };
        self.config.tracing = TracingConfig {
            location: root.key("tracing").into(),
            ..main.tracing
        };
        let location = root.key("channel_layer");
        // A backend that could not be read is a placeholder and contradicts nothing.
        if !ErrorLocations::of(&self.problems).overlaps(&location.key("backend")) {
            for (key, sentence) in main.channel_layer.contradictions() {
                self.problems.error(location.key(key), sentence);
            }
        }
        self.config.channel_layer = ChannelLayerConfig {
            location: location.into(),
            ..main.channel_layer
        };
        let location = root.key("session");
        self.config.session = SessionConfig {
            store: main.session.store.relative_to(location.base()),
            location: location.into(),
            ..main.session
        };
        let location = root.key("auth");
        self.config.auth = AuthConfig {
            users: main.auth.users.relative_to(location.base()),
            location: location.into(),
            ..main.auth
        };
        self.config.csrf = CsrfConfig {
            location: root.key("csrf").into(),
            ..main.csrf
        };
        self.templates(main.templates, root.key("templates"));
        self.server(main.server, root.key("server"));
        self.metrics(main.metrics, root.key("metrics"));
        let chain = std::slice::from_ref(source);
        self.include(&document, &main.include, Some(""), chain);
        self.add_routes(&document, Some(""), http_routes, websocket_routes);
        let mut error_locations = ErrorLocations::of(&self.problems);
        for location in self.unread {
            error_locations.add(location);
        }
        Ok(Draft {
            config: self.config,
            problems: self.problems.sorted(),
            error_locations,
        })
    }

    fn document(&mut self, source: &Source, text: &str) -> Option<Arc<Document>> {
        let parsed = Document::parse(&source.name, &source.base(), text, self.env);
        self.problems.append(parsed.problems);
        self.config.documents.push(Arc::clone(&parsed.document));
        self.unread.extend(parsed.duplicates);
        if parsed.broken {
            self.unread.push(SourceLocation::root(&parsed.document));
        }
        (!parsed.broken).then_some(parsed.document)
    }

    fn templates(&mut self, templates: TemplatesConfig, location: SourceLocation) {
        let dir = if location.key("dir").is_written() {
            templates.dir
        } else {
            location.base().join(templates.dir)
        };
        self.config.templates = TemplatesConfig {
            dir,
            location: location.into(),
        };
    }

    fn metrics(&mut self, metrics: MetricsConfig, location: SourceLocation) {
        let server = &self.config.server.location;
        lint::metrics(&location, &server.key("bind"), &mut self.problems);
        self.config.metrics = MetricsConfig {
            bind: relative_to(location.base(), metrics.bind),
            location: location.into(),
        };
    }

    fn server(&mut self, server: ServerConfig, location: SourceLocation) {
        lint::server(&location, &mut self.problems);
        let mut server = server;
        if let Some(acme) = server.tls.as_mut().and_then(|tls| tls.acme.as_mut())
            && !location.key("tls").key("acme").key("cache").is_written()
        {
            acme.cache = ConfigPath(location.base().join(&acme.cache));
        }
        let bind = relative_to(location.base(), server.bind);
        if !server.pid_file.as_os_str().is_empty() {
            server.pid_file = location.base().join(server.pid_file);
        }
        let secret_key = if location.key("secret_key").is_written() {
            server.secret_key
        } else {
            Secret((self.env)("ONEPORT_SECRET_KEY").unwrap_or_default())
        };
        self.config.server = ServerConfig {
            secret_key,
            bind,
            location: location.into(),
            ..server
        };
    }

    /// Reads the files that a file includes. `chain` has the files from the main one to this one;
    /// `prefix` precedes each path, and is None if it could not be read.
    fn include(
        &mut self,
        document: &Arc<Document>,
        written: &[Located<String>],
        prefix: Option<&str>,
        chain: &[Source],
    ) {
        let Some(includer) = chain.last() else { return };
        let mut seen = Vec::new();
        for pattern in written {
            let location = SourceLocation::of_path(document, pattern.path.clone());
            let sources = match include::expand(includer, &pattern.value) {
                Ok(sources) => sources,
                Err(message) => {
                    self.problems.error(location, message);
                    continue;
                }
            };
            for source in sources {
                if seen.contains(&source) {
                    continue;
                }
                seen.push(source.clone());
                self.include_one(&location, source, prefix, chain);
            }
        }
    }

    fn include_one(
        &mut self,
        location: &SourceLocation,
        source: Source,
        prefix: Option<&str>,
        chain: &[Source],
    ) {
        if chain.contains(&source) {
            let way: Vec<&str> = chain
                .iter()
                .chain([&source])
                .map(|file| file.name.as_str())
                .collect();
            self.problems.error(
                location.clone(),
                format!("files include each other: {}", way.join(" -> ")),
            );
            return;
        }
        let text = match include::read(&source) {
            Ok(text) => text,
            Err(Unreadable { message, .. }) => {
                return self
                    .problems
                    .error(location.clone(), format!("{}: {message}", source.name));
            }
        };
        let Some(document) = self.document(&source, &text) else {
            return;
        };
        let root = SourceLocation::root(&document);
        let mut node = document.root().clone();
        for path in self.disallowed_keys(&root, chain) {
            node.remove(&path);
        }
        let Some(file) = collect::read::<RouteFile>(&root, node, &mut self.problems) else {
            return;
        };
        let own_prefix = match file.prefix {
            Some(own) => Some(String::from(own)),
            None => (!root.key("prefix").is_written()).then(String::new),
        };
        let prefix = prefix.and_then(|outer| own_prefix.map(|own| format!("{outer}{own}")));
        let prefix = prefix.as_deref();
        let chain: Vec<Source> = chain.iter().cloned().chain([source]).collect();
        self.include(&document, &file.include, prefix, &chain);
        self.add_routes(&document, prefix, file.http.route, file.websocket.route);
    }

    /// Reports keys that are not allowed in an included file.
    fn disallowed_keys(&mut self, root: &SourceLocation, chain: &[Source]) -> Vec<Vec<Segment>> {
        let document = Arc::clone(root.document());
        let mut disallowed = Vec::new();
        let mut check = |way: &[&str], key: &str, known: &[&str]| {
            if known.contains(&key) {
                return;
            }
            let path: Vec<Segment> = way
                .iter()
                .chain([&key])
                .map(|key| Segment::Key((*key).to_owned()))
                .collect();
            let message = format!(
                "{key:?} is not allowed in an included file; it may hold prefix, include, [[http.route]] and \
                 [[websocket.route]]"
            );
            let main = chain
                .first()
                .map(|main| format!("sections belong in {}", main.name));
            let hint = did_you_mean(key, known.iter().copied()).or(main);
            self.problems
                .push(Problem::error(root.join(&path).of_key(), message).with_hint_if(hint));
            disallowed.push(path);
        };
        for entry in document.root().entries() {
            check(&[], &entry.key, &ROUTE_FILE_KEYS);
            if matches!(entry.key.as_str(), "http" | "websocket") {
                for inner in entry.node.entries() {
                    check(&[&entry.key], &inner.key, &["route"]);
                }
            }
        }
        disallowed
    }

    fn add_routes(
        &mut self,
        document: &Arc<Document>,
        prefix: Option<&str>,
        http: Vec<Located<RawHttpRoute>>,
        websocket: Vec<Located<RawWebsocketRoute>>,
    ) {
        for Located { path, value } in http {
            let location = SourceLocation::of_path(document, path);
            let prefix = self.known_prefix(prefix, &location);
            let route = value.finish(location, prefix, &self.config.http, &mut self.problems);
            self.config.http_routes.push(route);
        }
        for Located { path, value } in websocket {
            let location = SourceLocation::of_path(document, path);
            let prefix = self.known_prefix(prefix, &location);
            let route = value.finish(location, prefix, &self.config.websocket, &mut self.problems);
            self.config.websocket_routes.push(route);
        }
    }

    /// After a prefix that could not be read, a route's path cannot be checked.
    fn known_prefix<'p>(&mut self, prefix: Option<&'p str>, location: &SourceLocation) -> &'p str {
        if prefix.is_none() {
            self.unread
                .extend([location.key("path"), location.key("regex")]);
        }
        prefix.unwrap_or(UNREAD_PREFIX)
    }
}

/// Returns the problem of a main file that cannot be read.
pub(in crate::config) fn unreadable(path: &Path, why: Unreadable) -> Problems {
    let document = Document::blank(&path.display().to_string(), &PathBuf::from("."));
    let hint = match why.kind {
        Some(ErrorKind::NotFound) => Some("`oneport init DIR` makes a new project".to_owned()),
        Some(ErrorKind::PermissionDenied) => Some(format!("is it readable for {}?", user())),
        Some(ErrorKind::IsADirectory) => {
            let file = path.join("oneport.toml");
            file.exists()
                .then(|| format!("write --config {}", file.display()))
        }
        _ => None,
    };
    let problem =
        Problem::error(SourceLocation::whole_file(&document), why.message).with_hint_if(hint);
    let mut problems = Problems::default();
    problems.push(problem);
    problems
}

/// Resolves the paths of unix sockets.
fn relative_to(base: &Path, bind: Vec<Listen>) -> Vec<Listen> {
    let resolved = bind.into_iter().map(|listen| Listen {
        address: listen.address.relative_to(base),
        ..listen
    });
    resolved.collect()
}
