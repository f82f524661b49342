//! Method: the method of a request in its span, as the semantic conventions for HTTP have it.

use http::Method;

use super::span::Span;

/// Sets the attributes of a method.
pub(crate) fn set_method(span: &mut Span, method: &Method) {
    match is_known(method) {
        true => span.set("http.request.method", method.as_str()),
        false => {
            span.set("http.request.method", "_OTHER");
            span.set("http.request.method_original", method.as_str());
        }
    }
}

/// Returns a method as the name of a span has it.
pub(crate) fn method_name(method: &Method) -> &str {
    match is_known(method) {
        true => method.as_str(),
        false => "HTTP",
    }
}

/// Returns whether the conventions know a method; others would make too many names.
fn is_known(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ]
    .contains(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_a_client_made_up_is_no_name() {
        assert_eq!(method_name(&Method::PUT), "PUT");
        assert_eq!(
            method_name(&Method::from_bytes(b"FOOBAR1").unwrap()),
            "HTTP"
        );
    }
}
