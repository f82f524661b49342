//! Layers: imports point one way, and each outside technology is named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The modules from the top layer to the bottom. A module uses those of lower layers, and its own
/// folder. docs/ARCHITECTURE.md shows this table.
pub(crate) const LAYERS: [&[&str]; 15] = [
    &["main"],
    &["cli", "fuzzing"],
    &["server", "testing"],
    &["gateway"],
    &["middleware"],
    &["websocket"],
    &["http"],
    &["cluster", "stats", "upstream"],
    &["group_pattern", "scope", "services"],
    &[
        "routing",
        "host",
        "session",
        "auth",
        "channels",
        "templates",
    ],
    &[
        "acme",
        "database",
        "otlp",
        "ttl_cache",
        "secrets",
        "queued_bytes",
        "reload_handle",
    ],
    &["client"],
    &["config"],
    &["net"],
    &[
        "atomic_file",
        "file_stamp",
        "first_items",
        "clock",
        "close_code",
        "pace",
        "tasks",
        "text",
        "state",
        "timestamp",
        "telemetry",
        "rate_limiter",
    ],
];

/// A module that uses another one of its layer, with the reason.
pub(crate) const SIBLINGS: [(&str, &str, &str); 5] = [
    ("testing", "server", "the live server is a server"),
    ("group_pattern", "scope", "a pattern is filled from a scope"),
    ("channels", "auth", "a group knows its members' users"),
    ("auth", "session", "a session holds the login"),
    ("clock", "tasks", "`Tasks` owns the clock's task"),
];

/// The only files and folders that may name a crate.
pub(crate) const OUTSIDE: &[(&str, &[&str])] = &[
    (
        "tungstenite",
        &["text.rs", "websocket/", "testing/websocket.rs"],
    ),
    ("clap_mangen", &["cli/man.rs"]),
    ("mlua", &["testing/simulation/redis/lua.rs"]),
    (
        "h2",
        &[
            "client/http2/",
            "server/connection_errors.rs",
            "server/hyper_tasks.rs",
        ],
    ),
    ("matchit", &["routing/"]),
    ("regex_automata", &["routing/language.rs"]),
    ("sqlx", &["database/"]),
    (
        "redis",
        &["session/store/django/mod.rs", "channels/remote/"],
    ),
    ("rustls", &["net/tls/"]),
    ("tokio_rustls", &["net/tls/"]),
    ("x509_parser", &["net/tls/"]),
    ("rcgen", &["acme/", "cli/dev_cert/", "net/tls/"]),
    ("instant_acme", &["acme/"]),
    ("opentelemetry_proto", &["otlp/"]),
    ("prost", &["otlp/"]),
    ("crc", &["channels/remote/"]),
    ("aes", &["channels/remote/fernet.rs"]),
    ("cbc", &["channels/remote/fernet.rs"]),
    ("argon2", &["auth/password.rs"]),
    ("pbkdf2", &["auth/password.rs"]),
    ("scrypt", &["auth/password.rs"]),
    ("bcrypt", &["auth/password.rs"]),
    (
        "unicode_normalization",
        &["auth/login_rate_limit/normalize.rs"],
    ),
    ("jsonwebtoken", &["auth/bearer/"]),
    ("minijinja", &["templates.rs"]),
    ("annotate_snippets", &["config/problems/snippet.rs"]),
    ("toml", &["config/"]),
    ("jiff", &["config/values/time_zone.rs"]),
    ("nix", &["net/"]),
    ("ppp", &["net/proxy_protocol.rs", "net/proxy_protocol/"]),
    ("mime_guess", &["http/views/static_files/"]),
    (
        "libc",
        &[
            "cli/top/terminal.rs",
            "net/send_file.rs",
            "net/socket_access.rs",
            "http/views/static_files/refusal.rs",
            "server/signals.rs",
            "telemetry/log_file.rs",
        ],
    ),
    (
        "rustix",
        &[
            "net/send_file.rs",
            "net/descriptor_passing.rs",
            "http/open_file.rs",
            "http/views/static_files/",
            "server/restart/old_process.rs",
            "server/systemd.rs",
        ],
    ),
    ("brotli", &["middleware/compress/encoder.rs"]),
    ("zstd", &["middleware/compress/encoder.rs"]),
    ("quick_cache", &["http/views/static_files/cache.rs"]),
    ("clap", &["cli/"]),
    ("ratatui", &["cli/top/"]),
    ("listenfd", &["net/"]),
    ("socket2", &["net/"]),
    ("url", &["net/url/"]),
    ("tracing_subscriber", &["telemetry/"]),
];

fn sources() -> Vec<(String, String)> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                below(&entry.path(), found);
            } else if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "rs")
            {
                found.push(entry.path());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    below(&root, &mut files);
    files
        .into_iter()
        .map(|file| {
            (
                file.strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
                fs::read_to_string(&file).unwrap(),
            )
        })
        .collect()
}

/// The code without its comments.
fn code(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn imports_point_down_the_layers() {
    let layer_of: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(at, names)| names.iter().map(move |name| (*name, at)))
        .collect();
    let used = Regex::new(r"\bcrate::([a-z_]+)").unwrap();
    let mut wrong = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file != "lib.rs") {
        let own = file.split(['/', '.']).next().unwrap();
        let own_layer = layer_of
            .get(own)
            .unwrap_or_else(|| panic!("src/{file} stands in no layer"));
        for found in used.captures_iter(&code(text)) {
            let other = found.get(1).unwrap().as_str();
            let Some(layer) = layer_of.get(other) else {
                continue;
            };
            let is_sibling = SIBLINGS
                .iter()
                .any(|(one, two, _)| *one == own && *two == other);
            if other != own && layer <= own_layer && !is_sibling {
                wrong.push(format!("src/{file} uses {other}"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_outside_technology_is_named_in_its_own_place() {
    let mut wrong = Vec::new();
    // The first name of a path: `net::url::Url` names no crate.
    let path = Regex::new(r"(?:^|[^:\w])(?:::)?([a-z][a-z0-9_]*)::").unwrap();
    for (file, text) in &sources() {
        let code = code(text);
        let named: BTreeSet<&str> = path
            .captures_iter(&code)
            .map(|found| found.get(1).unwrap().as_str())
            .collect();
        for (name, places) in OUTSIDE {
            let is_own_module = code.contains(&format!("mod {name};"));
            if named.contains(name)
                && !is_own_module
                && !places
                    .iter()
                    .any(|place| file == place || (place.ends_with('/') && file.starts_with(place)))
            {
                wrong.push(format!("src/{file} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_have_one_subject_and_under_five_hundred_lines_of_code() {
    let lines = |text: &str| {
        text.split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .lines()
            .count()
    };
    let long: Vec<String> = sources()
        .iter()
        .filter(|(file, text)| !file.ends_with("/tests.rs") && lines(text) > 500)
        .map(|(file, text)| format!("src/{file}: {}", lines(text)))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
    let untold: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(file, _)| file)
        .collect();
    assert!(untold.is_empty(), "{untold:#?}");
}

/// Folders whose files import each other without a cycle.
const ACYCLIC: &[&str] = &["channels", "gateway", "middleware"];

/// A file as a module: its path from the crate's root, what its code imports, and what it makes
/// known under which name.
struct Module {
    file: String,
    path: Vec<String>,
    /// Paths that the code uses, but for those that it only passes on (`pub use`).
    uses: Vec<Vec<String>>,
    /// The names that `use` brings into the module, and their paths.
    names: BTreeMap<String, Vec<String>>,
}

impl Module {
    fn new(file: &str, text: &str) -> Self {
        let stem = file.strip_suffix(".rs").unwrap();
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let mut module = Self {
            file: file.to_owned(),
            path: stem.split('/').map(str::to_owned).collect(),
            uses: Vec::new(),
            names: BTreeMap::new(),
        };
        let tests = Regex::new(r"(?s)#\[cfg\(test\)\]\s*mod \w+ \{.*").unwrap();
        let code = code(text);
        let code = tests.replace(&code, "");
        let statement = Regex::new(r"(?s)\b(pub(?:\([^)]*\))?\s+)?use ([^;]+);").unwrap();
        for found in statement.captures_iter(&code) {
            let is_passed_on = found.get(1).is_some();
            for (path, name) in imports(&found[2]) {
                if !is_passed_on {
                    module.uses.push(path.clone());
                }
                module.names.insert(name, path);
            }
        }
        let rest = statement.replace_all(&code, "");
        let inline = Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap();
        for found in inline.find_iter(&rest) {
            let path = found.as_str().split("::").map(str::to_owned);
            module.uses.push(path.collect());
        }
        module
    }
}

/// The paths that the tree of a `use` stands for, and the name that each gets.
fn imports(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree));
        let path: Vec<String> = path
            .split("::")
            .map(|part| part.trim().to_owned())
            .collect();
        let name = name.rsplit("::").next().unwrap().trim().to_owned();
        return vec![(path, name)];
    };
    let prefix: Vec<String> = prefix
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let group = group.strip_suffix('}').unwrap();
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    let below = parts.flat_map(imports).map(|(path, name)| {
        let is_self = path == ["self"];
        let name = if is_self {
            prefix.last().unwrap().clone()
        } else {
            name
        };
        let path = path.into_iter().filter(|_| !is_self);
        (prefix.iter().cloned().chain(path).collect(), name)
    });
    below.collect()
}

/// The module that defines what a path names, seen from a module; `None` outside the given ones.
fn defining<'m>(
    modules: &'m BTreeMap<Vec<String>, Module>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<&'m Module> {
    let mut at = from.path.clone();
    let mut path = path;
    match path.first()?.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            while path.first().is_some_and(|part| part == "super") {
                at.pop();
                path = &path[1..];
            }
            return walk(modules, at, path, depth);
        }
        first => {
            at.push(first.to_owned());
            if !modules.contains_key(&at) {
                return None; // a crate
            }
        }
    }
    walk(modules, at, &path[1..], depth)
}

fn walk<'m>(
    modules: &'m BTreeMap<Vec<String>, Module>,
    mut at: Vec<String>,
    path: &[String],
    depth: usize,
) -> Option<&'m Module> {
    for part in path {
        at.push(part.clone());
        if modules.contains_key(&at) {
            continue;
        }
        at.pop();
        let Some(module) = modules.get(&at) else {
            at.push(part.clone()); // above the folder: `crate::channels`
            continue;
        };
        // A name that the module has imported, or passes on, is defined elsewhere.
        return match module.names.get(part) {
            Some(path) if depth > 0 => defining(modules, module, path, depth - 1),
            _ => Some(module),
        };
    }
    modules.get(&at)
}

/// A cycle in a graph, as the files on it.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        file: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|before| before == file) {
            return Some(way[at..].to_vec());
        }
        if done.contains(file) {
            return None;
        }
        way.push(file.to_owned());
        for next in &graph[file] {
            if let Some(found) = visit(next, graph, way, done) {
                return Some(found);
            }
        }
        way.pop();
        done.insert(file.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|file| visit(file, graph, &mut Vec::new(), &mut done))
}

/// Every `use` and every path counts, but for tests, `mod` lines, and what a module file only
/// passes on. An import through such a re-export counts as one of the file that defines the name.
#[test]
fn files_of_a_folder_import_each_other_without_a_cycle() {
    for folder in ACYCLIC {
        let prefix = format!("{folder}/");
        let modules: BTreeMap<Vec<String>, Module> = sources()
            .iter()
            .filter(|(file, _)| file.starts_with(&prefix) && !file.ends_with("tests.rs"))
            .map(|(file, text)| Module::new(file, text))
            .map(|module| (module.path.clone(), module))
            .collect();
        let graph: BTreeMap<String, BTreeSet<String>> = modules
            .values()
            .map(|module| {
                let uses = module.uses.iter();
                let files = uses
                    .filter_map(|path| defining(&modules, module, path, 8))
                    .map(|found| found.file.clone())
                    .filter(|file| *file != module.file);
                (module.file.clone(), files.collect())
            })
            .collect();
        assert!(graph.values().any(|files| !files.is_empty()), "{graph:#?}");
        assert_eq!(cycle(&graph), None, "a cycle of imports in src/{folder}/");
    }
}

#[test]
fn remote_names_no_type_of_the_layer_above_it() {
    let named: Vec<String> = sources()
        .into_iter()
        .filter(|(file, text)| {
            file.starts_with("channels/remote/") && code(text).contains("ChannelLayer")
        })
        .filter(|(_, text)| {
            let layer = Regex::new(r"\bChannelLayer\b").unwrap();
            layer.is_match(&code(text))
        })
        .map(|(file, _)| file)
        .collect();
    assert!(named.is_empty(), "{named:#?}");
}

/// Where a close code is named, with the reason.
const CLOSE_CODES: [(&str, &str); 9] = [
    ("config/sections/drain.rs", "the default of `drain.code`"),
    ("websocket/close.rs", "the table of causes"),
    ("websocket/frame.rs", "1005 is sent as an empty payload"),
    (
        "websocket/decoder/partial.rs",
        "an empty payload is read as 1005",
    ),
    ("websocket/consumers/feed.rs", "a consumer chooses its code"),
    (
        "websocket/consumers/proxy/tunnel.rs",
        "the code of the other side's close frame passes",
    ),
    (
        "websocket/consumers/backend/handshake.rs",
        "reported for a socket that never opened",
    ),
    ("http/views/publish/calls.rs", "a caller chooses its code"),
    ("testing/websocket.rs", "the client's side"),
];

#[test]
fn close_codes_are_picked_in_one_table() {
    let named = Regex::new(r"\bCloseCode::[A-Z_]{2,}\b").unwrap();
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(file, text)| {
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            !file.ends_with("tests.rs") && named.is_match(&code(text))
        })
        .map(|(file, _)| file)
        .collect();
    let allowed = CLOSE_CODES.map(|(file, _)| file.to_owned());
    assert_eq!(found, BTreeSet::from(allowed));
}
