//! Reading a value with all its problems: removes the part at fault, notes it, and reads again.

use serde::de::DeserializeOwned;

use crate::config::problems::problem::{Problem, Problems};
use crate::config::problems::suggest::did_you_mean;
use crate::config::problems::unknown::unknown_key;
use crate::config::read::path::{Segment, Trail};
use crate::config::read::read_error::{Kind, ReadError};
use crate::config::read::reader::Reader;
use crate::config::read::source_location::SourceLocation;
use crate::config::read::value::{Node, Value};
use crate::config::values::secret;

/// Each attempt reads the whole value again, so a file with more errors than this is given up.
const READS_MAX: usize = 1_000;

/// The change that lets the next attempt get further.
enum Recovery {
    Remove(Vec<Segment>),
    /// Insert a placeholder for this key in the table at the end of the path.
    InsertPlaceholder(Vec<Segment>, &'static str),
}

/// Reads the value at `location`, which is `node`, and adds all its errors to `problems`.
///
/// Returns the value without the parts at fault, or `None` if nothing is left. If there was a
/// problem, required values may be placeholders.
pub(in crate::config) fn read<T: DeserializeOwned>(
    location: &SourceLocation,
    mut node: Node,
    problems: &mut Problems,
) -> Option<T> {
    for _ in 0..READS_MAX {
        let reader = Reader {
            node: &node,
            trail: Trail::Root,
            base: location.base(),
        };
        let mut error = match T::deserialize(reader) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let path = error.path.take().unwrap_or_default();
        if try_another(&mut node, &path, &error) {
            continue;
        }
        let (recovery, problem) = diagnose(location, &node, path, error);
        if let Some(problem) = problem {
            problems.push(problem);
        }
        match recovery {
            Recovery::InsertPlaceholder(path, key) => node.find_mut(&path)?.insert_placeholder(key),
            Recovery::Remove(path) if path.is_empty() || !node.remove(&path) => return None,
            Recovery::Remove(_) => {}
        }
    }
    problems.error(location.clone(), "too many problems; the rest is not shown");
    None
}

/// Replaces a placeholder that was refused by the next one; returns `false` if the error is about
/// something else.
fn try_another(root: &mut Node, path: &[Segment], error: &ReadError) -> bool {
    let Some(node) = root.find_mut(path) else {
        return false;
    };
    let Value::Placeholder(attempt) = node.value else {
        return false;
    };
    if matches!(error.kind, Kind::Missing(_)) {
        return false;
    }
    node.value = Value::Placeholder(attempt + 1);
    true
}

/// Chooses the change after an error, and the problem to report. Consequences of an earlier error
/// are not reported.
fn diagnose(
    location: &SourceLocation,
    root: &Node,
    mut path: Vec<Segment>,
    error: ReadError,
) -> (Recovery, Option<Problem>) {
    let message = error.to_string();
    let here = location.join(&path);
    let Some(node) = root.find(&path) else {
        return (Recovery::Remove(path), Some(Problem::error(here, message)));
    };
    let problem = match error.kind {
        Kind::Missing(key) => return missing(here, node, path, key),
        Kind::UnknownKey { key, known } => {
            let problem = unknown_key(&here, &key, known);
            if node.entry(&key).is_some() {
                path.push(Segment::Key(key));
            }
            problem
        }
        Kind::UnknownWord { word, known } => {
            Problem::error(here, message).with_hint_if(did_you_mean(&word, known.iter().copied()))
        }
        Kind::Type { expected, .. } if node.scalar().is_some() && is_secret(&here) => {
            let found = node.scalar().unwrap_or_default();
            if expected.contains("string") || expected.contains("text") {
                Problem::error(here, format!("expected a string, found {found}"))
                    .with_hint("put it in quotes")
            } else {
                Problem::error(here, format!("expected {expected}, found {found}"))
            }
        }
        Kind::Type { expected, .. } => {
            let hint = type_hint(&here, node, &expected);
            Problem::error(here, message).with_hint_if(hint)
        }
        Kind::Length(_) | Kind::Sentence(_) if node.is_incomplete() => {
            return (Recovery::Remove(path), None);
        }
        Kind::Length(_) | Kind::Sentence(_) => Problem::error(here, message),
    };
    (Recovery::Remove(path), Some(problem))
}

/// Inserts a placeholder for a missing key, unless that was tried without success. A key that is
/// written was wrong and has been reported.
fn missing(
    here: SourceLocation,
    node: &Node,
    path: Vec<Segment>,
    key: &'static str,
) -> (Recovery, Option<Problem>) {
    // Nothing is missing inside a placeholder.
    let made_up =
        !path.is_empty() && !matches!(here.node().map(|node| &node.value), Some(Value::Table(_)));
    match node.entry(key).map(|entry| &entry.node.value) {
        Some(Value::Removed) => (Recovery::InsertPlaceholder(path, key), None),
        Some(_) => (Recovery::Remove(path), None),
        None => {
            let problem = (!made_up).then(|| Problem::missing(here, key));
            (Recovery::InsertPlaceholder(path, key), problem)
        }
    }
}

/// Returns whether the keys on the path to a value mark it as a secret.
fn is_secret(location: &SourceLocation) -> bool {
    location.segments().iter().any(|segment| match segment {
        Segment::Key(key) => secret::is_secret_name(key),
        Segment::Index(_) => false,
    })
}

/// Returns what to write in place of a value of the wrong type, for common mistakes.
fn type_hint(location: &SourceLocation, node: &Node, expected: &str) -> Option<String> {
    match (&node.value, expected) {
        (Value::String(_), "an array") if is_secret(location) => Some("write [\"…\"]".to_owned()),
        (Value::String(text), "an array") => Some(format!("write [{text:?}]")),
        (Value::String(_), "a table") => Some("a table is written { key = value }".to_owned()),
        (Value::String(text), "true or false") if matches!(text.as_str(), "true" | "false") => {
            Some(format!("write {text}, without quotes"))
        }
        (Value::String(text), _) if expected.contains("number") && text.parse::<f64>().is_ok() => {
            Some(format!("write {text}, without quotes"))
        }
        (Value::Table(_), "an array") => Some(format!(
            "write [[{}]], with two brackets on each side",
            location.path()
        )),
        (Value::Array(items), "a table")
            if items
                .iter()
                .any(|item| matches!(item.value, Value::Table(_))) =>
        {
            Some(format!(
                "write [{}], with one bracket on each side",
                location.path()
            ))
        }
        (Value::Integer(number), "a string") => Some(format!("write \"{number}\"")),
        _ => None,
    }
}
