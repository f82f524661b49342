//! Document: one TOML file with its name, its text and the tree of its values.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use crate::config::problems::problem::{Problem, Problems};
use crate::config::read::environment::Env;
use crate::config::read::path::{Segment, Trail};
use crate::config::read::source_location::SourceLocation;
use crate::config::read::syntax;
use crate::config::read::value::{Builder, HiddenText, Node};
use crate::config::values::secret;

/// The TOML parser's message for a duplicate key.
const DUPLICATE_KEY: &str = "duplicate key";

/// A file that was read. Problems keep a reference to it to show their source line.
pub struct Document {
    name: String,
    base: PathBuf,
    text: String,
    root: Node,
    /// Longest first: a shorter one may be part of a longer one.
    secrets: Vec<HiddenText>,
}

/// A line and a column, both counted from 1. The column counts characters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl Document {
    /// Parses a text. Erroneous parts are removed, so that the rest can be read.
    pub(in crate::config) fn parse(name: &str, base: &Path, text: &str, env: Env<'_>) -> Parsed {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut builder = Builder {
            env,
            errors: Vec::new(),
            secrets: Vec::new(),
        };
        let root = builder.table(table.into_inner(), 0..0, Trail::Root);
        let mut secrets = builder.secrets;
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.text.len()));
        let document = Arc::new(Self {
            name: name.to_owned(),
            base: base.to_owned(),
            text: text.to_owned(),
            root,
            secrets,
        });
        let mut problems = Problems::default();
        let broken = syntax_problems(&document, &errors, &mut problems);
        if !broken {
            for flaw in builder.errors {
                let location = SourceLocation::root(&document).join(&flaw.path);
                problems.push(Problem::error(location, flaw.message).with_hint_if(flaw.hint));
            }
        }
        Parsed {
            duplicates: doubled_sections(&document, &errors),
            document,
            problems,
            broken,
        }
    }

    /// A document without text, for a file that cannot be read and for defaults.
    pub(in crate::config) fn blank(name: &str, base: &Path) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            base: base.to_owned(),
            text: String::new(),
            root: Node::empty_table(0..0),
            secrets: Vec::new(),
        })
    }

    /// Returns the file's name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory that relative paths in this file start from.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Returns the text as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(in crate::config) fn root(&self) -> &Node {
        &self.root
    }

    /// Returns the line and column of a byte of the text.
    pub(in crate::config) fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }

    /// Returns the line that contains the start of the span, with secrets hidden, and how many of
    /// its characters the span covers.
    pub(in crate::config) fn line_of(&self, span: &Range<usize>) -> (String, usize) {
        let begin = span.start.min(self.text.len());
        let start = self
            .text
            .get(..begin)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |newline| newline + 1);
        let end = self
            .text
            .get(begin..)
            .and_then(|after| after.find('\n'))
            .map_or(self.text.len(), |at| begin + at);
        let covered = self
            .text
            .get(begin..span.end.clamp(begin, end))
            .unwrap_or_default()
            .trim_end();
        let mut line = self
            .text
            .get(start..end)
            .unwrap_or_default()
            .trim_end()
            .to_owned();
        let width = covered.chars().count().max(1);
        let secrets = self.secrets.iter().map(|secret| &secret.span);
        let secrets: Vec<_> = secrets
            .filter(|secret| secret.start < end && start < secret.end)
            .collect();
        if secrets.is_empty() {
            line = secret::hide_line(&line);
        } else {
            line = mask(&line, start, &secrets);
        }
        (line, width)
    }

    /// Returns the span, or only its start if the key of its line is secret: the end of the value
    /// would reveal its length.
    fn before_secret(&self, span: &Range<usize>) -> Range<usize> {
        let before = self.text.get(..span.start).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let Some((key, value)) = before[start..].split_once('=') else {
            return span.clone();
        };
        if !secret::is_secret_name(key.trim().trim_matches(['"', '\''])) {
            return span.clone();
        }
        let value_start = span.start - value.trim_start().len();
        value_start..value_start
    }

    /// Returns a piece of the text on one line, with secrets hidden.
    pub(in crate::config) fn shown(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        self.hide_secrets(&words.join(" "))
    }

    /// Hides the secrets of this document in a message.
    pub(in crate::config) fn hide_secrets(&self, message: &str) -> String {
        let secrets = self.secrets.iter();
        // Known values first: an unusual character in a sentence may end a URL too early.
        let message = secrets.fold(message.to_owned(), |message, hidden| {
            secret::replace(&message, &hidden.text, &hidden.shown)
        });
        secret::hide_url_secrets(&message)
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The outcome of parsing a text.
pub(in crate::config) struct Parsed {
    pub(in crate::config) document: Arc<Document>,
    pub(in crate::config) problems: Problems,
    /// The syntax is so broken that reading on would only report consequences.
    pub(in crate::config) broken: bool,
    /// The sections with a duplicate header: the contents of the second are lost.
    pub(in crate::config) duplicates: Vec<SourceLocation>,
}

/// Turns the parser's errors into problems, one per line, because a second error on a line follows
/// from the first. Returns whether the tree cannot be trusted.
fn syntax_problems(
    document: &Arc<Document>,
    errors: &[toml::de::Error],
    problems: &mut Problems,
) -> bool {
    let mut broken = false;
    let mut lines_seen = Vec::new();
    let other_format = syntax::other_format(&document.text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let duplicate = error.message() == DUPLICATE_KEY;
        broken |= !duplicate;
        let line = document.position(span.start).line;
        if lines_seen.contains(&line) {
            continue;
        }
        lines_seen.push(line);
        // The other lines of a foreign format add nothing.
        if other_format.is_some() && lines_seen.len() > 1 {
            break;
        }
        let written = document.text.get(span.clone()).unwrap_or_default();
        let location = SourceLocation::root(document).at(document.before_secret(&span));
        let (message, hint) = if duplicate {
            (
                format!(
                    "duplicate key {:?}; it is already set above",
                    written.trim_matches(['"', '\''])
                ),
                None,
            )
        } else {
            let (message, hint) = syntax_message(document, &span, error.message());
            (message, other_format.clone().or(hint))
        };
        problems.push(Problem::error(location, message).with_hint_if(hint));
    }
    broken
}

/// Returns the sections whose header occurs a second time: the contents of the second are lost.
fn doubled_sections(document: &Arc<Document>, errors: &[toml::de::Error]) -> Vec<SourceLocation> {
    let duplicates = errors
        .iter()
        .filter(|error| error.message() == DUPLICATE_KEY)
        .filter_map(toml::de::Error::span);
    let path = |span: Range<usize>| {
        let before = document.text.get(..span.end)?;
        let line = before.rsplit('\n').next()?.trim_start();
        line.strip_prefix('[')
            .map(|path| path.trim_start_matches('[').trim().to_owned())
    };
    duplicates
        .filter_map(path)
        .map(|path| SourceLocation::of_path(document, path))
        .collect()
}

/// Describes the syntax error at this location and guesses its remedy.
fn syntax_message(
    document: &Document,
    span: &Range<usize>,
    said: &str,
) -> (String, Option<String>) {
    let said = said.trim_end_matches(", expected nothing");
    let message = format!("not TOML: {said}");
    let position = document.position(span.start);
    let odd_quotes = |line: &str| line.matches('"').count() % 2 == 1;
    let (line, _) = document.line_of(&(span.start..span.start));
    if let Some(hint) = syntax::slip(&line, said) {
        return (message, Some(hint));
    }
    let Some((key, value)) = line.split_once('=') else {
        return (message, None);
    };
    let key_name = key.trim().trim_matches(['"', '\'']);
    if secret::is_secret_name(key_name) {
        let written = document.text.lines().nth(position.line - 1);
        let has_quote = written.is_some_and(|line| line.contains(['"', '\'']));
        let hint = match has_quote {
            true => "a quote is missing",
            false => "put text in quotes",
        };
        return (message, Some(hint.to_owned()));
    }
    let value = value.split('#').next().unwrap_or_default().trim();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '$' | '*' | ':');
    if value.is_empty() {
        return (format!("not TOML: no value after {} =", key.trim()), None);
    }
    let hint = if value.starts_with(plain) && !value.contains(['"', '\'']) {
        Some(format!("put text in quotes: {value:?}"))
    } else if document
        .text
        .lines()
        .nth(position.line - 1)
        .is_some_and(odd_quotes)
    {
        Some("a quote is missing".to_owned())
    } else {
        None
    };
    (message, hint)
}

/// Replaces each character of a secret in the line by a star, so that columns stay right. `start`
/// is the line's first byte.
fn mask(line: &str, start: usize, secrets: &[&Range<usize>]) -> String {
    let hidden = |at: usize| secrets.iter().any(|secret| secret.contains(&(start + at)));
    line.char_indices()
        .map(|(at, character)| if hidden(at) { '*' } else { character })
        .collect()
}

/// Returns a path through a document as text, for messages.
pub(in crate::config) fn path_text(path: &[Segment]) -> String {
    path.iter().fold(String::new(), |mut text, segment| {
        crate::config::read::path::push(&mut text, segment);
        text
    })
}
