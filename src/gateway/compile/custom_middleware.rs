//! Custom middleware: created once from its section, and checked against each list that names it.

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::{Problem, SourceLocation};
use crate::middleware::{Custom, Step};
use crate::state::StateType;

impl Compiler<'_> {
    /// Returns the application's middleware at this index of a list. `None` if its options are
    /// invalid, or if something it requires is missing.
    pub(super) fn custom_step(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        at: usize,
        name: &str,
    ) -> Option<Step> {
        let made = self.make_custom(name);
        let are_requirements_met = self.check_requirements(settings, at, name);
        made.filter(|_| are_requirements_met).map(Step::Custom)
    }

    fn make_custom(&mut self, name: &str) -> Option<Custom> {
        if let Some(made) = self.custom.get(name) {
            return made.clone();
        }
        let registered = self.registry.find_middleware(name)?;
        let made = (registered.make)(&self.config.middleware.options(name))
            .map_err(|problems| self.problems.append(problems))
            .ok();
        self.custom.insert(name.to_owned(), made.clone());
        made
    }

    /// Reports middleware in `REQUIRES` that is missing before it, and types in `STATE` that are
    /// not registered. Returns whether none are missing.
    fn check_requirements(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        at: usize,
        name: &str,
    ) -> bool {
        let Some(registered) = self.registry.find_middleware(name) else {
            return true;
        };
        let location = (settings.location_of)("middleware").text(at);
        let before = self.problems.len();
        self.check_state(&format!("middleware {name:?}"), registered.state, &location);
        // An entry that could not be read is missing from the list.
        if !(settings.is_invalid)("middleware") {
            for needed in registered.requires {
                let message = match settings.position(needed) {
                    Some(position) if position < at => continue,
                    Some(_) => format!("{needed:?} is listed after {name:?}; swap them"),
                    None => format!("expected {needed:?} before {name:?}, found none"),
                };
                self.problems
                    .push(Problem::error(location.clone(), message));
            }
        }
        self.problems.len() == before
    }

    /// Reports types of application state that were not registered. `what` names the code that
    /// reads them.
    pub(super) fn check_state(
        &mut self,
        what: &str,
        needed: &[StateType],
        location: &SourceLocation,
    ) {
        for needed in needed {
            if !self.registry.state.has(*needed) {
                let message = format!("the {what} needs application state of type {needed}");
                let problem = Problem::error(location.clone(), message);
                let hint = "register it with Registry::state";
                self.problems.push(problem.with_hint(hint));
            }
        }
    }

    /// Checks the `[middleware.NAME]` sections: each must be of registered middleware, and some
    /// route should list it.
    pub(super) fn check_middleware_sections(&mut self) {
        let sections = &self.config.middleware;
        for name in sections.names() {
            let location = sections.location.key(name).of_key();
            if self.registry.find_middleware(name).is_none() {
                self.problems.push(match Step::NAMES.contains(&name) {
                    true => Problem::error(
                        location,
                        format!("the built-in middleware {name:?} has no section"),
                    )
                    .with_hint("its settings are keys of [http], [websocket] and their routes"),
                    false => Problem::unknown(
                        location,
                        "middleware",
                        name,
                        self.registry.middleware_names(),
                    ),
                });
            } else if !self.custom.contains_key(name) {
                self.make_custom(name);
                let message = format!("no route lists the middleware {name:?}");
                self.problems.push(Problem::warning(location, message));
            }
        }
    }
}
