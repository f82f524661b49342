//! The tree of values of one document, each with the place in the text where it stands.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::assumed;
use super::environment::{Env, expand};
use super::path::{Segment, Trail};
use super::secret;

/// A value and the bytes of the text it was written in.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Range<usize>,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    /// Wrong and already reported. It stays, so that indexes keep counting and nobody asks for a key that is
    /// written.
    Removed,
    /// A required value that is missing or was struck out, made up so that reading can go on behind it. The number
    /// says which of the made-up values is tried.
    Assumed(usize),
}

/// One `key = value` of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) node: Node,
}

/// Something wrong with a value that was found while the tree was built.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) path: Vec<Segment>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Builds a tree from what the TOML parser gives.
pub(super) struct Builder<'a> {
    pub(super) env: Env<'a>,
    pub(super) flaws: Vec<Flaw>,
    /// Texts that no message may show, with the place they were written at.
    pub(super) secrets: Vec<(String, Range<usize>)>,
}

impl Node {
    /// A table without entries.
    pub(super) fn empty_table(span: Range<usize>) -> Self {
        Self {
            value: Value::Table(Vec::new()),
            span,
        }
    }

    /// The entries, if this is a table.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The entry of that name, if this is a table that has it, removed or not.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value one step further down, removed or not.
    pub(super) fn child(&self, segment: &Segment) -> Option<&Self> {
        match (segment, &self.value) {
            (Segment::Key(key), _) => self.entry(key).map(|entry| &entry.node),
            (Segment::Index(index), Value::Array(items)) => items.get(*index),
            (Segment::Index(_), _) => None,
        }
    }

    /// The value at the end of the way, if there is one.
    pub(super) fn find(&self, path: &[Segment]) -> Option<&Self> {
        path.iter()
            .try_fold(self, |node, segment| node.child(segment))
    }

    /// The value at the end of the way, if there is one.
    pub(super) fn find_mut(&mut self, path: &[Segment]) -> Option<&mut Self> {
        path.iter()
            .try_fold(self, |node, segment| match (segment, &mut node.value) {
                (Segment::Key(key), Value::Table(entries)) => entries
                    .iter_mut()
                    .find(|entry| entry.key == *key)
                    .map(|entry| &mut entry.node),
                (Segment::Index(index), Value::Array(items)) => items.get_mut(*index),
                _ => None,
            })
    }

    /// Strikes out the value at the end of the way; `false` if there was none.
    pub(super) fn remove(&mut self, path: &[Segment]) -> bool {
        let Some(node) = self.find_mut(path) else {
            return false;
        };
        let removed = !matches!(node.value, Value::Removed);
        node.value = Value::Removed;
        removed
    }

    /// Makes up a value for a key of this table.
    pub(super) fn assume(&mut self, key: &str) {
        if !matches!(self.value, Value::Table(_)) {
            self.value = Value::Table(Vec::new());
        }
        let Value::Table(entries) = &mut self.value else {
            return;
        };
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.node.value = Value::Assumed(0),
            None => entries.push(Entry {
                key: key.to_owned(),
                key_span: self.span.clone(),
                node: Self {
                    value: Value::Assumed(0),
                    span: self.span.clone(),
                },
            }),
        }
    }

    /// Whether there is nothing to read: it was struck out, or no made-up value would do.
    pub(super) fn is_gone(&self) -> bool {
        match self.value {
            Value::Removed => true,
            Value::Assumed(attempt) => attempt >= assumed::ATTEMPTS,
            _ => false,
        }
    }

    /// Whether a value somewhere inside was struck out or made up.
    pub(super) fn has_gaps(&self) -> bool {
        match &self.value {
            Value::Array(items) => items.iter().any(Self::has_gaps),
            Value::Table(entries) => entries.iter().any(|entry| entry.node.has_gaps()),
            Value::Removed | Value::Assumed(_) => true,
            _ => false,
        }
    }
}

impl Builder<'_> {
    /// Converts a table of the parser.
    pub(super) fn table(
        &mut self,
        table: DeTable<'_>,
        span: Range<usize>,
        trail: Trail<'_>,
    ) -> Node {
        let mut entries: Vec<Entry> = table
            .into_iter()
            .map(|(key, value)| {
                let key_span = key.span();
                let key = key.into_inner().into_owned();
                let node = self.value(value, Trail::Key(&trail, &key));
                Entry {
                    key,
                    key_span,
                    node,
                }
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        Node {
            value: Value::Table(entries),
            span,
        }
    }

    fn value(&mut self, value: Spanned<DeValue<'_>>, trail: Trail<'_>) -> Node {
        let span = value.span();
        let value = match value.into_inner() {
            DeValue::String(text) => self.string(&text, &span, trail),
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Value::Integer(number),
                    Err(_) => self.flaw(
                        trail,
                        format!("expected an integer of at most 64 bits, found {integer}"),
                        None,
                    ),
                }
            }
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => self.flaw(trail, format!("expected a number, found {float}"), None),
            },
            DeValue::Boolean(boolean) => Value::Boolean(boolean),
            DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
            DeValue::Array(array) => {
                let item = |(index, item)| self.value(item, Trail::Index(&trail, index));
                Value::Array(array.into_iter().enumerate().map(item).collect())
            }
            DeValue::Table(table) => return self.table(table, span, trail),
        };
        Node { value, span }
    }

    fn string(&mut self, text: &str, span: &Range<usize>, trail: Trail<'_>) -> Value {
        match expand(text, self.env) {
            Ok(expanded) => {
                let by_name = trail.any_key(&secret::is_secret_name);
                if by_name
                    || expanded
                        .names
                        .iter()
                        .any(|name| secret::is_secret_name(name))
                {
                    self.secrets.push((expanded.text.clone(), span.clone()));
                } else if secret::hide_url_secrets(&expanded.text) != expanded.text {
                    let password = secret::url_password(&expanded.text).unwrap_or_default();
                    self.secrets.push((password.to_owned(), span.clone()));
                }
                Value::String(expanded.text)
            }
            Err(error) => {
                let hint = error.hint();
                self.flaw(trail, error.to_string(), Some(hint))
            }
        }
    }

    fn flaw(&mut self, trail: Trail<'_>, message: String, hint: Option<String>) -> Value {
        self.flaws.push(Flaw {
            path: trail.segments(),
            message,
            hint,
        });
        Value::Removed
    }
}
