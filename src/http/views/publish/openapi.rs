//! OpenAPI: the machine-readable description of the server API.

use http::StatusCode;
use serde_json::{Value, json};

use super::response::json_response;
use crate::http::Response;
use crate::scope::Scope;

/// The document without its `servers` and `version`.
const DOCUMENT: &str = include_str!("openapi.json");

/// Returns the document (OpenAPI 3.1) with the URL path that it was requested at.
pub(super) fn document(scope: &Scope, call: &str) -> Response {
    let mut document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    let base = scope.raw_path().trim_end_matches('/');
    let base = base.strip_suffix(call).unwrap_or(base);
    let root_path = scope.root_path();
    let base = if base.starts_with(root_path) {
        base.to_owned()
    } else {
        format!("{root_path}{base}")
    };
    document["servers"] = json!([{"url": base.trim_end_matches('/')}]);
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    json_response(StatusCode::OK, &document)
}
