//! Reverse: the path of a named route.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::routing::canonical::{BadPath, CanonicalPath, decode};
use crate::routing::converter::Converter;
use crate::routing::pattern::Kind;
use crate::routing::router::UrlRouter;
use crate::routing::segment::{Param, Segment};

/// The characters to encode in a segment: all except those that RFC 3986 section 3.3 allows.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The same for several segments: slashes are not encoded.
const SEGMENTS: &AsciiSet = &SEGMENT.remove(b'/');

/// The reason why a name cannot be reversed to a path.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReverseError {
    /// No route has this name.
    #[error("no route named {name:?}")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// The route is a regular expression.
    #[error(
        "route {name:?} has a `regex`, which cannot be reversed: only a route with a `path` can"
    )]
    Regex {
        /// The name of the route.
        name: String,
    },
    /// The path needs a parameter that was not given.
    #[error("route {name:?} needs a value for {param:?}")]
    Missing {
        /// The name of the route.
        name: String,
        /// The name of the parameter.
        param: String,
    },
    /// The path has no such parameter.
    #[error("route {name:?} has no parameter {param:?}")]
    Unexpected {
        /// The name of the route.
        name: String,
        /// The name of the parameter.
        param: String,
    },
    /// The converter rejects the value.
    #[error("expected {converter} for {param:?} of route {name:?}, found {value:?}")]
    Refused {
        /// The name of the route.
        name: String,
        /// The name of the parameter.
        param: String,
        /// The pattern's converter.
        converter: Converter,
        /// The value given.
        value: String,
    },
    /// The values produce a path that a request cannot have.
    #[error("the values for route {name:?} make an invalid path")]
    BadPath {
        /// The name of the route.
        name: String,
        /// The reason why the path is invalid.
        #[source]
        reason: BadPath,
    },
}

impl<T> UrlRouter<T> {
    /// Returns the percent-encoded path of a named route. Resolving it gives the same values.
    ///
    /// ```
    /// use oneport::routing::{Route, RoutePattern, UrlRouter};
    ///
    /// let mut route = Route::new(RoutePattern::path("/café/{dish}/")?, ());
    /// route.name = Some("dish".into());
    /// let router = UrlRouter::build(vec![route]).unwrap();
    /// assert_eq!(router.url_for("dish", &[("dish", "a b")])?, "/caf%C3%A9/a%20b/");
    /// assert!(router.url_for("dish", &[("dish", "a/b")]).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn url_for(&self, name: &str, params: &[(&str, &str)]) -> Result<String, ReverseError> {
        let name = name.to_owned();
        let Some((_, route)) = self.named(&name) else {
            return Err(ReverseError::UnknownName { name });
        };
        let Kind::Path(segments) = route.pattern.kind() else {
            return Err(ReverseError::Regex { name });
        };
        let known = |param: &str| route.pattern.param_names().any(|known| known == param);
        if let Some((param, _)) = params.iter().find(|(param, _)| !known(param)) {
            return Err(ReverseError::Unexpected {
                name,
                param: (*param).to_owned(),
            });
        }
        let mut url = String::new();
        for segment in segments {
            url.push('/');
            match segment {
                Segment::Text(text) => url.extend(utf8_percent_encode(&decode(text), SEGMENT)),
                Segment::Param {
                    before,
                    param,
                    after,
                } => {
                    url.extend(utf8_percent_encode(&decode(before), SEGMENT));
                    url.extend(utf8_percent_encode(
                        value_of(&name, param, params)?,
                        SEGMENT,
                    ));
                    url.extend(utf8_percent_encode(&decode(after), SEGMENT));
                }
                Segment::Rest(param) => {
                    let mut value = value_of(&name, param, params)?;
                    // A link that begins with two slashes leads to another host.
                    if let Some(behind) = value.strip_prefix('/').filter(|_| url == "/") {
                        url.push_str("%2F");
                        value = behind;
                    }
                    url.extend(utf8_percent_encode(value, SEGMENTS));
                }
            }
        }
        match CanonicalPath::parse(&url).map(|_| ()) {
            Ok(()) => Ok(url),
            Err(reason) => Err(ReverseError::BadPath { name, reason }),
        }
    }
}

/// Returns the value for a parameter if its converter accepts it.
fn value_of<'a>(
    name: &str,
    param: &Param,
    params: &[(&str, &'a str)],
) -> Result<&'a str, ReverseError> {
    let (name, wanted) = (name.to_owned(), param.name.to_string());
    let Some((_, value)) = params.iter().find(|(given, _)| *given == &*param.name) else {
        return Err(ReverseError::Missing {
            name,
            param: wanted,
        });
    };
    if !param.converter.accepts(value) {
        let (converter, value) = (param.converter, (*value).to_owned());
        return Err(ReverseError::Refused {
            name,
            param: wanted,
            converter,
            value,
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Route;
    use crate::routing::tests::resolution::{regex, route};

    #[test]
    fn url_for_reports_missing_and_rejected_values() {
        let named = |name: &str, route| Route {
            name: Some(name.to_owned()),
            ..route
        };
        let router = UrlRouter::build(vec![
            named("user", route("/u/{id:int}/", "")),
            named("all", route("/{*rest}", "")),
            named("regex", regex("^x?$", "")),
        ])
        .unwrap();
        let check = |name: &str, params: &[(&str, &str)], expected: Result<&str, &str>| {
            let found = router
                .url_for(name, params)
                .map_err(|error: ReverseError| error.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        check("user", &[("id", "007")], Ok("/u/007/"));
        check("all", &[("rest", "a b/é")], Ok("/a%20b/%C3%A9"));
        check("all", &[("rest", "/evil.com")], Ok("/%2Fevil.com"));
        check(
            "user",
            &[("id", "x")],
            Err("expected int for \"id\" of route \"user\", found \"x\""),
        );
        check("user", &[], Err("route \"user\" needs a value for \"id\""));
        check(
            "user",
            &[("id", "1"), ("x", "")],
            Err("route \"user\" has no parameter \"x\""),
        );
        check("none", &[], Err("no route named \"none\""));
        check(
            "regex",
            &[],
            Err(
                "route \"regex\" has a `regex`, which cannot be reversed: only a route with a `path` can",
            ),
        );
        check(
            "all",
            &[("rest", "a/../b")],
            Err("the values for route \"all\" make an invalid path"),
        );
    }
}
