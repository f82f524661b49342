//! Page: what a template is told of a request.

use serde_json::{Map, Value, json};

use crate::host::HostHeader;
use crate::scope::Scope;

/// Returns the variables of a page: `scope` and `user`, and over them what a view adds.
#[must_use]
pub fn variables(scope: &Scope, more: &Map<String, Value>) -> Map<String, Value> {
    let params: Map<String, Value> = scope
        .url_route
        .params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let mut query = Map::new();
    for (key, value) in scope.query_pairs() {
        query.entry(key).or_insert(Value::String(value));
    }
    let mut variables = Map::new();
    variables.insert(
        "scope".to_owned(),
        json!({
            "path": scope.path(),
            "query": query,
            "params": params,
            "host": scope.host.as_ref().map(HostHeader::name),
            "scheme": scope.scheme(),
        }),
    );
    variables.insert("user".to_owned(), json!(scope.user.as_deref()));
    variables.extend(
        more.iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    variables
}
