//! Templates: the pages of a server, rendered by minijinja.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, TemplateSource, context, path_loader};
use serde::Serialize;
use thiserror::Error;

/// Returns the path of a named route: `url_for` in templates.
pub type UrlFor = Arc<dyn Fn(&str, &[(String, String)]) -> Result<String, String> + Send + Sync>;

/// Returns whether a route with this name exists: `has_route` in templates.
pub type HasRoute = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The templates of one directory, with `url_for` (cheap to clone).
///
/// A template sees `scope` (`path`, `query`, `params`, `host`, `scheme`, `client_cert`), `user`
/// (`id`, `name`, `is_staff`, or none), `session` (its values, or none), `csrf_token()`,
/// `url_for(name, key=value)` and `has_route(name)`. Templates that end in `.html` are escaped.
#[derive(Clone, Debug)]
pub struct Templates(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    dir: PathBuf,
    environment: Environment<'static>,
}

/// Why a page cannot be rendered.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// The file does not exist.
    #[error("no template {name:?} in {}", dir.display())]
    Missing {
        /// The template.
        name: String,
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// The template refers to another one that does not exist.
    #[error("template {name:?} uses {part:?}, which does not exist in {}", dir.display())]
    Part {
        /// The template.
        name: String,
        /// The template that it extends, includes or imports.
        part: String,
        /// The directory.
        dir: PathBuf,
    },
    /// The template is invalid, or rendering fails.
    #[error("template {name:?}: {cause}")]
    Broken {
        /// The template.
        name: String,
        /// The cause.
        cause: minijinja::Error,
    },
}

/// Loads regular files only: reading a FIFO would never end.
fn files_of(
    dir: &Path,
) -> impl Fn(&str) -> Result<Option<TemplateSource>, minijinja::Error> + Send + Sync + 'static {
    let load = path_loader(dir);
    let dir = dir.to_owned();
    move |name| match std::fs::metadata(dir.join(name)) {
        Ok(found) if !found.is_file() => Ok(None),
        _ => load(name),
    }
}

impl Templates {
    /// Returns the templates of a directory. Each is read on first use, and again after a reload.
    #[must_use]
    pub fn new(dir: &Path, url_for: UrlFor, has_route: HasRoute) -> Self {
        let mut environment = Environment::new();
        environment.set_loader(files_of(dir));
        environment.add_function("has_route", move |name: String| has_route(&name));
        environment.add_function("url_for", move |name: String, params: Kwargs| {
            let mut pairs = Vec::new();
            for key in params.args() {
                let value: Value = params.get(key)?;
                pairs.push((key.to_owned(), value.to_string()));
            }
            params.assert_all_used()?;
            url_for(&name, &pairs)
                .map_err(|sentence| minijinja::Error::new(ErrorKind::InvalidOperation, sentence))
        });
        Self(Arc::new(Loaded {
            dir: dir.to_owned(),
            environment,
        }))
    }

    /// Parses a template and those that it extends, includes or imports, without rendering them.
    pub fn check(&self, name: &str) -> Result<(), TemplateError> {
        let mut names = vec![name.to_owned()];
        let mut next = 0;
        while let Some(current) = names.get(next).cloned() {
            next += 1;
            let template = self.0.environment.get_template(&current);
            let template = template.map_err(|cause| self.error(&current, cause))?;
            for part in parts_of(template.source()) {
                if !part.may_be_missing && !self.is_there(&part.name) {
                    return Err(TemplateError::Part {
                        name: current,
                        part: part.name,
                        dir: self.0.dir.clone(),
                    });
                }
                if !names.contains(&part.name) && self.is_there(&part.name) {
                    names.push(part.name);
                }
            }
        }
        Ok(())
    }

    /// Returns whether a template exists, valid or not.
    fn is_there(&self, name: &str) -> bool {
        match self.0.environment.get_template(name) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::TemplateNotFound,
        }
    }

    /// Returns the route parameters (`scope.params.NAME`) that a template, or one that it extends
    /// or includes, needs. A parameter guarded by `is defined` or `|default` is not needed.
    #[must_use]
    pub fn params(&self, name: &str) -> Vec<String> {
        let mut params = Vec::new();
        for source in self.sources(name) {
            let Ok(template) = self.0.environment.template_from_str(&source) else {
                continue;
            };
            let variables = template.undeclared_variables(true);
            let used = variables
                .iter()
                .filter_map(|path| path.strip_prefix("scope.params."));
            let used = used.filter_map(|used| used.split('.').next());
            let needed = used.filter(|param| !is_guarded(&source, param));
            params.extend(needed.map(str::to_owned));
        }
        params.sort();
        params.dedup();
        params
    }

    /// Returns the parameter in the first `scope.params.get("NAME")` of a template: valid in
    /// Python, but not in our templates.
    #[must_use]
    pub fn param_of_get(&self, name: &str) -> Option<String> {
        self.sources(name).iter().find_map(|source| {
            let (_, after) = source.split_once("scope.params.get(")?;
            let after = after.trim_start();
            let quote = after.chars().next()?;
            let (param, _) = after.get(1..)?.split_once(quote)?;
            matches!(quote, '"' | '\'').then(|| param.to_owned())
        })
    }

    /// Returns the sources of a template and of those that it extends, includes or imports.
    fn sources(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        let mut sources = Vec::new();
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            let Ok(template) = self.0.environment.get_template(&name) else {
                continue;
            };
            for part in parts_of(template.source()) {
                if !names.contains(&part.name) {
                    names.push(part.name);
                }
            }
            sources.push(template.source().to_owned());
        }
        sources
    }

    /// Returns whether a valid template with this name exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.environment.get_template(name).is_ok()
    }

    /// Renders a page with its variables. The template function `csrf_token()` returns the result
    /// of `csrf_token`.
    pub fn render(
        &self,
        name: &str,
        variables: impl Serialize,
        csrf_token: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<String, TemplateError> {
        let template = self
            .0
            .environment
            .get_template(name)
            .map_err(|cause| self.error(name, cause))?;
        template
            .render(context! {
                csrf_token => Value::from_function(csrf_token),
                ..Value::from(Serde(variables))
            })
            .map_err(|cause| self.error(name, cause))
    }

    fn error(&self, name: &str, cause: minijinja::Error) -> TemplateError {
        if cause.kind() == ErrorKind::TemplateNotFound
            && cause.template_source().is_none()
            && cause.line().is_none()
        {
            TemplateError::Missing {
                name: name.to_owned(),
                dir: self.0.dir.clone(),
            }
        } else {
            TemplateError::Broken {
                name: name.to_owned(),
                cause,
            }
        }
    }
}

/// A template that another one refers to.
struct TemplatePart {
    name: String,
    /// Whether the reference is `{% include "..." ignore missing %}`.
    may_be_missing: bool,
}

/// Returns the templates that a source extends, includes or imports by name.
fn parts_of(source: &str) -> Vec<TemplatePart> {
    let source = without_comments(source);
    let name = |tag: &str| {
        let (tag, _) = tag.split_once("%}")?;
        let tag = tag.trim_start_matches(['-', '+']).trim_start();
        let words = ["extends", "include", "import", "from"];
        let rest = words.iter().find_map(|word| tag.strip_prefix(word))?;
        let rest = rest.trim_start();
        let quote = rest
            .chars()
            .next()
            .filter(|found| matches!(found, '"' | '\''))?;
        let (name, after) = rest.get(1..)?.split_once(quote)?;
        let after = after.trim_start();
        // An expression such as `"a.html" if x else "b.html"` is evaluated only when rendered.
        let is_plain = ["", "-", "+"].contains(&after.trim_end());
        let is_import = after.starts_with("as ") || after.starts_with("import ");
        Some(TemplatePart {
            name: name.to_owned(),
            may_be_missing: !is_plain && !is_import,
        })
    };
    source.split("{%").skip(1).filter_map(name).collect()
}

fn without_comments(source: &str) -> String {
    let mut pieces = source.split("{#");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece.split_once("#}").map_or("", |(_, after)| after)
    })
}

/// Returns whether a template tests a parameter before it uses it.
fn is_guarded(source: &str, param: &str) -> bool {
    let used = format!("scope.params.{param}");
    let mut uses = source.match_indices(&used).map(|(at, _)| at);
    uses.any(|at| {
        let after = source.get(at + used.len()..).unwrap_or_default();
        let is_whole = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let after = after.trim_start();
        let is_tested = after.starts_with("is defined") || after.starts_with("is not defined");
        let filter = after.strip_prefix('|').map(str::trim_start);
        let is_filtered = filter.is_some_and(|filter| filter.starts_with("default"));
        let before = source.get(..at).unwrap_or_default().trim_end();
        let is_condition = before.ends_with("if") || before.ends_with("if not");
        is_whole && (is_tested || is_filtered || is_condition)
    })
}
