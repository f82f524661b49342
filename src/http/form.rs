//! Form: the fields of a form that was sent (WHATWG URL §5, `application/x-www-form-urlencoded`).

use http::header;
use percent_encoding::percent_decode_str;

use crate::scope::Scope;

/// The fields of a form, in their order.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Reads the body of a form.
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

/// Tells whether a request's body is a form.
#[must_use]
pub fn is_form(scope: &Scope) -> bool {
    is_of_type(scope, "application/x-www-form-urlencoded")
}

/// Tells whether a request's body is JSON.
#[must_use]
pub fn is_json(scope: &Scope) -> bool {
    is_of_type(scope, "application/json")
}

/// Tells whether a client wants JSON rather than a page.
#[must_use]
pub fn wants_json(scope: &Scope) -> bool {
    let accept = scope.headers.text(&header::ACCEPT).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

fn is_of_type(scope: &Scope, wanted: &str) -> bool {
    scope
        .headers
        .text(&header::CONTENT_TYPE)
        .and_then(|found| found.split(';').next())
        .is_some_and(|found| found.trim().eq_ignore_ascii_case(wanted))
}
