//! Paths to a value inside a document, such as `websocket.route[1].consumer`.

use crate::config::values::secret::is_secret_name;

/// One step from a value to a value inside it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::config) enum Segment {
    Key(String),
    Index(usize),
}

/// The path from the root to the value being read, kept on the stack so that it costs nothing
/// unless an error needs it.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Trail<'t> {
    Root,
    Key(&'t Trail<'t>, &'t str),
    Index(&'t Trail<'t>, usize),
}

impl Trail<'_> {
    /// The steps from the root down.
    pub(in crate::config) fn segments(&self) -> Vec<Segment> {
        let (mut above, last) = match self {
            Self::Root => return Vec::new(),
            Self::Key(parent, key) => (parent.segments(), Segment::Key((*key).to_owned())),
            Self::Index(parent, index) => (parent.segments(), Segment::Index(*index)),
        };
        above.push(last);
        above
    }

    /// Returns whether a key of the path says that the value is a secret. In a table `tls` the key
    /// `key` is the path of a file.
    pub(in crate::config) fn is_secret(&self) -> bool {
        match self {
            Self::Root => false,
            Self::Key(parent, key) => {
                let is_path = *key == "key" && parent.any_key(&|key| key == "tls");
                is_secret_name(key) && !is_path || parent.is_secret()
            }
            Self::Index(parent, _) => parent.is_secret(),
        }
    }

    /// Returns whether a key of the path passes the test.
    fn any_key(&self, test: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Root => false,
            Self::Key(parent, key) => test(key) || parent.any_key(test),
            Self::Index(parent, _) => parent.any_key(test),
        }
    }
}

/// Appends a key, quoted as in a dotted TOML key.
pub(in crate::config) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.bytes().all(bare) {
        path.push_str(key);
        return;
    }
    path.push('"');
    for character in key.chars() {
        if matches!(character, '"' | '\\') {
            path.push('\\');
        }
        path.push(character);
    }
    path.push('"');
}

/// Appends an index, counted from zero.
pub(in crate::config) fn push_index(path: &mut String, index: usize) {
    use std::fmt::Write as _;
    let _ = write!(path, "[{index}]"); // writing to a String cannot fail
}

/// Appends a segment.
pub(in crate::config) fn push(path: &mut String, segment: &Segment) {
    match segment {
        Segment::Key(key) => push_key(path, key),
        Segment::Index(index) => push_index(path, *index),
    }
}

/// Splits a path into its segments. Its input comes from [`push_key`] and [`push_index`] only;
/// anything else is read as part of a key.
pub(in crate::config) fn segments(path: &str) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '.' => &rest[1..],
            '"' => quoted(&rest[1..], &mut found),
            '[' => {
                let (digits, after) = rest[1..].split_once(']').unwrap_or((&rest[1..], ""));
                found.push(
                    digits
                        .parse()
                        .map_or_else(|_| Segment::Key(digits.to_owned()), Segment::Index),
                );
                after
            }
            _ => {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                found.push(Segment::Key(rest[..end].to_owned()));
                &rest[end..]
            }
        };
    }
    found
}

/// Reads a quoted key after its opening quote; returns the rest after the closing quote.
fn quoted<'a>(text: &'a str, found: &mut Vec<Segment>) -> &'a str {
    let mut key = String::new();
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => {
                found.push(Segment::Key(key));
                return &text[at + 1..];
            }
            _ => {
                escaped = false;
                key.push(character);
            }
        }
    }
    found.push(Segment::Key(key));
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_writing_and_reading() {
        let steps = vec![
            Segment::Key("http".into()),
            Segment::Key("route".into()),
            Segment::Index(12),
            Segment::Key("a.b \"c\" [1] \\".into()),
            Segment::Key(String::new()),
            Segment::Index(0),
        ];
        let mut path = String::new();
        for step in &steps {
            push(&mut path, step);
        }
        assert_eq!(segments(&path), steps, "{path}");
    }

    #[test]
    fn plain_keys_stay_unquoted() {
        let trail = Trail::Root;
        let trail = Trail::Key(&trail, "websocket");
        let trail = Trail::Key(&trail, "route");
        let trail = Trail::Index(&trail, 1);
        let trail = Trail::Key(&trail, "consumer");
        let mut path = String::new();
        for step in trail.segments() {
            push(&mut path, &step);
        }
        assert_eq!(path, "websocket.route[1].consumer");
    }
}
