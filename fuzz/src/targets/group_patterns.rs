//! Patterns of groups' names: the input is a pattern, a line break, and the value of its parameter.

use http::Method;
use http::uri::PathAndQuery;
use oneport::channels::GroupName;
use oneport::group_pattern::GroupPattern;
use oneport::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};
use oneport::scope::{Scope, ScopeType};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (pattern, path) = text.split_once('\n').unwrap_or((text, "room"));
    let Ok(parsed) = pattern.parse::<GroupPattern>() else {
        return;
    };
    let shown = parsed.to_string();
    assert_eq!(
        shown.parse::<GroupPattern>().as_ref(),
        Ok(&parsed),
        "{shown:?}"
    );
    let route = Route::new(RoutePattern::path("/{room}").expect("a pattern"), ());
    let router = UrlRouter::build(vec![route]).expect("a table");
    let raw_path = format!("/{path}");
    let target = Target {
        raw_path: &raw_path,
        host: None,
        method: None,
    };
    let Resolution::Found(found) = router.resolve(&target) else {
        return;
    };
    let mut scope = Scope::new(
        ScopeType::Websocket,
        Method::GET,
        PathAndQuery::from_static("/"),
    );
    let value = found.params.get("room").expect("a value").to_owned();
    scope.url_route.params = found.params;
    let Ok(group) = parsed.group(&scope) else {
        return;
    };
    // The name is the pattern with the value in it, and a name.
    assert_eq!(group.as_str(), shown.replace("{room}", &value));
    assert!(GroupName::new(group.as_str()).is_ok());
}
