//! The router against a naive matcher: patterns in lines, an empty line, then paths in lines.

use std::cmp::Ordering;

use http::Method;
use oneport::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};

const ROUTES_MAX: usize = 12;
const PATHS_MAX: usize = 8;
const LINE_BYTES_MAX: usize = 80;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some((router, paths)) = table(text) else {
        return;
    };
    let patterns: Vec<Naive> = router
        .routes()
        .iter()
        .map(|route| Naive::parse(&route.pattern.to_string()))
        .collect();
    for path in paths {
        check(&router, &patterns, path);
    }
}

/// Reads the table and the paths. Routes that conflict with others are left out.
pub(super) fn table(text: &str) -> Option<(UrlRouter<()>, Vec<&str>)> {
    let mut lines = text.split('\n').filter(|line| line.len() <= LINE_BYTES_MAX);
    let mut routes: Vec<Route<()>> = lines
        .by_ref()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| RoutePattern::path(line).ok())
        .take(ROUTES_MAX)
        .map(|pattern| Route::new(pattern, ()))
        .collect();
    let paths = lines.take(PATHS_MAX).collect();
    loop {
        match UrlRouter::build(routes.clone()) {
            Ok(router) => return Some((router, paths)),
            Err(conflicts) => {
                let conflict = conflicts.first()?;
                routes.remove(conflict.route());
            }
        }
    }
}

fn check(router: &UrlRouter<()>, patterns: &[Naive], path: &str) {
    let found = resolve(router, path);
    let expected = naive_path(path).map(|segments| best(patterns, &segments));
    match (&found, &expected) {
        (Resolution::BadPath(_), None) | (Resolution::NotFound, Some(None)) => {}
        (Resolution::Found(found), Some(Some((index, params)))) => {
            assert_eq!(found.index, *index, "{path:?}");
            let captured: Vec<(&str, &str)> = found.params.iter().collect();
            let params: Vec<(&str, &str)> = params
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(captured, params, "{path:?}");
        }
        _ => panic!("{path:?}: expected {expected:?}, found {found:?}"),
    }
    // However a client encodes it, a path is the same.
    if let Resolution::Found(found) = found {
        let encoded = encode_all(path);
        match resolve(router, &encoded) {
            Resolution::Found(again) => assert_eq!(again.index, found.index, "{encoded}"),
            other => panic!("{path:?} is found, {encoded:?} is {other:?}"),
        }
    }
    // A redirect leads to a route.
    let get = Target {
        raw_path: path,
        host: None,
        method: Some(&Method::GET),
    };
    if let Resolution::SlashRedirect { raw_path } = router.resolve(&get) {
        assert!(
            matches!(resolve(router, &raw_path), Resolution::Found(_)),
            "{raw_path}"
        );
        assert!(!raw_path.starts_with("//") && !raw_path.starts_with("/\\"));
    }
}

fn resolve<'r>(router: &'r UrlRouter<()>, raw_path: &str) -> Resolution<'r, ()> {
    router.resolve(&Target {
        raw_path,
        host: None,
        method: None,
    })
}

/// Encodes all bytes but slashes and escapes.
fn encode_all(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut encoded, mut at) = (String::new(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'/' => encoded.push('/'),
            b'%' => {
                encoded.push_str(&path[at..at + 3]);
                at += 2;
            }
            byte => encoded.push_str(&format!("%{byte:02x}")),
        }
        at += 1;
    }
    if encoded.is_empty() {
        "/".to_owned()
    } else {
        encoded
    }
}

/// A pattern that is tried segment by segment.
#[derive(Debug)]
struct Naive(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Param {
        before: String,
        name: String,
        converter: String,
        after: String,
    },
    Rest(String),
}

impl Naive {
    /// Parses a pattern that the router has accepted.
    fn parse(text: &str) -> Self {
        let segments = text.strip_prefix('/').expect("a slash").split('/');
        Self(segments.map(Part::parse).collect())
    }
}

impl Part {
    fn parse(segment: &str) -> Self {
        let (mut before, mut after, mut inside) = (String::new(), String::new(), None);
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            let literal = match inside {
                None => &mut before,
                Some(_) => &mut after,
            };
            if let Some(next) = rest.strip_prefix("{{") {
                literal.push('{');
                rest = next;
            } else if let Some(next) = rest.strip_prefix("}}") {
                literal.push('}');
                rest = next;
            } else if first == '{' {
                let end = rest.find('}').expect("a closing brace");
                inside = Some(&rest[1..end]);
                rest = &rest[end + 1..];
            } else {
                literal.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        match inside {
            None => Self::Text(before),
            Some(inside) => match inside.strip_prefix('*') {
                Some(name) => Self::Rest(name.to_owned()),
                None => {
                    let (name, converter) = inside.split_once(':').unwrap_or((inside, "str"));
                    Self::Param {
                        before,
                        name: name.to_owned(),
                        converter: converter.to_owned(),
                        after,
                    }
                }
            },
        }
    }

    /// The order in which parts of the same place are tried.
    fn rank(&self) -> (u8, std::cmp::Reverse<(usize, usize)>) {
        let (rank, literal, before) = match self {
            Self::Text(_) => (0, 0, 0),
            Self::Param { before, after, .. } if before.is_empty() && after.is_empty() => (2, 0, 0),
            Self::Param { before, after, .. } => (1, before.len() + after.len(), before.len()),
            Self::Rest(_) => (3, 0, 0),
        };
        (rank, std::cmp::Reverse((literal, before)))
    }
}

type Params = Vec<(String, String)>;

/// Splits a path and decodes each segment; `None` if it is refused.
fn naive_path(raw: &str) -> Option<Vec<String>> {
    let raw = if raw.is_empty() { "/" } else { raw };
    let mut segments = Vec::new();
    let mut whole = Vec::new();
    for segment in raw.strip_prefix('/')?.split('/') {
        let mut bytes = Vec::new();
        let mut rest = segment.as_bytes();
        while let Some((first, next)) = rest.split_first() {
            if *first == b'%' {
                let digits = std::str::from_utf8(next.get(..2)?).ok()?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &next[2..];
            } else {
                bytes.push(*first);
                rest = next;
            }
        }
        whole.push(b'/');
        whole.extend_from_slice(&bytes);
        segments.push(bytes);
    }
    // A character may not be in two segments, so the whole is UTF-8 exactly if each segment is.
    let whole = String::from_utf8(whole).ok()?;
    let is_dangerous = whole.chars().any(char::is_control)
        || whole.split('/').any(|part| part == "." || part == "..");
    let text = |bytes| String::from_utf8(bytes).ok();
    (!is_dangerous).then(|| segments.into_iter().map(text).collect())?
}

fn matches(pattern: &Naive, path: &[String]) -> Option<Params> {
    let mut params = Params::new();
    for (at, part) in pattern.0.iter().enumerate() {
        let found = path.get(at)?;
        match part {
            Part::Text(text) if text == found => {}
            Part::Text(_) => return None,
            Part::Rest(name) => {
                let rest = path[at..].join("/");
                params.push((name.clone(), rest.clone()));
                return (!rest.is_empty()).then_some(params);
            }
            Part::Param {
                before,
                name,
                converter,
                after,
            } => {
                let value = found
                    .strip_prefix(before.as_str())?
                    .strip_suffix(after.as_str())?;
                let is_accepted = !value.is_empty()
                    && match converter.as_str() {
                        "int" => value.bytes().all(|byte| byte.is_ascii_digit()),
                        "slug" => value
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
                        "uuid" => {
                            let groups: Vec<&str> = value.split('-').collect();
                            let is_hex = |group: &&str| {
                                group
                                    .bytes()
                                    .all(|byte| b"0123456789abcdef".contains(&byte))
                            };
                            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
                                && groups.iter().all(is_hex)
                        }
                        _ => !value.contains('/'),
                    };
                if !is_accepted {
                    return None;
                }
                params.push((name.clone(), value.to_owned()));
            }
        }
    }
    (path.len() == pattern.0.len()).then_some(params)
}

/// Returns the first of the patterns that match, by the precedence that the documentation gives.
fn best(patterns: &[Naive], path: &[String]) -> Option<(usize, Params)> {
    let mut takers: Vec<(usize, Params)> = patterns
        .iter()
        .enumerate()
        .filter_map(|(index, pattern)| Some((index, matches(pattern, path)?)))
        .collect();
    takers.sort_by(|(one, _), (other, _)| {
        let ranks = |index: &usize| patterns[*index].0.iter().map(Part::rank);
        match ranks(one).cmp(ranks(other)) {
            Ordering::Equal => one.cmp(other),
            order => order,
        }
    });
    takers.into_iter().next()
}
