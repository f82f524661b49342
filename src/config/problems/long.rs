//! Long: a problem with its line of the file, for a terminal.

use std::fmt;

use crate::config::problems::problem::Problem;
use crate::config::read::document::Position;

/// A problem as a terminal shows it; made by [`Problem::long`].
#[derive(Clone, Copy, Debug)]
pub struct Long<'a>(&'a Problem);

impl<'a> Long<'a> {
    pub(in crate::config) fn new(problem: &'a Problem) -> Self {
        Self(problem)
    }
}

impl fmt::Display for Long<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.0;
        let (location, message) = (problem.location(), problem.message());
        write!(f, "{}: ", problem.severity().as_str())?;
        if !location.path().is_empty() {
            write!(f, "{}: ", location.path())?;
        }
        write!(f, "{message}")?;
        let name = location.document().name();
        let mut gutter = String::new();
        match location.position() {
            None => write!(f, "\n--> {name}")?,
            Some(Position { line, column }) => {
                gutter = " ".repeat(line.to_string().len() + 1);
                let (text, width) = location.document().line_of(&location.span());
                let pad: String = text
                    .chars()
                    .take(column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                let carets = "^".repeat(
                    width
                        .min(text.chars().count().saturating_sub(column - 1))
                        .max(1),
                );
                write!(f, "\n{}--> {name}:{line}:{column}", &gutter[1..])?;
                write!(f, "\n{gutter}|\n{line} | {text}\n{gutter}| {pad}{carets}")?;
            }
        }
        match problem.hint() {
            Some(hint) => write!(f, "\n{gutter}= {hint}"),
            None => Ok(()),
        }
    }
}
