//! Explanation: whether each route serves a target, with the reason if it does not.

use std::fmt;

use crate::routing::canonical::{BadPath, CanonicalPath, decode};
use crate::routing::converter::Converter;
use crate::routing::params::Params;
use crate::routing::resolution::{Resolution, Target};
use crate::routing::router::UrlRouter;
use crate::routing::segment::Mismatch;

/// Whether one route serves a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The route's index in the table.
    pub index: usize,
    /// The verdict.
    pub verdict: Verdict,
}

/// Whether a route serves a target, with the reason if it does not. Displays as a sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The route serves the target, with these parameters.
    Serves(Params),
    /// The route matches, but an earlier one takes the request.
    Shadowed {
        /// The index of the route that serves the target.
        by: usize,
    },
    /// The path is rejected before any route is tried.
    BadPath(BadPath),
    /// The path does not match; the sentence states where.
    Path(String),
    /// The path matches except for one value.
    Converter {
        /// The name of the parameter.
        param: String,
        /// The pattern's converter.
        converter: Converter,
        /// The value in the path.
        found: String,
    },
    /// The route is for another host.
    Host {
        /// The host the route is for.
        expected: String,
        /// The host of the request.
        found: Option<String>,
    },
    /// The route is for other methods.
    Method {
        /// The methods the route is for.
        expected: Vec<String>,
        /// The method of the request.
        found: String,
    },
}

impl<T> UrlRouter<T> {
    /// Explains for every route, in file order, whether it serves the target, and if not, why.
    ///
    /// ```
    /// use oneport::routing::{Route, RoutePattern, Target, UrlRouter};
    ///
    /// let router = UrlRouter::build(vec![Route::new(RoutePattern::path("/n/{x:int}/")?, ())]).unwrap();
    /// let target = Target { raw_path: "/n/seven/", host: None, method: None };
    /// let sentence = router.explain(&target)[0].verdict.to_string();
    /// assert_eq!(sentence, "expected int for \"x\", found \"seven\"");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, target: &Target<'_>) -> Vec<Explanation> {
        let winner = match self.resolve(target) {
            Resolution::Found(found) => Some(found.index),
            _ => None,
        };
        let path = CanonicalPath::parse(target.raw_path);
        let verdict = |index: usize| match &path {
            Err(reason) => Verdict::BadPath(reason.clone()),
            Ok(path) => self.verdict(index, path, target, winner),
        };
        (0..self.routes().len())
            .map(|index| Explanation {
                index,
                verdict: verdict(index),
            })
            .collect()
    }

    fn verdict(
        &self,
        index: usize,
        path: &CanonicalPath<'_>,
        target: &Target<'_>,
        winner: Option<usize>,
    ) -> Verdict {
        let route = &self.routes()[index];
        let params = match route.pattern.capture(path) {
            Ok(params) => params,
            Err(mismatch) => return verdict_of(mismatch),
        };
        if !route.takes_host(target.host) {
            let expected = route
                .host
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            return Verdict::Host {
                expected,
                found: target.host.map(str::to_owned),
            };
        }
        if let Some(method) = target
            .method
            .filter(|method| !route.takes_method(Some(method)))
        {
            let expected = route.methods.iter().map(ToString::to_string).collect();
            return Verdict::Method {
                expected,
                found: method.to_string(),
            };
        }
        match winner {
            Some(by) if by != index => Verdict::Shadowed { by },
            _ => Verdict::Serves(route.with_defaults(params)),
        }
    }
}

/// Describes a mismatch in a sentence. Segments are shown decoded.
fn verdict_of(mismatch: Mismatch<'_>) -> Verdict {
    Verdict::Path(match mismatch {
        Mismatch::Text {
            segment,
            expected: "",
            found,
        } => {
            format!(
                "expected the end of the path at segment {segment}, found {:?}",
                decode(found)
            )
        }
        Mismatch::Text {
            segment,
            expected,
            found,
        } => {
            format!(
                "expected {:?} at segment {segment}, found {:?}",
                decode(expected),
                decode(found)
            )
        }
        Mismatch::Around {
            segment,
            before: "",
            after: "",
            ..
        } => {
            format!("expected a value at segment {segment}, found nothing")
        }
        Mismatch::Around {
            segment,
            before,
            after,
            found,
        } => {
            let around = format!("{}...{}", decode(before), decode(after));
            format!(
                "expected {around:?} at segment {segment}, found {:?}",
                decode(found)
            )
        }
        Mismatch::Ended { segment } => {
            format!("expected segment {segment}, found the end of the path")
        }
        Mismatch::Longer { rest: "" } => "expected no trailing slash, found one".to_owned(),
        Mismatch::Longer { rest } => {
            format!(
                "expected the end of the path, found {:?}",
                format!("/{}", decode(rest))
            )
        }
        Mismatch::Regex => "the regular expression does not match".to_owned(),
        Mismatch::Converter { param, found } => {
            let (converter, found) = (param.converter, decode(found).into_owned());
            return Verdict::Converter {
                param: param.name.to_string(),
                converter,
                found,
            };
        }
    })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves(_) => f.write_str("serves it"),
            Self::Shadowed { by } => write!(f, "matches, but route {by} comes first"),
            Self::BadPath(reason) => reason.fmt(f),
            Self::Path(sentence) => f.write_str(sentence),
            Self::Converter {
                param,
                converter,
                found,
            } => {
                write!(f, "expected {converter} for {param:?}, found {found:?}")
            }
            Self::Host {
                expected,
                found: Some(found),
            } => write!(f, "expected host {expected}, found {found}"),
            Self::Host {
                expected,
                found: None,
            } => write!(f, "expected host {expected}, found none"),
            Self::Method { expected, found } => {
                write!(
                    f,
                    "expected method {}, found {found}",
                    expected.join(" or ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::routing::tests::resolution::{get, regex, route, with_host, with_methods};

    #[test]
    fn explain_says_why_each_route_does_not_serve() {
        let router = UrlRouter::build(vec![
            route("/u/{id:int}/", "int"),
            route("/u/me/", "me"),
            route("/u/me", "bare"),
            route("/u/{x}/more/", "more"),
            route("/u/img-{x}/", "img"),
            with_host("other.com", route("/u/you/", "host")),
            with_methods(&[Method::POST, Method::PUT], route("/u/{z}/", "post")),
            route("/u/{name}/", "name"),
            route("/{*rest}", "rest"),
            regex("^x|^$", "regex"),
        ])
        .unwrap();
        let verdicts: Vec<String> = router
            .explain(&get("/u/you/"))
            .iter()
            .map(|one| one.verdict.to_string())
            .collect();
        let expected = [
            "expected int for \"id\", found \"you\"",
            "expected \"me\" at segment 2, found \"you\"",
            "expected \"me\" at segment 2, found \"you\"",
            "expected \"more\" at segment 3, found \"\"",
            "expected \"img-...\" at segment 2, found \"you\"",
            "expected host other.com, found example.com",
            "expected method POST or PUT, found GET",
            "serves it",
            "matches, but route 7 comes first",
            "the regular expression does not match",
        ];
        assert_eq!(verdicts, expected);
        let verdicts = router.explain(&get("/u/me"));
        assert_eq!(
            verdicts[1].verdict.to_string(),
            "expected segment 3, found the end of the path"
        );
        let verdicts = router.explain(&get("/u/me/"));
        assert_eq!(
            verdicts[2].verdict.to_string(),
            "expected no trailing slash, found one"
        );
        let verdicts = router.explain(&get("/.."));
        assert_eq!(
            verdicts[0].verdict.to_string(),
            "expected no \".\" or \"..\" segment in the path"
        );
    }
}
