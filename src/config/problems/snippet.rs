//! Snippet: a problem with its line of the file, for a terminal.

use std::fmt;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer};

use crate::config::problems::problem::{Problem, Severity};
use crate::config::read::document::Position;

/// A problem as a terminal shows it: the message, the line of the file, and carets under the value;
/// made by [`Problem::snippet`]. Secrets in the line are masked.
#[derive(Clone, Copy, Debug)]
pub struct Snippet<'a> {
    problem: &'a Problem,
    is_styled: bool,
}

impl<'a> Snippet<'a> {
    pub(in crate::config) fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            is_styled: false,
        }
    }

    /// Turns colors on or off. Default: off.
    #[must_use]
    pub fn styled(self, is_styled: bool) -> Self {
        Self { is_styled, ..self }
    }
}

impl fmt::Display for Snippet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problem, location) = (self.problem, self.problem.location());
        let level = match problem.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = match location.path() {
            "" => problem.message().to_owned(),
            path => format!("{path}: {}", problem.message()),
        };
        let title = level.primary_title(title);
        let name = location.document().name();
        let mut group = match location.position() {
            None => title.element(Origin::path(name)),
            Some(Position { line, column }) => {
                let (text, width) = location.document().line_of(&location.span());
                let start = byte_of(&text, column - 1);
                let end = byte_of(&text, column - 1 + width);
                title.element(
                    annotate_snippets::Snippet::source(text)
                        .line_start(line)
                        .path(name)
                        .annotation(AnnotationKind::Primary.span(start..end)),
                )
            }
        };
        if let Some(hint) = problem.hint() {
            group = group.element(Level::HELP.message(hint));
        }
        let renderer = match self.is_styled {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        f.write_str(&renderer.decor_style(DecorStyle::Ascii).render(&[group]))
    }
}

/// The byte at which a character of a text begins, or its end.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices()
        .nth(character)
        .map_or(text.len(), |(at, _)| at)
}
