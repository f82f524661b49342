//! Templates: the pages of a server, rendered by minijinja.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context, path_loader};
use serde::Serialize;
use thiserror::Error;

/// Finds the path of a named route: `url_for` in templates.
pub type UrlFor = Arc<dyn Fn(&str, &[(String, String)]) -> Result<String, String> + Send + Sync>;

/// Tells whether a route of that name exists: `has_route` in templates.
pub type HasRoute = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The templates of one directory, with `url_for` (cheap to clone).
///
/// A template sees `scope` (`path`, `query`, `params`, `host`, `scheme`), `user` (`id`, `name`, `is_staff`, or none), `session`
/// (its values, or none), `csrf_token()`, `url_for(name, key=value)` and `has_route(name)`. What ends in `.html` is escaped.
#[derive(Clone, Debug)]
pub struct Templates(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    dir: PathBuf,
    environment: Environment<'static>,
}

/// Why there is no page.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// No such file.
    #[error("expected a template {name:?} in {}, found none", dir.display())]
    Missing {
        /// The template.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// It cannot be read as a template, or fails when it is rendered.
    #[error("template {name:?}: {cause}")]
    Broken {
        /// The template.
        name: String,
        /// What is wrong.
        cause: minijinja::Error,
    },
}

impl Templates {
    /// The templates of a directory; each is read when it is first used, and again after a reload.
    #[must_use]
    pub fn new(dir: &Path, url_for: UrlFor, has_route: HasRoute) -> Self {
        let mut environment = Environment::new();
        environment.set_loader(path_loader(dir));
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

    /// Reads a template without rendering it.
    pub fn check(&self, name: &str) -> Result<(), TemplateError> {
        self.0
            .environment
            .get_template(name)
            .map(drop)
            .map_err(|cause| self.error(name, cause))
    }

    /// Returns the parameters of the route that a template uses, `scope.params.NAME`, and those that it extends or includes.
    #[must_use]
    pub fn params(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        let mut params = Vec::new();
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            let Ok(template) = self.0.environment.get_template(&name) else {
                continue;
            };
            let variables = template.undeclared_variables(true);
            let used = variables
                .iter()
                .filter_map(|path| path.strip_prefix("scope.params."));
            params.extend(used.filter_map(|used| used.split('.').next().map(str::to_owned)));
            for other in named_in(template.source()) {
                if !names.contains(&other) {
                    names.push(other);
                }
            }
        }
        params.sort();
        params.dedup();
        params
    }

    /// Tells whether there is a template of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.environment.get_template(name).is_ok()
    }

    /// Renders a page with its variables; `csrf_token` makes what the function of that name gives.
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

/// The templates that one names in quotes: `{% extends "base.html" %}`, `{% include "a.html" %}`.
fn named_in(source: &str) -> Vec<String> {
    let tags = source.split("{%").skip(1);
    let name = |tag: &str| {
        let tag = tag.trim_start_matches('-').trim_start();
        let rest = tag
            .strip_prefix("extends")
            .or_else(|| tag.strip_prefix("include"))?
            .trim_start();
        let quote = rest
            .chars()
            .next()
            .filter(|found| matches!(found, '"' | '\''))?;
        rest.split(quote).nth(1).map(str::to_owned)
    };
    tags.filter_map(name).collect()
}
