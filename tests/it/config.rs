//! Config: every shipped file is sound, and every broken one has its Problems.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use oneport::config::{Config, OptionErrors, Problems};
use oneport::gateway::{Registry, Table, compile_draft};
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::middleware::Middleware;
use oneport::websocket::{Close, Consumer, Context, Message};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A view and a consumer in place of those that the examples register.
struct Any;

impl View for Any {
    type Options = serde_json::Value;

    fn new(_: serde_json::Value) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, _: Request) -> Result<Response, Failure> {
        Ok(respond(200, "text/plain", ""))
    }
}

impl Middleware for Any {
    type Options = serde_json::Value;

    fn new(_: serde_json::Value) -> Result<Self, OptionErrors> {
        Ok(Self)
    }
}

impl Consumer for Any {
    type Options = serde_json::Value;

    fn new(_: &serde_json::Value) -> Self {
        Self
    }

    async fn receive(&mut self, _: &mut Context<'_>, _: Message) -> Result<(), Close> {
        Ok(())
    }
}

fn toml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(directory))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

fn load(file: &Path, registry: &Registry) -> Result<(Table, Problems), Problems> {
    compile_draft(&Config::draft(file, &|_| None)?, registry)
}

#[test]
fn every_file_that_is_shipped_is_sound() {
    let registry = Registry::builtin()
        .view::<Any>("hello")
        .consumer::<Any>("tutorial")
        .view::<Any>("visits")
        .consumer::<Any>("visits")
        .middleware::<Any>("tenant");
    let folders = ["config", "config/debian", "config/docker", "examples"];
    let files = folders.map(toml_files).concat();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let (_, warnings) = load(&file, &registry).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(warnings.is_empty(), "{warnings}");
    }
}

/// Reads and compiles `config/refused/*.toml`; `ONEPORT_BLESS=1` writes their Problems next to
/// them.
#[test]
fn every_refused_file_has_its_problems() {
    let mut differences = String::new();
    let files = toml_files("tests/it/config/refused");
    assert!(files.len() >= 15, "found {} files", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let outcome = Config::draft_of(&name, &text, file.parent().unwrap(), &|_| None)
            .and_then(|draft| compile_draft(&draft, &Registry::builtin()));
        let found = outcome
            .map_or_else(|problems| problems, |(_, warnings)| warnings)
            .to_string()
            .replace(&root().display().to_string(), "ROOT");
        let beside = file.with_extension("txt");
        if std::env::var_os("ONEPORT_BLESS").is_some() {
            fs::write(&beside, format!("{}\n", found.trim_end())).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found.trim_end() != expected.trim_end() || expected.trim().is_empty() {
            let _ = write!(
                differences,
                "{name}\n--- expected\n{expected}\n--- found\n{found}\n\n"
            );
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
