//! Log checks: the level, the directories of the files, settings of the access log that do nothing,
//! and fields that it hides.

use std::path::Path;

use super::compiler::Compiler;
use crate::config::Problem;
use crate::telemetry::{self, AccessFormat, AccessTemplate};

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
        self.warn_of_hidden_fields();
        if !log.access && log.access_file.0.is_some() {
            let message = "access_file has no effect: access = false";
            self.problems
                .push(Problem::warning(location("access_file"), message));
        }
    }

    fn warn_of_hidden_fields(&mut self) {
        let log = &self.config.log;
        let (fields, format) = (
            log.location.key("access_fields"),
            log.location.key("access_format"),
        );
        let listed = log.access_fields.0.iter().enumerate();
        let listed = listed.map(|(at, field)| (fields.index(at), field));
        let template = match &log.access_format {
            AccessFormat::Template(template) => Some(template),
            _ => None,
        };
        let braced = template.into_iter().flat_map(AccessTemplate::fields);
        let named = listed.chain(braced.map(|field| (format.clone(), field)));
        for (location, field) in named {
            if let Some(name) = field.hidden() {
                let message = format!(
                    "the values of the header field {name} are credentials: lines have \"(hidden)\" in their place"
                );
                self.problems.push(Problem::warning(location, message));
            }
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
        let warnings = warnings("access = false\naccess_file = 'a.log'");
        assert!(warnings.contains("access_file has no effect"), "{warnings}");
    }

    fn warnings(log: &str) -> String {
        let text = format!("[log]\n{log}\n");
        let (config, _) = Config::parse("a.toml", &text, ".".as_ref(), &|_| None).unwrap();
        let (_, warnings) = compile(&config, &Registry::builtin()).unwrap();
        warnings.to_string()
    }

    #[test]
    fn fields_whose_values_are_hidden_are_named_with_their_place() {
        for (log, place, name) in [
            (
                "access_fields = ['status', 'header:Authorization']",
                "a.toml:2:28: log.access_fields[1]: warning: ",
                "authorization",
            ),
            (
                "access_fields = ['response_header:set-cookie']",
                "a.toml:2:18: log.access_fields[0]: warning: ",
                "set-cookie",
            ),
            (
                "access_format = '{status} {header:x-api-key}'",
                "a.toml:2:17: log.access_format: warning: ",
                "x-api-key",
            ),
        ] {
            let found = warnings(log);
            let expected = format!("{place}the values of the header field {name} are credentials");
            assert!(found.contains(&expected), "{found}");
        }
        for log in [
            "access_format = 'combined'",
            "access_fields = ['header:accept']",
        ] {
            assert_eq!(warnings(log), "");
        }
    }
}
