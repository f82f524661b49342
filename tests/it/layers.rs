//! Layers: imports point one way, and each outside technology is named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The modules from the top layer to the bottom. A module uses those of lower layers, and its own
/// folder. docs/ARCHITECTURE.md shows this table.
pub(crate) const LAYERS: [&[&str]; 14] = [
    &["main"],
    &["cli"],
    &["server", "testing"],
    &["gateway"],
    &["middleware"],
    &["websocket"],
    &["http"],
    &["group_pattern", "scope", "services"],
    &[
        "routing",
        "host",
        "session",
        "auth",
        "channels",
        "templates",
    ],
    &["database", "ttl_cache", "secrets", "queued_bytes"],
    &["client"],
    &["config"],
    &["net"],
    &[
        "clock",
        "close_code",
        "tasks",
        "text",
        "timestamp",
        "telemetry",
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
    ("matchit", &["routing/"]),
    ("regex_automata", &["routing/language.rs"]),
    ("sqlx", &["database/"]),
    (
        "redis",
        &["session/store/django/mod.rs", "channels/remote/"],
    ),
    ("rustls", &["net/tls.rs"]),
    ("tokio_rustls", &["net/tls.rs"]),
    (
        "rmp_serde",
        &["channels/remote/channels_redis_codec/mod.rs"],
    ),
    ("rmpv", &["channels/remote/channels_redis_codec/mod.rs"]),
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
    ("toml", &["config/"]),
    ("jiff", &["config/values/time_zone.rs"]),
    ("nix", &["net/"]),
    ("mime_guess", &["http/views/static_files/"]),
    (
        "libc",
        &["http/views/static_files/file.rs", "server/signals.rs"],
    ),
    ("clap", &["cli/"]),
    ("listenfd", &["net/"]),
    ("socket2", &["net/"]),
    ("url", &["net/url/"]),
    ("metrics_exporter_prometheus", &["telemetry/"]),
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
            if named.contains(name)
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
