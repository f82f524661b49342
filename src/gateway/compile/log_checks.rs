//! Log checks: the level, the directories of the files, and settings of the access log that do
//! nothing.

use std::path::Path;

use super::compiler::Compiler;
use crate::config::Problem;
use crate::telemetry::{self, AccessFormat};

impl Compiler<'_> {
    pub(super) fn check_log(&mut self) {
        let log = &self.config.log;
        let location = |key| log.location.key(key);
        if let Err(error) = telemetry::check_level(&log.level) {
            let message = format!(
                "expected a level (error, warn, info, debug, trace) or directives such as \"info,oneport::websocket=debug\", found {:?}: {error}",
                log.level
            );
            self.problems
                .push(Problem::error(location("level"), message));
        }
        for (key, path) in [("file", &log.file), ("access_file", &log.access_file)] {
            if let Some(why) = path.0.as_deref().and_then(why_no_file) {
                self.problems.push(Problem::error(location(key), why));
            }
        }
        let is_line = matches!(log.access_format, AccessFormat::Template(_));
        if is_line && !log.access_fields.0.is_empty() {
            let message = "the fields of this access_format are in its line";
            let hint = "access_fields is for \"text\" and \"json\"";
            let problem = Problem::error(location("access_fields"), message);
            self.problems.push(problem.with_hint(hint));
        }
        if !log.access && log.access_file.0.is_some() {
            let message = "access_file has no effect: access = false";
            self.problems
                .push(Problem::warning(location("access_file"), message));
        }
    }
}

/// Returns why a path cannot be the file of a log. Other reasons show when it is opened.
fn why_no_file(path: &Path) -> Option<String> {
    if path.is_dir() {
        let path = path.display();
        return Some(format!("expected a file, found a directory at {path}"));
    }
    let directory = path.parent()?;
    let is_missing = !directory.as_os_str().is_empty() && !directory.is_dir();
    let directory = directory.display();
    is_missing.then(|| format!("expected a directory for the file, found none at {directory}"))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::gateway::{Registry, compile};

    #[test]
    fn files_that_cannot_be_and_settings_without_effect_are_named_with_their_place() {
        for (log, expected) in [
            (
                "file = 'missing/a.log'",
                "log.file: expected a directory for the file",
            ),
            (
                "access_file = '.'",
                "log.access_file: expected a file, found a directory",
            ),
            (
                "access_format = 'common'\naccess_fields = ['status']",
                "log.access_fields: the fields of this access_format are in its line",
            ),
        ] {
            let text = format!("[log]\n{log}\n");
            let (config, _) = Config::parse("a.toml", &text, ".".as_ref(), &|_| None).unwrap();
            let problems = compile(&config, &Registry::builtin()).unwrap_err();
            let problems = problems.to_string();
            assert!(problems.contains(expected), "{problems}");
            assert!(problems.starts_with("a.toml:"), "{problems}");
        }
        let text = "[log]\naccess = false\naccess_file = 'a.log'\n";
        let (config, _) = Config::parse("a.toml", text, ".".as_ref(), &|_| None).unwrap();
        let (_, warnings) = compile(&config, &Registry::builtin()).unwrap();
        assert!(
            warnings.to_string().contains("access_file has no effect"),
            "{warnings}"
        );
    }
}
