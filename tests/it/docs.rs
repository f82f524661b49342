//! Docs: the pages in docs/ and the demo configuration agree with the code.
//!
//! The keys come from the code itself: a file with an unknown key in each section is rejected with
//! a list of the known ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here fails a test"
)]

mod architecture;
mod metrics;
mod operating;
mod readme;
mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oneport::config::{Config, Problem, Problems};
use oneport::gateway::{Registry, compile, compile_draft};
use oneport::middleware::Step;
use oneport::net::ConnectionCause;
use oneport::routing::RoutePattern;
use oneport::websocket::close::{Cause, CloseCode, Code};
use regex::Regex;

use crate::support::Directory;

/// A key that no section, view or consumer has.
const UNKNOWN: &str = "no_such_key";

/// A value that no key accepts, for keys that accept one of a few words.
const NO_WORD: &str = "no_such_word";

/// The sections whose defaults are in config/oneport.toml.
const SECTIONS: [&str; 16] = [
    "server",
    "server.limits",
    "server.timeouts",
    "server.drain",
    "log",
    "metrics",
    "tracing",
    "templates",
    "session",
    "session.django",
    "auth",
    "auth.django",
    "csrf",
    "channel_layer",
    "http",
    "websocket",
];

/// The sections whose presence has an effect: the demo has them in comments.
const OPTIONAL_SECTIONS: [&str; 4] = [
    "server.tls",
    "server.tls.acme",
    "auth.bearer",
    "auth.forward",
];

/// The keys that the demo sets to other values than the default, for its pages.
const SET_BY_THE_DEMO: [(&str, &str); 2] = [("http", "middleware"), ("http", "headers")];

type Words = BTreeSet<String>;

// --- The code
// ------------------------------------------------------------------------------------------------

/// Reads and compiles a file; returns all its Problems.
fn problems(text: &str) -> Problems {
    let outcome = Config::draft_of("oneport.toml", text, Path::new("."), &|_| None)
        .and_then(|draft| compile_draft(&draft, &Registry::builtin()));
    outcome.map_or_else(|problems| problems, |(_, warnings)| warnings)
}

/// The known keys at the place of the file's unknown one.
fn known_keys(text: &str) -> Words {
    let start = format!("unknown key \"{UNKNOWN}\"; ");
    let found = problems(text);
    let Some(problem) = found
        .iter()
        .find(|problem| problem.message().starts_with(&start))
    else {
        panic!("expected a Problem about the key {UNKNOWN:?} in\n{text}\nfound {found:?}");
    };
    problem.known().iter().cloned().collect()
}

fn keys_of_section(section: &str) -> Words {
    let mut keys = known_keys(&format!("[{section}]\n{UNKNOWN} = 1\n"));
    // The sections below it, and its routes, have tables of their own.
    keys.retain(|key| key != "route" && !is_section(&format!("{section}.{key}")));
    keys
}

fn is_section(name: &str) -> bool {
    SECTIONS.contains(&name) || OPTIONAL_SECTIONS.contains(&name)
}

fn keys_of_route(table: &str) -> Words {
    known_keys(&format!("[[{table}.route]]\n{UNKNOWN} = 1\n"))
}

fn keys_of_options(table: &str, target: &str, name: &str) -> Words {
    known_keys(&format!(
        "[[{table}.route]]\npath = \"/\"\n{target} = \"{name}\"\noptions = {{ {UNKNOWN} = 1 }}\n"
    ))
}

/// The words of a key that accepts one of a few.
fn words_of(section: &str, key: &str) -> Words {
    let quoted = Regex::new("\"([a-z_]+)\"").unwrap();
    problems(&format!("[{section}]\n{key} = \"{NO_WORD}\"\n"))
        .iter()
        .map(Problem::message)
        .filter(|sentence| sentence.ends_with(&format!("found {NO_WORD:?}")))
        .flat_map(|sentence| quoted.captures_iter(sentence))
        .map(|captures| captures[1].to_owned())
        .filter(|word| word != NO_WORD)
        .collect()
}

// --- The pages
// -------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every page of Markdown at the root, in docs/, examples/, benches/ and client/.
fn pages() -> Vec<String> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            } else if path.is_dir() && !path.ends_with("node_modules") && !path.ends_with("target")
            {
                below(&path, found);
            }
        }
    }
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| root().join(name))
        .to_vec();
    for directory in ["docs", "examples", "benches", "client"] {
        below(&root().join(directory), &mut found);
    }
    found
        .iter()
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect()
}

/// One row of a table: its cells, the first one without its backticks.
#[derive(Clone, Debug)]
struct Row {
    key: String,
    cells: Vec<String>,
}

/// The rows that begin with a word in backticks, by their heading.
fn tables(page: &str) -> BTreeMap<String, Vec<Row>> {
    let mut tables: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix('#') {
            heading = text.trim_start_matches('#').trim().replace('`', "");
            tables.entry(heading.clone()).or_default();
        } else if line.starts_with("| `") {
            let cells: Vec<String> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect();
            let key = cells[0].trim_matches('`').to_owned();
            tables
                .entry(heading.clone())
                .or_default()
                .push(Row { key, cells });
        }
    }
    tables
}

fn configuration() -> BTreeMap<String, Vec<Row>> {
    tables(&page("docs/CONFIGURATION.md"))
}

/// The rows under a heading.
fn rows<'t>(tables: &'t BTreeMap<String, Vec<Row>>, heading: &str) -> &'t [Row] {
    match tables.get(heading) {
        Some(rows) => rows,
        None => panic!("expected the heading {heading:?} in docs/CONFIGURATION.md, found none"),
    }
}

fn keys(rows: &[Row]) -> Words {
    let keys: Words = rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(keys.len(), rows.len(), "a key stands twice in {rows:?}");
    keys
}

/// The headings with this prefix, without it.
fn headings(tables: &BTreeMap<String, Vec<Row>>, start: &str) -> Words {
    tables
        .keys()
        .filter_map(|heading| heading.strip_prefix(start))
        .map(str::to_owned)
        .collect()
}

// --- Claims: docs/CONFIGURATION.md
// --------------------------------------------------------------------------------------

#[test]
fn each_limit_of_the_server_is_in_the_tables_of_limits_and_deadlines() {
    let page = page("docs/BEHAVIOUR.md");
    let (_, rest) = page.split_once("\n## Limits\n").unwrap();
    let (tables, _) = rest.split_once("\n## Groups\n").unwrap();
    let missing: Vec<_> = keys_of_section("server.limits")
        .into_iter()
        .filter(|key| {
            !tables.contains(&format!("`{key}`")) && !tables.contains(&format!("`limits.{key}`"))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_the_sections_is_explained_and_no_other() {
    let tables = configuration();
    let top = known_keys(&format!("{UNKNOWN} = 1\n"));
    assert_eq!(keys(rows(&tables, "The main file")), top, "the main file");
    for section in SECTIONS.into_iter().chain(OPTIONAL_SECTIONS) {
        let explained = keys(rows(&tables, &format!("[{section}]")));
        assert_eq!(explained, keys_of_section(section), "[{section}]");
    }
}

#[test]
fn every_key_of_the_routes_is_explained_and_no_other() {
    let tables = configuration();
    for table in ["http", "websocket"] {
        let own = keys(rows(&tables, &format!("[[{table}.route]]")));
        let shared = keys(rows(&tables, &format!("[{table}]")));
        let both: Words = own.union(&shared).cloned().collect();
        assert!(own.is_disjoint(&shared), "[[{table}.route]]");
        assert_eq!(both, keys_of_route(table), "[[{table}.route]]");
    }
}

#[test]
fn every_key_of_an_included_file_is_explained() {
    let directory = Directory::new().with("included.toml", format!("{UNKNOWN} = 1\n"));
    let refused = Config::parse(
        "oneport.toml",
        "include = [\"included.toml\"]\n",
        directory.as_path(),
        &|_| None,
    )
    .unwrap_err();
    let sentence = refused.to_string();
    let (_, list) = sentence.split_once("it may hold ").unwrap();
    let list = list.split_once(" (").map_or(list, |(list, _)| list);
    let known: Words = list
        .replace(" and ", ", ")
        .split(", ")
        .map(str::to_owned)
        .collect();
    assert_eq!(keys(rows(&configuration(), "An included file")), known);
}

#[test]
fn every_view_and_consumer_is_explained_with_all_its_options() {
    let tables = configuration();
    let registry = Registry::builtin();
    let views: Words = registry.view_names().map(str::to_owned).collect();
    let consumers: Words = registry.consumer_names().map(str::to_owned).collect();
    assert_eq!(headings(&tables, "View "), views);
    assert_eq!(headings(&tables, "Consumer "), consumers);
    for view in views {
        let explained = keys(rows(&tables, &format!("View {view}")));
        assert_eq!(explained, keys_of_options("http", "view", &view), "{view}");
    }
    for consumer in consumers {
        let explained = keys(rows(&tables, &format!("Consumer {consumer}")));
        let known = keys_of_options("websocket", "consumer", &consumer);
        assert_eq!(explained, known, "{consumer}");
    }
}

#[test]
fn every_middleware_and_converter_is_explained() {
    let tables = configuration();
    let middleware: Words = Step::NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(keys(rows(&tables, "Middleware")), middleware);
    let refused = RoutePattern::path(&format!("/{{x:{NO_WORD}}}/")).unwrap_err();
    let (_, list) = refused.expected.split_once('(').unwrap();
    let converters: Words = list
        .trim_end_matches(')')
        .split(", ")
        .map(str::to_owned)
        .collect();
    assert_eq!(keys(rows(&tables, "Converters")), converters);
}

#[test]
fn every_word_that_a_key_takes_is_named_beside_it() {
    let tables = configuration();
    let mut checked = 0;
    for section in SECTIONS {
        for row in rows(&tables, &format!("[{section}]")) {
            for word in words_of(section, &row.key) {
                let is_named = row
                    .cells
                    .iter()
                    .any(|cell| cell.contains(&format!("`\"{word}\"`")));
                assert!(is_named, "{section}.{} takes {word:?}: {row:?}", row.key);
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "only {checked} words were found");
}

#[test]
fn every_default_is_the_one_of_the_demo() {
    let tables = configuration();
    let demo = demo();
    for section in SECTIONS {
        let written = section
            .split('.')
            .try_fold(&demo, |table, key| table.get(key)?.as_table())
            .unwrap_or_else(|| panic!("expected [{section}] in config/oneport.toml, found none"));
        for row in rows(&tables, &format!("[{section}]")) {
            let cell = &row.cells[2];
            // "as `server.limits.body_size`": the default is another key's value.
            let literal = match cell.strip_prefix("as `") {
                Some(other) => {
                    let (section, key) = other.trim_end_matches('`').rsplit_once('.').unwrap();
                    let others = rows(&tables, &format!("[{section}]"));
                    &others.iter().find(|row| row.key == key).unwrap().cells[2]
                }
                None => cell,
            };
            let explained = value(literal.trim_matches('`'));
            if SET_BY_THE_DEMO.contains(&(section, row.key.as_str())) {
                assert_ne!(Some(&explained), written.get(&row.key));
                continue;
            }
            assert_eq!(
                Some(&explained),
                written.get(&row.key),
                "{section}.{}",
                row.key
            );
        }
    }
}

fn value(literal: &str) -> toml::Value {
    let table: toml::Table = format!("value = {literal}")
        .parse()
        .unwrap_or_else(|error| panic!("expected a value of TOML, found {literal:?}: {error}"));
    table["value"].clone()
}

// --- Claims: config/oneport.toml
// ----------------------------------------------------------------------------------------

/// The demo's text with its commented keys, and without its routes.
fn demo_sections() -> String {
    let commented = Regex::new(r"(?m)^# ([a-z_]+ +=)").unwrap();
    let text = page("config/oneport.toml");
    let text = commented.replace_all(&text, "$1");
    let mut is_route = false;
    let lines = text.lines().filter(|line| {
        if line.starts_with('[') {
            is_route = line.starts_with("[[");
        }
        !is_route
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn demo() -> toml::Table {
    demo_sections().parse().unwrap()
}

#[test]
fn demo_holds_every_key_of_every_section() {
    let demo = demo();
    for section in SECTIONS {
        let written = section
            .split('.')
            .try_fold(&demo, |table, key| table.get(key)?.as_table())
            .unwrap_or_else(|| panic!("expected [{section}] in config/oneport.toml, found none"));
        let mut written: Words = written.keys().cloned().collect();
        written.retain(|key| !is_section(&format!("{section}.{key}")));
        assert_eq!(written, keys_of_section(section), "[{section}]");
    }
}

#[test]
fn demo_holds_the_optional_sections_in_comments() {
    let text = page("config/oneport.toml");
    for section in OPTIONAL_SECTIONS {
        let (_, body) = text.split_once(&format!("\n#[{section}]\n")).unwrap();
        let body: Words = body
            .lines()
            .take_while(|line| line.starts_with('#') && !line.starts_with("#["))
            .filter_map(|line| Some(line.strip_prefix('#')?.split_once('=')?.0.trim().to_owned()))
            .collect();
        assert_eq!(body, keys_of_section(section), "[{section}]");
    }
}

#[test]
fn demo_means_the_same_as_an_empty_file() {
    let read = |text: &str| {
        Config::parse("oneport.toml", text, Path::new("config"), &|_| None)
            .unwrap_or_else(|problems| panic!("{problems}"))
            .0
    };
    let (demo, mut empty) = (read(&demo_sections()), read(""));
    // The two keys whose default is another key's value.
    empty.http.body_size = Some(empty.server.limits.body_size);
    empty.http.request_timeout = Some(empty.server.timeouts.request);
    empty.http.middleware.clone_from(&demo.http.middleware);
    empty.http.headers.clone_from(&demo.http.headers);
    assert_eq!(demo.session, empty.session);
    assert_eq!(demo.auth, empty.auth);
    assert_eq!(demo.server, empty.server);
    assert_eq!(demo.log, empty.log);
    assert_eq!(demo.metrics, empty.metrics);
    assert_eq!(demo.tracing, empty.tracing);
    assert_eq!(demo.templates, empty.templates);
    assert_eq!(demo.csrf, empty.csrf);
    assert_eq!(demo.channel_layer, empty.channel_layer);
    assert_eq!(demo.http, empty.http);
    assert_eq!(demo.websocket, empty.websocket);
}

#[test]
fn demo_is_in_order() {
    let file = root().join("config/oneport.toml");
    let (config, warnings) = Config::load(&file, &|_| None).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    let (_, warnings) = compile(&config, &Registry::builtin()).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
}

// --- Claims: the other pages
// --------------------------------------------------------------------------------------------

/// Every quoted text that the pattern finds in a source file.
fn words_in_source(file: &str, pattern: &str) -> Words {
    let text = page(file);
    Regex::new(pattern)
        .unwrap()
        .captures_iter(&text)
        .map(|captures| captures[1].to_owned())
        .collect()
}

/// The table of src/websocket/close.rs against the page: causes, codes and reasons.
#[test]
fn close_codes_and_reasons_are_those_of_the_code() {
    let number = Regex::new(r"\b[0-9]{4}\b").unwrap();
    let quoted = Regex::new("`([^`]+)`").unwrap();
    let mut codes: BTreeMap<&str, Words> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, Words> = BTreeMap::new();
    for cause in Cause::ALL {
        let codes = codes.entry(cause.as_str()).or_default();
        codes.insert(match cause.code() {
            Code::Fixed(code) | Code::Fallback(code) | Code::NotSent(code) => code.to_string(),
            Code::Chosen => CloseCode::NO_STATUS.to_string(),
        });
        let reasons = reasons.entry(cause.as_str()).or_default();
        reasons.extend(Some(cause.reason().to_owned()).filter(|reason| !reason.is_empty()));
    }
    let rows = &tables(&page("docs/BEHAVIOUR.md"))["Causes and close codes"];
    assert_eq!(
        keys(rows),
        codes.keys().map(|label| (*label).to_owned()).collect()
    );
    for row in rows {
        let label = row.key.as_str();
        let listed: Words = number
            .find_iter(&row.cells[1])
            .map(|found| found.as_str().to_owned())
            .collect();
        assert_eq!(listed, codes[label], "the codes of {label}");
        let listed: Words = quoted
            .captures_iter(&row.cells[2])
            .map(|found| found[1].to_owned())
            .collect();
        assert_eq!(listed, reasons[label], "the reasons of {label}");
        let mut remedies: Vec<&str> = Cause::with_label(label)
            .map(|cause| cause.explanation().remedy)
            .collect();
        remedies.dedup();
        assert_eq!(row.cells[4], remedies.join(" "), "what to do about {label}");
    }
}

#[test]
fn every_end_of_a_connection_is_explained_and_no_other() {
    let rows = &tables(&page("docs/BEHAVIOUR.md"))["Connections that end before a request"];
    let listed = rows.iter().map(|row| {
        let mut cells = row.cells.clone();
        cells[0].clone_from(&row.key);
        cells
    });
    let expected = ConnectionCause::ALL.iter().map(|cause| {
        let cause = cause.explanation();
        let answer = cause
            .status
            .map_or_else(|| "none".to_owned(), |status| status.to_string());
        let words = [cause.cause, &answer, cause.happened, cause.remedy];
        words.map(str::to_owned).to_vec()
    });
    assert_eq!(listed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn acceptance_cases_are_all_answered() {
    let text = page("docs/BEHAVIOUR.md");
    let (_, table) = text
        .split_once("## Where we differ from Channels and Daphne")
        .unwrap();
    let number = Regex::new(r"(?m)^\| (\d+) \|").unwrap();
    let numbers: Vec<u32> = number
        .captures_iter(table)
        .map(|captures| captures[1].parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=82).collect::<Vec<_>>());
}

/// The anchor of a heading on GitHub.
fn anchor(heading: &str) -> String {
    let kept = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    let lower = heading.trim().to_lowercase().replace(' ', "-");
    lower.chars().filter(|letter| kept(*letter)).collect()
}

#[test]
fn links_between_the_pages_lead_to_a_file_and_a_heading() {
    let link = Regex::new(r"\]\(([^)#:]*)(?:#([^)]*))?\)").unwrap();
    let mut checked = 0;
    for name in pages() {
        let text = page(&name);
        let directory = root().join(&name).parent().unwrap().to_owned();
        for captures in link.captures_iter(&text) {
            let target = match &captures[1] {
                "" => root().join(&name),
                file => directory.join(file),
            };
            assert!(target.exists(), "{name}: {}", &captures[1]);
            if let Some(wanted) = captures.get(2) {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let is_there =
                    headings.any(|line| anchor(line.trim_start_matches('#')) == wanted.as_str());
                assert!(is_there, "{name}: {}", &captures[0]);
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} links were found");
}

#[test]
fn readme_shows_a_consumer_that_compiles() {
    let source = include_str!("docs/readme.rs");
    let (_, code) = source.split_once("\n\n").unwrap();
    let (code, _) = code.split_once("\n// --- End").unwrap();
    let readme = page("README.md");
    assert!(
        readme.contains(&format!("```rust\n{code}```")),
        "expected this consumer in README.md:\n{code}"
    );
}

#[test]
fn readme_names_every_view_consumer_and_middleware() {
    let readme = page("README.md");
    let quoted = Regex::new("`([a-z_]+)`").unwrap();
    let listed = |start: &str| -> Words {
        let (_, list) = readme.split_once(&format!("\n- {start}: ")).unwrap();
        let end = list.find("\n- ").unwrap();
        let found = quoted.captures_iter(&list[..end]);
        found.map(|captures| captures[1].to_owned()).collect()
    };
    let registry = Registry::builtin();
    let views: Words = registry.view_names().map(str::to_owned).collect();
    let consumers: Words = registry.consumer_names().map(str::to_owned).collect();
    let middleware: Words = Step::NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(listed("views"), views);
    assert_eq!(listed("consumers"), consumers);
    assert_eq!(listed("middleware"), middleware);
}

/// The file in README.md is sound, and with the typo that the page describes has the Problem that
/// it shows.
#[test]
fn readme_shows_the_problem_of_its_own_file() {
    let readme = page("README.md");
    let (_, rest) = readme.split_once("## The file\n\n```toml\n").unwrap();
    let (file, rest) = rest.split_once("```").unwrap();
    let (_, rest) = rest.split_once("```\n").unwrap();
    let (shown, _) = rest.split_once("\n```").unwrap();
    let found = |text: &str| {
        let directory = root().join("config");
        let text = format!("{text}\n[templates]\ndir = \"../templates\"\n");
        Config::draft_of("config/oneport.toml", &text, &directory, &|_| None)
            .and_then(|draft| compile_draft(&draft, &Registry::builtin()))
            .map_or_else(|problems| problems, |(_, warnings)| warnings)
            .to_string()
    };
    assert_eq!(found(file), "");
    let misspelt = file.replace("consumer    = \"chat\"", "consumer    = \"caht\"");
    assert_eq!(found(&misspelt).trim_end(), shown);
}
