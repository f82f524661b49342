//! Values: the tree of one document, each value with its span in the text.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::read::environment::{Env, Expanded, expand};
use crate::config::read::path::{Segment, Trail};
use crate::config::read::placeholder;
use crate::config::values::secret;
use crate::net::url::{hide_url, url_secrets};

/// A value and its span of bytes in the text.
#[derive(Clone, Debug)]
pub(in crate::config) struct Node {
    pub(in crate::config) value: Value,
    pub(in crate::config) span: Range<usize>,
}

/// The content of a [`Node`].
#[derive(Clone, Debug)]
pub(in crate::config) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    /// Wrong and already reported. It stays in the tree so that indexes keep counting and its key
    /// is not reported as missing.
    Removed,
    /// A placeholder for a required value that is missing or was removed, so that reading can
    /// continue. The number selects the placeholder to try.
    Placeholder(usize),
}

/// One `key = value` of a table.
#[derive(Clone, Debug)]
pub(in crate::config) struct Entry {
    pub(in crate::config) key: String,
    pub(in crate::config) key_span: Range<usize>,
    pub(in crate::config) node: Node,
}

/// An error found while the tree was built.
#[derive(Debug)]
pub(in crate::config) struct TreeError {
    pub(in crate::config) path: Vec<Segment>,
    pub(in crate::config) message: String,
    pub(in crate::config) hint: Option<String>,
}

/// A secret, what to show instead, and its location.
pub(in crate::config) struct HiddenText {
    pub(in crate::config) text: String,
    pub(in crate::config) shown: String,
    pub(in crate::config) span: Range<usize>,
}

impl HiddenText {
    fn all(text: &str, span: &Range<usize>) -> Self {
        Self {
            text: text.to_owned(),
            shown: secret::HIDDEN.to_owned(),
            span: span.clone(),
        }
    }
}

/// Builds the tree from the TOML parser's.
pub(in crate::config) struct Builder<'a> {
    pub(in crate::config) env: Env<'a>,
    pub(in crate::config) errors: Vec<TreeError>,
    pub(in crate::config) secrets: Vec<HiddenText>,
}

impl Node {
    /// A table without entries.
    pub(in crate::config) fn empty_table(span: Range<usize>) -> Self {
        Self {
            value: Value::Table(Vec::new()),
            span,
        }
    }

    /// Returns the kind of a single value that is not a text.
    pub(in crate::config) fn scalar(&self) -> Option<&'static str> {
        match self.value {
            Value::Integer(_) => Some("an integer"),
            Value::Float(_) => Some("a number"),
            Value::Boolean(_) => Some("a boolean"),
            Value::Datetime(_) => Some("a date"),
            _ => None,
        }
    }

    /// Returns the entries, if this is a table.
    pub(in crate::config) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the entry of that name, removed or not, if this is a table.
    pub(in crate::config) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// Returns the value one segment down, removed or not.
    pub(in crate::config) fn child(&self, segment: &Segment) -> Option<&Self> {
        match (segment, &self.value) {
            (Segment::Key(key), _) => self.entry(key).map(|entry| &entry.node),
            (Segment::Index(index), Value::Array(items)) => items.get(*index),
            (Segment::Index(_), _) => None,
        }
    }

    /// Returns the value at the end of the path, if it exists.
    pub(in crate::config) fn find(&self, path: &[Segment]) -> Option<&Self> {
        path.iter()
            .try_fold(self, |node, segment| node.child(segment))
    }

    /// Returns the value at the end of the path, if it exists.
    pub(in crate::config) fn find_mut(&mut self, path: &[Segment]) -> Option<&mut Self> {
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

    /// Removes the value at the end of the path; returns `false` if it does not exist.
    pub(in crate::config) fn remove(&mut self, path: &[Segment]) -> bool {
        let Some(node) = self.find_mut(path) else {
            return false;
        };
        let removed = !matches!(node.value, Value::Removed);
        node.value = Value::Removed;
        removed
    }

    /// Inserts a placeholder for a key of this table.
    pub(in crate::config) fn insert_placeholder(&mut self, key: &str) {
        if !matches!(self.value, Value::Table(_)) {
            self.value = Value::Table(Vec::new());
        }
        let Value::Table(entries) = &mut self.value else {
            return;
        };
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.node.value = Value::Placeholder(0),
            None => entries.push(Entry {
                key: key.to_owned(),
                key_span: self.span.clone(),
                node: Self {
                    value: Value::Placeholder(0),
                    span: self.span.clone(),
                },
            }),
        }
    }

    /// Returns whether there is nothing to read: it was removed, or no placeholder was accepted.
    pub(in crate::config) fn is_removed(&self) -> bool {
        match self.value {
            Value::Removed => true,
            Value::Placeholder(attempt) => attempt >= placeholder::ATTEMPTS,
            _ => false,
        }
    }

    /// Returns whether any value inside was removed or is a placeholder.
    pub(in crate::config) fn is_incomplete(&self) -> bool {
        match &self.value {
            Value::Array(items) => items.iter().any(Self::is_incomplete),
            Value::Table(entries) => entries.iter().any(|entry| entry.node.is_incomplete()),
            Value::Removed | Value::Placeholder(_) => true,
            _ => false,
        }
    }
}

/// Equal values are written the same except for spaces and the order of keys. Numbers compare by
/// their bits, so that a NaN equals itself.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) | (Self::Datetime(a), Self::Datetime(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value == b.value)
            }
            (Self::Table(a), Self::Table(b)) => sorted(a).eq(sorted(b)),
            (Self::Removed, Self::Removed) => true,
            (Self::Placeholder(a), Self::Placeholder(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::String(text) | Self::Datetime(text) => text.hash(state),
            Self::Integer(number) => number.hash(state),
            Self::Float(number) => number.to_bits().hash(state),
            Self::Boolean(boolean) => boolean.hash(state),
            Self::Array(items) => {
                items.len().hash(state);
                items.iter().for_each(|item| item.value.hash(state));
            }
            Self::Table(entries) => {
                entries.len().hash(state);
                sorted(entries).for_each(|entry| entry.hash(state));
            }
            Self::Removed => {}
            Self::Placeholder(attempt) => attempt.hash(state),
        }
    }
}

/// Returns the keys of a table with their values, sorted by key.
fn sorted(entries: &[Entry]) -> impl Iterator<Item = (&str, &Value)> {
    let entries = entries.iter();
    let mut entries: Vec<_> = entries
        .map(|entry| (entry.key.as_str(), &entry.node.value))
        .collect();
    entries.sort_by_key(|(key, _)| *key);
    entries.into_iter()
}

impl Builder<'_> {
    /// Converts one of the parser's tables.
    pub(in crate::config) fn table(
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
        self.hide_scalar(value.get_ref(), &span, trail);
        let value = match value.into_inner() {
            DeValue::String(text) => self.string(&text, &span, trail),
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Value::Integer(number),
                    Err(_) => self.error(
                        trail,
                        format!("expected an integer of at most 64 bits, found {integer}"),
                        None,
                    ),
                }
            }
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => self.error(trail, format!("expected a number, found {float}"), None),
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
                let is_secret = trail.is_secret() || expanded.text.contains("PRIVATE KEY-----");
                self.hide(&expanded, span, is_secret);
                Value::String(expanded.text)
            }
            Err(error) => {
                let hint = error.hint();
                self.error(trail, error.to_string(), Some(hint))
            }
        }
    }

    /// A number in place of a secret is probably the secret without its quotes.
    fn hide_scalar(&mut self, value: &DeValue<'_>, span: &Range<usize>, trail: Trail<'_>) {
        let text = match value {
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            // Only the whole line is hidden: single words of the others are not secret elsewhere.
            DeValue::Boolean(_) | DeValue::Datetime(_) => "",
            DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => return,
        };
        if trail.is_secret() {
            self.secrets.push(HiddenText::all(text, span));
        }
    }

    /// Records the secrets of a text.
    fn hide(&mut self, expanded: &Expanded, span: &Range<usize>, is_secret: bool) {
        let text = &expanded.text;
        let variables = expanded.variables.iter();
        let variables = variables.filter(|(name, _)| secret::is_secret_name(name));
        let values: Vec<&str> = variables.map(|(_, value)| value.as_str()).collect();
        let shown = hide_url(text);
        let is_url = text.contains("://") && shown != *text;
        if is_secret || (!values.is_empty() && !is_url) {
            self.secrets.push(HiddenText::all(text, span));
        } else if is_url {
            self.secrets.push(HiddenText {
                text: text.clone(),
                shown,
                span: span.clone(),
            });
            let secrets = url_secrets(text).into_iter();
            self.secrets
                .extend(secrets.map(|secret| HiddenText::all(secret, span)));
        }
        let values = values.into_iter();
        self.secrets
            .extend(values.map(|value| HiddenText::all(value, span)));
    }

    fn error(&mut self, trail: Trail<'_>, message: String, hint: Option<String>) -> Value {
        self.errors.push(TreeError {
            path: trail.segments(),
            message,
            hint,
        });
        Value::Removed
    }
}
