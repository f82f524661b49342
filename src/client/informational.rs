//! Informational: interim responses (1xx), whatever the protocol of the endpoint.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Request, Response, StatusCode};

type Call = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

/// Gets the status and the fields of each interim response.
#[derive(Clone)]
struct OnInformational(Arc<Call>);

/// Calls a function for each interim response to a request.
pub(crate) fn on_informational<B>(
    request: &mut Request<B>,
    call: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
) {
    let call = OnInformational(Arc::new(call));
    request.extensions_mut().insert(call.clone());
    // Over HTTP/1.1, hyper skips them, and calls this.
    hyper::ext::on_informational(request, move |interim| {
        (call.0)(interim.status(), interim.headers());
    });
}

/// An interim response has arrived over HTTP/2.
pub(super) fn received(extensions: &Extensions, interim: &Response<()>) {
    if let Some(call) = extensions.get::<OnInformational>() {
        (call.0)(interim.status(), interim.headers());
    }
}
