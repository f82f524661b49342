//! JSON object: the members of a JSON object, as they are written.
//!
//! Nothing is converted. Numbers keep their digits, texts their escapes, and nesting is not
//! limited: values are skipped without recursion.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// A member of an object, both parts as they are written: the name with its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    name: &'a str,
    pub(super) value: &'a str,
}

impl<'a> Member<'a> {
    /// Returns whether that is the member's name. An escape may hide it: `"typ\u0065"`.
    pub(super) fn is_named(&self, name: &str) -> bool {
        let written = self.name.get(1..self.name.len() - 1).unwrap_or_default();
        written == name || (written.contains('\\') && text(self.name).as_deref() == Some(name))
    }

    /// Returns the value if it is a text; `None` for any other value, and for a text with half a
    /// surrogate pair.
    pub(super) fn text(&self) -> Option<Cow<'a, str>> {
        text(self.value)
    }

    pub(super) fn is_null(&self) -> bool {
        self.value == "null"
    }
}

/// Decodes a JSON string.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(json).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Checks that a text is JSON, and calls `each` with the members if it is an object, in their
/// order. A name may occur twice.
pub(super) fn members<'a>(
    json: &'a str,
    each: impl FnMut(Member<'a>),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(MemberVisitor(each))?;
    deserializer.end()
}

struct MemberVisitor<F>(F);

impl<'de, F: FnMut(Member<'de>)> Visitor<'de> for MemberVisitor<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(Member {
                name: name.get(),
                value: value.get(),
            });
        }
        Ok(())
    }
}

/// Returns an object's JSON with a member whose value is a text without escapes. It replaces the
/// object's own members of that name: clients differ in which of two they read (RFC 8259 §4).
///
/// The object must have a member, and nothing before or after its braces.
pub(super) fn with_member(json: &str, name: &str, value: &dyn Display) -> String {
    let mut out = String::with_capacity(json.len() + name.len() + 48);
    let mut is_replaced = false;
    // A name is either written as it is or with an escape. The search is cheaper than the members.
    if json.contains(name) || json.contains('\\') {
        let mut copied = 0;
        let replaced = members(json, |member| {
            if member.is_named(name) {
                let at = member.value.as_ptr().addr() - json.as_ptr().addr();
                let _ = write!(out, "{}\"{value}\"", &json[copied..at]);
                copied = at + member.value.len();
                is_replaced = true;
            }
        });
        if replaced.is_err() || !is_replaced {
            is_replaced = false;
            out.clear();
        } else {
            out.push_str(&json[copied..]);
        }
    }
    if !is_replaced {
        let open = json.strip_suffix('}').unwrap_or(json);
        let _ = write!(out, "{open},\"{name}\":\"{value}\"}}");
    }
    out
}

/// Returns an object's JSON without the members of a name, and the last one's value if there are
/// any.
pub(super) fn without_member<'a>(
    json: &'a str,
    name: &str,
) -> Result<(Cow<'a, str>, Option<&'a str>), serde_json::Error> {
    if !json.contains(name) {
        return Ok((Cow::Borrowed(json), None));
    }
    let at = |part: &str| part.as_ptr().addr() - json.as_ptr().addr();
    let mut out = String::with_capacity(json.len());
    let mut value = None;
    let (mut end, mut has_members) = (0, false);
    members(json, |member| {
        let start = at(member.name);
        if end == 0 {
            out.push_str(&json[..start]);
        }
        let before = std::mem::replace(&mut end, at(member.value) + member.value.len());
        if member.is_named(name) {
            value = Some(member.value);
        } else {
            // With the comma and the whitespace before it, unless it is now the first.
            out.push_str(&json[if has_members { before } else { start }..end]);
            has_members = true;
        }
    })?;
    if value.is_none() {
        return Ok((Cow::Borrowed(json), None));
    }
    out.push_str(&json[end..]);
    Ok((Cow::Owned(out), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_taken_out_of_an_object() {
        for (json, rest) in [
            (r#"{"a":1, "b": [2]}"#, r#"{"a":1}"#),
            (r#"{"b": [2],"a":1 }"#, r#"{"a":1 }"#),
            (
                r#"{ "b": [2] , "a":1,"c":{"b":3}}"#,
                r#"{ "a":1,"c":{"b":3}}"#,
            ),
            (r#"{"b": [2]}"#, "{}"),
        ] {
            assert_eq!(
                without_member(json, "b").unwrap(),
                (Cow::Borrowed(rest), Some("[2]"))
            );
        }
        let json = r#"{"a":"b"}"#;
        assert_eq!(without_member(json, "b").unwrap(), (json.into(), None));
    }

    #[test]
    fn members_are_as_they_are_written() {
        let json = " {\"a\" : 1e2, \"\\u0061\": \"\\ud800\",\n\"c\":[ {} ] , \"a\":null} ";
        let mut found = Vec::new();
        members(json, |member| {
            found.push((member.is_named("a"), member.value));
        })
        .unwrap();
        assert_eq!(
            found,
            [
                (true, "1e2"),
                (true, "\"\\ud800\""),
                (false, "[ {} ]"),
                (true, "null")
            ]
        );
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        members(&deep, |_| {}).unwrap();
        for bad in [
            "[]",
            "1",
            "{",
            "{} 1",
            "{\"a\":01}",
            "{\"a\":\"\n\"}",
            "{1:2}",
        ] {
            assert!(members(bad, |_| {}).is_err(), "{bad}");
        }
    }

    #[test]
    fn member_that_is_set_is_the_only_one_of_its_name() {
        for (json, expected) in [
            (r#"{"a":1}"#, r#"{"a":1,"b":"x"}"#),
            (r#"{"a":1 }"#, r#"{"a":1 ,"b":"x"}"#),
            (r#"{"b" : 7,"a":1}"#, r#"{"b" : "x","a":1}"#),
            (r#"{"\u0062":{"b":1},"b":2}"#, r#"{"\u0062":"x","b":"x"}"#),
            (
                r#"{"a":"b\\","c":{"b":1}}"#,
                r#"{"a":"b\\","c":{"b":1},"b":"x"}"#,
            ),
        ] {
            assert_eq!(with_member(json, "b", &"x"), expected);
        }
    }
}
