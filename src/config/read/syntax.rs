//! Syntax: advice for a text that is not TOML.

/// The form of the main file's lines, shown to users who pass another format.
const TOML: &str = "TOML has [server] for a section and bind = [\"127.0.0.1:8000\"] for a key";

/// Typographic quotes, which word processors and web pages put in place of straight ones.
const CURLY: [char; 8] = ['“', '”', '„', '‟', '‘', '’', '«', '»'];

/// Returns which other format the text looks like, if any.
pub(in crate::config) fn other_format(text: &str) -> Option<String> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.clone().next()?;
    if first.starts_with('{') {
        return Some(format!("this looks like JSON; {TOML}"));
    }
    if first.starts_with('<') {
        return Some(format!("this looks like XML; {TOML}"));
    }
    let is_yaml = first == "---"
        || lines
            .clone()
            .all(|line| !line.contains('=') && !line.starts_with('['));
    if is_yaml && lines.any(is_yaml_line) {
        return Some(format!("this looks like YAML; {TOML}"));
    }
    None
}

/// Returns advice for one line, if it has a known mistake.
pub(in crate::config) fn slip(line: &str, said: &str) -> Option<String> {
    let line = line.trim();
    if let Some(quote) = line.chars().find(|found| CURLY.contains(found)) {
        return Some(format!(
            "write straight quotes, \" or ', instead of {quote}"
        ));
    }
    if line.starts_with("//") || line.starts_with("/*") || line.starts_with(';') {
        return Some("a comment begins with #".to_owned());
    }
    if line.ends_with(';') {
        return Some("leave out the semicolon at the end".to_owned());
    }
    if said.contains("escape") {
        return Some("write text with backslashes in single quotes: '\\d+'".to_owned());
    }
    if line.contains(":=") {
        return Some("write = instead of :=".to_owned());
    }
    let Some((_, value)) = line.split_once('=') else {
        return slip_without_equals(line);
    };
    let value = value.split('#').next().unwrap_or_default().trim();
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some("write true".to_owned()),
        "false" | "no" | "off" => Some("write false".to_owned()),
        "none" | "null" | "nil" => Some("leave the key out".to_owned()),
        _ => None,
    }
}

fn slip_without_equals(line: &str) -> Option<String> {
    if is_yaml_line(line) {
        let (key, value) = line.split_once(':')?;
        let key = key.trim_start_matches("- ").trim();
        return Some(match value.trim() {
            "" => format!("write [{key}] for a section"),
            _ => format!("write {key} = ... instead of {key}: ..."),
        });
    }
    let (key, value) = line.split_once(char::is_whitespace)?;
    let is_key = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_key && !value.is_empty())
        .then(|| format!("write {key} = ..., with = between key and value"))
}

/// Returns whether a line is `key:`, `key: value` or `- key: value`.
fn is_yaml_line(line: &str) -> bool {
    let line = line.strip_prefix("- ").unwrap_or(line);
    let Some((key, value)) = line.split_once(':') else {
        return false;
    };
    let is_key =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'"' | b'\'');
    !key.is_empty() && key.bytes().all(is_key) && (value.is_empty() || value.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_named() {
        let check = |text: &str, expected: Option<&str>| {
            let found = other_format(text);
            let found = found.as_deref().and_then(|hint| hint.split(';').next());
            assert_eq!(found, expected, "{text}");
        };
        check("server:\n  port: 80\n", Some("this looks like YAML"));
        check(
            "---\n# a\nhttp:\n  - path: /\n",
            Some("this looks like YAML"),
        );
        check("{\"server\": {}}", Some("this looks like JSON"));
        check("<xml/>", Some("this looks like XML"));
        check("[server]\nbind: x\n", None);
        check("server {\n  listen 80;\n}\n", None);
        check("", None);
    }

    #[test]
    fn known_slips_say_what_to_write() {
        let check = |line: &str, said: &str, expected: &str| {
            let found = slip(line, said).unwrap_or_default();
            assert!(found.contains(expected), "{line}: {found}");
        };
        check("bind = [“127.0.0.1:8000”]", "", "straight quotes");
        check("name = ‘x’", "", "straight quotes");
        check("// bind", "", "begins with #");
        check("; bind", "", "begins with #");
        check("workers = 4;", "", "semicolon");
        check(
            "regex = \"^\\d+$\"",
            "missing escaped value",
            "single quotes",
        );
        check("access = True", "", "write true");
        check("access = off # x", "", "write false");
        check("dir = None", "", "leave the key out");
        check("bind: 127.0.0.1:8000", "", "write bind = ...");
        check("server:", "", "[server]");
        check("- path: /", "", "write path = ...");
        check("listen 80", "", "with = between");
        check("a := 1", "", "instead of :=");
        assert_eq!(slip("workers = 4", ""), None);
        assert_eq!(slip("/", ""), None);
    }
}
