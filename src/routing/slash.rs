//! Slash: the other form of a path's trailing slash, for requests that are not redirected to it.

use crate::routing::resolution::{Resolution, Target};
use crate::routing::router::UrlRouter;

impl<T> UrlRouter<T> {
    /// Returns the path with its trailing slash added or removed if a route matches that path, for
    /// any method. A WebSocket is not redirected, but its 404 can name the right path.
    ///
    /// ```
    /// use oneport::routing::{Route, RoutePattern, Target, UrlRouter};
    ///
    /// let router = UrlRouter::build(vec![Route::new(RoutePattern::path("/ws/{room}/")?, ())]).unwrap();
    /// let target = Target { raw_path: "/ws/lobby", host: None, method: None };
    /// assert_eq!(router.other_slash(&target).as_deref(), Some("/ws/lobby/"));
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    #[must_use]
    pub fn other_slash(&self, target: &Target<'_>) -> Option<String> {
        let raw_path = target.raw_path;
        let other = match raw_path.strip_suffix('/') {
            Some("") => return None,
            Some(without) => without.to_owned(),
            None => format!("{raw_path}/"),
        };
        let target = Target {
            raw_path: &other,
            method: None,
            ..*target
        };
        matches!(self.resolve(&target), Resolution::Found(_)).then_some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::tests::resolution::{get, route, with_host};

    #[test]
    fn the_other_form_is_known_where_a_route_takes_it() {
        let router = UrlRouter::build(vec![
            route("/ws/{room}/", ""),
            route("/bare", ""),
            route("/{x:int}", ""),
            with_host("other.test", route("/elsewhere/", "")),
        ])
        .unwrap();
        let check = |raw_path: &str, expected: Option<&str>| {
            let found = router.other_slash(&get(raw_path));
            assert_eq!(found.as_deref(), expected, "{raw_path}");
        };
        check("/ws/lobby", Some("/ws/lobby/"));
        check("/ws/l%20b", Some("/ws/l%20b/"));
        check("/bare/", Some("/bare"));
        check("/7/", Some("/7"));
        check("/x/", None);
        check("/elsewhere", None);
        check("/", None);
        check("", None);
        check("/%zz", None);
    }
}
