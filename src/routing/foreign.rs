//! Foreign: patterns in the syntax of other routers, and how they are written here.

use crate::routing::pattern_parser::PatternError;

/// Pieces that only a regular expression has.
const REGEX: [&str; 10] = [
    "(?", "\\d", "\\w", "\\.", "\\/", "[^", ".*", ".+", "[0-9]", "[a-z",
];

/// Says how a pattern is written here if it is in the syntax of another router: Django, Flask, Express, Rails, Next.js, Go,
/// or a regular expression. What looks like one of them and is meant literally is written as a `regex`.
pub(super) fn refuse(text: &str) -> Result<(), PatternError> {
    let relative = text.strip_prefix('/').unwrap_or(text);
    let is_regex = relative.starts_with('^')
        || text.starts_with('^')
        || (text.ends_with('$') && text.len() > 1)
        || REGEX.iter().any(|piece| text.contains(piece));
    if is_regex && !relative.contains('<') || text.contains("(?") {
        let source = relative.trim_start_matches('^').trim_start_matches('/');
        return Err(
            PatternError::new("a path", "a regular expression", 0).with_hint(format!(
                "write regex = '^{source}'; it sees the path without its leading slash"
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

/// What to write instead of a segment of another router's.
fn hint_of(segment: &str, is_last: bool) -> Option<String> {
    let literal = format!(
        "or regex = '...' for a literal {:?}",
        segment.chars().next().unwrap_or_default()
    );
    if let Some((before, rest)) = segment.split_once('<')
        && let Some((inside, after)) = rest.split_once('>')
    {
        // Django and Flask: <slug:room>, <room>; Flask's converters may have arguments.
        let (converter, name) = match inside.rsplit_once(':') {
            Some((converter, name)) => (converter.split('(').next().unwrap_or(converter), name),
            None => ("", inside),
        };
        return Some(format!(
            "write {before}{}{after}, or regex = '...' for a literal \"<\"",
            ours(name, converter)
        ));
    }
    if let Some(rest) = segment.strip_prefix(':') {
        // Express, Rails and Sinatra: :room, :room?, :rest*, :id(\d+).
        let name = name_of(rest);
        let after = rest.get(name.len()..).unwrap_or_default();
        return (!name.is_empty()).then(|| match after.chars().next() {
            Some('?') => optional(name),
            Some('*' | '+') => format!("write {}, {literal}", ours(name, "path")),
            Some('(') => "write regex = '...' with a named group".to_owned(),
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

/// Braces as others fill them: `{room?}`, `{rest...}`, `{path:path}`, `{**rest}`, `{id:[0-9]+}`.
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
                // Ours, or one that is not known: the parser says which there are.
                _ => None,
            }
        }
    }
}

/// A parameter as it is written here.
fn ours(name: &str, converter: &str) -> String {
    let name = if name.is_empty() { "name" } else { name };
    match converter_of(converter) {
        "path" => format!("{{*{name}}}"),
        "int" | "slug" | "uuid" => format!("{{{name}:{}}}", converter_of(converter)),
        _ => format!("{{{name}}}"),
    }
}

/// The converter that another router's name stands for; the name itself where none does, "" for a regular expression.
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
        check("/:id(\\d+)/", "write regex = ");
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
        check("/{id:[0-9]+}/", "write regex = ");
        check("/{id:\\d+}/", "write regex = ");
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
        check("/ws/\\d+/", "write regex = ");
        check("/ws/.*", "write regex = ");
        check("/ws/$", "write regex = ");
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
