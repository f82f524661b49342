//! Form: the fields of a submitted form (WHATWG URL §5, `application/x-www-form-urlencoded`).

use http::header;
use percent_encoding::percent_decode_str;

use crate::scope::Scope;

/// The fields of a form, in their order.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Parses the body of a form.
    ///
    /// ```
    /// use oneport::http::form::Form;
    /// let form = Form::parse("name=a+b&x=%C3%A9");
    /// assert_eq!((form.get("name"), form.get("x"), form.get("y")), (Some("a b"), Some("é"), None));
    /// ```
    #[must_use]
    pub fn parse(body: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        Self(
            body.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// Returns the first value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }
}

/// Returns whether a request's body is a form.
#[must_use]
pub fn is_form(scope: &Scope) -> bool {
    is_of_type(scope, "application/x-www-form-urlencoded")
}

/// Returns whether a request's body is JSON.
#[must_use]
pub fn is_json(scope: &Scope) -> bool {
    is_of_type(scope, "application/json")
}

/// Returns whether a client prefers JSON to a page.
#[must_use]
pub fn wants_json(scope: &Scope) -> bool {
    accepts(scope, "application/json") && !accepts(scope, "text/html")
}

/// Returns whether `Accept` names a media type, on any of its lines and in any case, without `q=0`
/// (RFC 9110 §12.5.1). A range such as `*/*` does not count.
#[must_use]
pub fn accepts(scope: &Scope, media_type: &str) -> bool {
    scope
        .headers
        .all(&header::ACCEPT)
        .flat_map(|field| field.split(|byte| *byte == b','))
        .any(|element| {
            let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let is_named = parts
                .next()
                .is_some_and(|named| named.eq_ignore_ascii_case(media_type.as_bytes()));
            is_named && !parts.any(is_zero_weight)
        })
}

/// `q=0`, `q=0.0` and so on.
fn is_zero_weight(parameter: &[u8]) -> bool {
    match parameter {
        [b'q' | b'Q', b'=', weight @ ..] => {
            weight.first() == Some(&b'0') && !weight.iter().any(|byte| (b'1'..=b'9').contains(byte))
        }
        _ => false,
    }
}

fn is_of_type(scope: &Scope, wanted: &str) -> bool {
    scope
        .headers
        .text(&header::CONTENT_TYPE)
        .and_then(|found| found.split(';').next())
        .is_some_and(|found| found.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use http::uri::PathAndQuery;

    use super::*;
    use crate::scope::ScopeType;

    #[test]
    fn accept_names_a_type_in_any_case_on_any_line_unless_its_weight_is_zero() {
        let check = |lines: &[&str], expected: bool| {
            let target = PathAndQuery::from_static("/");
            let mut scope = Scope::new(ScopeType::Http, Method::GET, target);
            for line in lines {
                let value = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
                scope.headers.map_mut().append(header::ACCEPT, value);
            }
            assert_eq!(accepts(&scope, "text/html"), expected, "{lines:?}");
        };
        for lines in [
            &["text/html"][..],
            &["*/*, Text/HTML ; level=1;q=0.1"],
            &["image/png", "text/html"],
            &["caf\u{e9}/x, text/html"],
        ] {
            check(lines, true);
        }
        let many = ",".repeat(10_000);
        for lines in [
            &["*/*"][..],
            &["text/*"],
            &["text/htmlx, xtext/html"],
            &["text/html;q=0"],
            &["text/html; Q=0.000"],
            &["application/json;note=text/html"],
            &[&many],
            &[],
        ] {
            check(lines, false);
        }
    }
}
