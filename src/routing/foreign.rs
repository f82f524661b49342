//! Foreign: patterns in the syntax of other routers, and their equivalent in ours.

use crate::routing::pattern_parser::PatternError;

/// Text that occurs only in a regular expression.
const REGEX: [&str; 10] = [
    "(?", "\\d", "\\w", "\\.", "\\/", "[^", ".*", ".+", "[0-9]", "[a-z",
];

/// Rejects a pattern in the syntax of another router (Django, Flask, Express, Rails, Next.js, Go)
/// or a regular expression, with a hint that shows the equivalent. Literal text that looks like
/// such syntax needs a `regex` route.
pub(super) fn refuse(text: &str) -> Result<(), PatternError> {
    let relative = text.strip_prefix('/').unwrap_or(text);
    if let Some(param) = regex_param(text) {
        let error = PatternError::new(
            "parameters in braces",
            format!("{:?}", param.written),
            param.position,
        );
        return Err(error.with_hint(param.hint(text)));
    }
    let is_regex = relative.starts_with('^')
        || text.starts_with('^')
        || (text.ends_with('$') && text.len() > 1)
        || REGEX.iter().any(|piece| text.contains(piece));
    if is_regex && !relative.contains('<') || text.contains("(?") {
        let source = relative.trim_start_matches('^').trim_start_matches('/');
        let source = source.trim_end_matches('$');
        return Err(
            PatternError::new("a path", "a regular expression", 0).with_hint(format!(
                "write regex = '^{source}$'; it sees the path without its leading slash"
            )),
        );
    }
    let mut position = text.len() - relative.len();
    let last = relative.trim_end_matches('/').rsplit('/').next();
    for segment in relative.split('/') {
        if let Some(hint) = hint_of(segment, last == Some(segment)) {
            let found = format!("{segment:?}");
            let error = PatternError::new("parameters in braces", found, position);
            return Err(error.with_hint(hint));
        }
        position += segment.len() + 1;
    }
    Ok(())
}

/// Returns a hint for a path without its leading slash, with other foreign syntax translated too.
pub(super) fn with_slash(text: &str) -> String {
    let path = format!("/{text}");
    let Err(error) = refuse(&path) else {
        return format!("write {path:?}");
    };
    if let Some((before, rest)) = path.split_once("?}")
        && let Some((before, name)) = before.rsplit_once('{')
    {
        let without = format!("{before}{}", rest.trim_start_matches('/'));
        return format!("write two routes, \"{before}{{{name}}}{rest}\" and {without:?}");
    }
    let mut ours_all = String::new();
    let mut rest = path.as_str();
    while let Some((before, after)) = rest.split_once('<')
        && let Some((inside, after)) = after.split_once('>')
    {
        ours_all.push_str(before);
        ours_all.push_str(&of_angle_brackets(inside));
        rest = after;
    }
    ours_all.push_str(rest);
    match refuse(&ours_all) {
        Ok(()) => format!("write {ours_all:?}"),
        Err(_) => error.hint.unwrap_or_default(),
    }
}

/// A parameter that contains a regular expression: `{id:[0-9]+}` or `:id(\d+)`.
struct RegexParam<'p> {
    written: &'p str,
    position: usize,
    name: &'p str,
    regex: &'p str,
}

impl RegexParam<'_> {
    /// Returns the parameter as one of our converters, or the whole path as a regular expression.
    fn hint(&self, path: &str) -> String {
        let name = self.name;
        let whole = format!("regex = '{}'", regex_of(path));
        match self.regex {
            ".*" | ".+" => format!("write {{*{name}}}"),
            "[^/]+" | "[^/]*" => format!("write {{{name}}}"),
            "[0-9]+" | "\\d+" => format!("write {{{name}:int}}, or {whole}"),
            "[-a-zA-Z0-9_]+" | "[\\w-]+" | "[a-z0-9-]+" | "[a-zA-Z0-9_-]+" => {
                format!("write {{{name}:slug}}, or {whole}")
            }
            _ => format!("write {whole}"),
        }
    }
}

/// Returns the first parameter of a path that contains a regular expression.
fn regex_param(path: &str) -> Option<RegexParam<'_>> {
    path.match_indices(['{', ':']).find_map(|(position, open)| {
        let rest = path.get(position + 1..)?;
        let name = name_of(rest);
        let after = rest.get(name.len()..)?;
        let (written, regex) = if open == "{" {
            let end = closing(path.get(position..)?, '{', '}')?;
            let written = path.get(position..=position + end)?;
            let regex = after.strip_prefix(':')?;
            let regex = regex.get(..regex.len().checked_sub(rest.len() + 1 - end)?)?;
            (written, regex)
        } else {
            let before = path.get(..position)?;
            let is_start = before.is_empty() || before.ends_with('/');
            let end = closing(after, '(', ')').filter(|_| is_start)?;
            let length = 1 + name.len() + end;
            let written = path.get(position..=position + length)?;
            (written, after.get(1..end)?)
        };
        let is_regex = open == ":" || converter_of(regex).is_empty();
        (is_regex && !name.is_empty() && !regex.is_empty()).then_some(RegexParam {
            written,
            position,
            name,
            regex,
        })
    })
}

/// Returns the offset of the bracket that closes the one at the start of the text.
fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, found) in text.char_indices() {
        if found == open {
            depth += 1;
        } else if found == close {
            depth = depth.checked_sub(1)?;
        }
        if depth == 0 {
            return (found == close).then_some(at);
        }
    }
    None
}

/// Translates a path with any kind of parameters into a regular expression.
fn regex_of(path: &str) -> String {
    let mut regex = String::new();
    let mut rest = path.trim_start_matches('/');
    loop {
        let group = regex_param(rest).map(|param| {
            let group = format!("(?P<{}>{})", param.name, param.regex);
            (param.position, param.written.len(), group)
        });
        let plain = rest.find('{').and_then(|position| {
            let end = closing(rest.get(position..)?, '{', '}')?;
            let inside = rest.get(position + 1..position + end)?;
            let name = name_of(inside.trim_start_matches('*'));
            let content = match inside.starts_with('*') {
                true => ".+",
                false => "[^/]+",
            };
            Some((position, end + 1, format!("(?P<{name}>{content})")))
        });
        let first = match (group, plain) {
            (Some(group), Some(plain)) if plain.0 < group.0 => Some(plain),
            (Some(group), _) => Some(group),
            (None, plain) => plain,
        };
        let Some((position, length, group)) = first else {
            regex.push_str(rest);
            return format!("^{}$", regex.trim_end_matches('$'));
        };
        regex.push_str(rest.get(..position).unwrap_or_default());
        regex.push_str(&group);
        rest = rest.get(position + length..).unwrap_or_default();
    }
}

/// Returns a hint that replaces a segment in another router's syntax.
fn hint_of(segment: &str, is_last: bool) -> Option<String> {
    let literal = format!(
        "or regex = '...' for a literal {:?}",
        segment.chars().next().unwrap_or_default()
    );
    if let Some((before, rest)) = segment.split_once('<')
        && let Some((inside, after)) = rest.split_once('>')
    {
        return Some(format!(
            "write {before}{}{after}, or regex = '...' for a literal \"<\"",
            of_angle_brackets(inside)
        ));
    }
    if let Some(rest) = segment.strip_prefix(':') {
        // Express, Rails and Sinatra: :room, :room?, :rest*, :id(\d+).
        let name = name_of(rest);
        let after = rest.get(name.len()..).unwrap_or_default();
        return (!name.is_empty()).then(|| match after.chars().next() {
            Some('?') => optional(name),
            Some('*' | '+') => format!("write {}, {literal}", ours(name, "path")),
            _ => format!("write {}, {literal}", ours(name, "")),
        });
    }
    if let Some(rest) = segment.strip_prefix('*') {
        // Globs, Express' * and Rails' *rest.
        let rest = rest.trim_start_matches('*');
        let name = name_of(rest);
        return Some(match (name, rest) {
            ("", "") if is_last => format!("write {{*path}} for the rest of the path, {literal}"),
            ("", "") => format!("write {{name}} for one segment, {literal}"),
            ("", after) => format!("write {{name}}{after} for one segment, {literal}"),
            (name, _) => format!("write {}, {literal}", ours(name, "path")),
        });
    }
    if let Some(inside) = segment
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        // Next.js and SvelteKit: [room], [...rest], [[...rest]].
        let inside = inside.trim_start_matches('[').trim_end_matches(']');
        return Some(match inside.strip_prefix("...") {
            Some(name) => format!("write {}, {literal}", ours(name, "path")),
            None => format!("write {}, {literal}", ours(name_of(inside), "")),
        });
    }
    in_braces(segment)
}

/// Returns a hint for braces in another router's syntax: `{room?}`, `{rest...}`, `{path:path}`,
/// `{**rest}`, `{id:[0-9]+}`.
fn in_braces(segment: &str) -> Option<String> {
    let (before, rest) = segment.split_once('{')?;
    if rest.starts_with('{') {
        return None;
    }
    let (inside, after) = rest.split_once('}')?;
    let stars = inside.trim_start_matches('*');
    if inside.starts_with("**") {
        return Some(format!("write {}", ours(stars, "path")));
    }
    let name = name_of(stars);
    let behind = stars.get(name.len()..).unwrap_or_default();
    match behind {
        _ if name.is_empty() => None,
        "?" => Some(optional(name)),
        "..." | "*" | "+" => Some(format!("write {before}{}{after}", ours(name, "path"))),
        _ => {
            let converter = behind.strip_prefix(':')?;
            match converter_of(converter) {
                "path" => Some(format!("write {before}{}{after}", ours(name, "path"))),
                "" => Some(format!("write regex = '...' for {converter:?}")),
                // Our own or an unknown converter: the parser reports unknown ones.
                _ => None,
            }
        }
    }
}

/// Translates Django's and Flask's `<slug:room>` and `<room>`. Flask's converters can have
/// arguments.
fn of_angle_brackets(inside: &str) -> String {
    let (converter, name) = match inside.rsplit_once(':') {
        Some((converter, name)) => (converter.split('(').next().unwrap_or(converter), name),
        None => ("", inside),
    };
    ours(name, converter)
}

/// Returns a parameter in our syntax.
fn ours(name: &str, converter: &str) -> String {
    let name = if name.is_empty() { "name" } else { name };
    match converter_of(converter) {
        "path" => format!("{{*{name}}}"),
        "int" | "slug" | "uuid" => format!("{{{name}:{}}}", converter_of(converter)),
        _ => format!("{{{name}}}"),
    }
}

/// Maps another router's converter name to ours. Returns an unknown name unchanged, and "" for a
/// regular expression.
fn converter_of(name: &str) -> &str {
    match name {
        "integer" | "i32" | "i64" | "u32" | "u64" | "number" | "digits" => "int",
        "string" | "text" | "any" => "str",
        "guid" => "uuid",
        "path" | "rest" => "path",
        _ if name.contains(['\\', '[', '+', '(', '.']) => "",
        other => other,
    }
}

fn optional(name: &str) -> String {
    format!("write two routes, one with {{{name}}} and one without")
}

fn name_of(text: &str) -> &str {
    let end = text
        .find(|found: char| !(found.is_ascii_alphanumeric() || found == '_'))
        .unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::routing::RoutePattern;

    #[test]
    fn patterns_of_other_routers_are_refused_with_our_spelling() {
        let check = |pattern: &str, expected: &str| {
            let error = RoutePattern::path(pattern).unwrap_err();
            let hint = error.hint.clone().unwrap_or_default();
            assert!(hint.starts_with(expected), "{pattern}: {error}");
        };
        // Django and Flask.
        check("/ws/<slug:room>/", "write {room:slug}");
        check("/ws/<room>/", "write {room}");
        check("/ws/<str:room>/", "write {room}");
        check("/ws/<int:id>", "write {id:int}");
        check("/ws/<path:rest>", "write {*rest}");
        check("/ws/<string(length=2):lang>/", "write {lang}");
        check("/img-<int:id>.png", "write img-{id:int}.png");
        // Express, Rails, Sinatra.
        check("/:room/", "write {room}");
        check("/:room?", "write two routes, one with {room}");
        check("/:rest*", "write {*rest}");
        check(
            "/users/:id(\\d+)/",
            "write {id:int}, or regex = '^users/(?P<id>\\d+)/$'",
        );
        check(
            "/:kind(a|b)/{n:[0-9]{4}}/{x}",
            "write regex = '^(?P<kind>a|b)/(?P<n>[0-9]{4})/(?P<x>[^/]+)$'",
        );
        check("/files/*rest", "write {*rest}");
        // Globs.
        check("/static/*", "write {*path}");
        check("/static/**", "write {*path}");
        check("/static/*/", "write {*path}");
        check("/*/edit", "write {name}");
        check("/static/*.png", "write {name}.png");
        // Starlette, axum, Go, ASP.NET, gorilla.
        check("/{rest:path}", "write {*rest}");
        check("/{rest...}", "write {*rest}");
        check("/{room?}/", "write two routes");
        check("/{**rest}", "write {*rest}");
        check(
            "/{id:[0-9]+}/",
            "write {id:int}, or regex = '^(?P<id>[0-9]+)/$'",
        );
        check("/{id:\\d+}/", "write {id:int}, or regex = ");
        check("/{room:.*}", "write {*room}");
        check("/{room:[^/]+}/", "write {room}");
        // Without the slash, all at once.
        check("<slug:room>/", "write \"/{room:slug}/\"");
        check("a/<int:id>/<path:rest>", "write \"/a/{id:int}/{*rest}\"");
        check("{room?}", "write two routes, \"/{room}\" and \"/\"");
        check("{room}/", "write \"/{room}/\"");
        // Next.js, SvelteKit.
        check("/[room]/", "write {room}");
        check("/[...rest]", "write {*rest}");
        check("/[[...rest]]", "write {*rest}");
        // Regular expressions.
        check("/^ws/$", "write regex = '^ws/$'");
        check(
            "/ws/(?P<room>\\w+)/$",
            "write regex = '^ws/(?P<room>\\w+)/$'",
        );
        check("/ws/\\d+/", "write regex = '^ws/\\d+/$'");
        check("/ws/.*", "write regex = '^ws/.*$'");
        check("/ws/$", "write regex = '^ws/$'");
    }

    #[test]
    fn what_other_routers_would_read_otherwise_and_is_plain_here_stays() {
        for pattern in [
            "/a:b/",
            "/a*b/",
            "/$metadata",
            "/a[1]/",
            "/a<b/",
            "/{room:slug}/",
            "/{*rest}",
            "/a{{b}}/",
            "/img-{id:int}.png",
            "/a+b/",
            "/a.b/~c/@d/",
            "/$",
        ] {
            let parsed = RoutePattern::path(pattern);
            assert!(parsed.is_ok() || pattern == "/$", "{pattern}: {parsed:?}");
        }
    }
}
