//! Rewrite: turns the addresses in an upstream's response into those that the client knows.

use http::{HeaderMap, HeaderValue, header};

use super::target::is_below;
use crate::http::location::is_own_path;

/// The fields that contain the URL of a resource.
const URL_FIELDS: [http::HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];

/// The addresses of a route's servers, and the prefix that the client sees before their paths.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnAddresses {
    /// Each with its port, in lower case: `127.0.0.1:9000`.
    authorities: Box<[String]>,
    /// The option `strip_prefix`, "" for none.
    prefix: Box<str>,
}

impl OwnAddresses {
    /// Takes the addresses of the servers, such as `http://127.0.0.1:9000`.
    pub(super) fn new<'u>(urls: impl IntoIterator<Item = &'u str>, prefix: &str) -> Self {
        let authority = |url: &str| {
            let (scheme, rest) = url.split_once("://")?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            Some(with_port(scheme, &rest[..end]))
        };
        Self {
            authorities: urls.into_iter().filter_map(authority).collect(),
            prefix: prefix.into(),
        }
    }

    /// Rewrites the `Location` and `Content-Location` of a response: a URL of a server becomes a
    /// path of this one, below the prefix that the client has requested.
    pub(super) fn rewrite_urls(&self, headers: &mut HeaderMap, root_path: &str) {
        for name in URL_FIELDS {
            let Some(value) = headers.get(&name) else {
                continue;
            };
            let rewritten = std::str::from_utf8(value.as_bytes())
                .ok()
                .and_then(|url| self.rewritten(url, root_path))
                .and_then(|url| HeaderValue::from_bytes(url.as_bytes()).ok());
            if let Some(rewritten) = rewritten {
                headers.insert(name, rewritten);
            }
        }
    }

    /// Returns the URL for the client; `None` if it stays.
    fn rewritten(&self, url: &str, root_path: &str) -> Option<String> {
        // Browsers drop tabs, which could join two slashes.
        if url.contains('\t') {
            return None;
        }
        let path = match self.path_of_own(url) {
            Some("") => "/".to_owned(),
            // A path that begins with two slashes would be another host.
            Some(path) if path.starts_with(['/', '\\']) => {
                format!("/{}", path.trim_start_matches(['/', '\\']))
            }
            Some(query) => format!("/{query}"),
            None if !self.prefix.is_empty() && is_own_path(url) => url.to_owned(),
            None => return None,
        };
        let whole = format!("{root_path}{}", self.prefix);
        let end = path.find(['?', '#']).unwrap_or(path.len());
        match self.prefix.is_empty() || is_below(&path[..end], &whole) {
            true => Some(path),
            false => Some(whole + &path),
        }
    }

    /// Returns what follows the authority in a URL of one of the servers.
    fn path_of_own<'u>(&self, url: &'u str) -> Option<&'u str> {
        let (scheme, rest) = match url.strip_prefix("//") {
            Some(rest) => ("http", rest),
            None => url.split_once("://")?,
        };
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let authority = with_port(scheme, &rest[..end]);
        let is_own = is_http && self.authorities.contains(&authority);
        is_own.then_some(&rest[end..])
    }

    /// Rewrites the cookies of a response: without `Domain`, they belong to the host that the
    /// client has requested, and their path gets the prefix.
    pub(super) fn rewrite_cookies(&self, headers: &mut HeaderMap, root_path: &str) {
        let cookies = headers.get_all(header::SET_COOKIE).iter();
        let cookies: Vec<HeaderValue> = cookies
            .filter_map(|cookie| {
                HeaderValue::from_bytes(&self.cookie(cookie.as_bytes(), root_path)).ok()
            })
            .collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
    }

    fn cookie(&self, cookie: &[u8], root_path: &str) -> Vec<u8> {
        let mut parts = cookie.split(|byte| *byte == b';');
        let mut rewritten = parts.next().unwrap_or_default().to_vec();
        for attribute in parts {
            let trimmed = attribute.trim_ascii();
            let at = trimmed.iter().position(|byte| *byte == b'=');
            let (name, value) = trimmed.split_at(at.unwrap_or(trimmed.len()));
            if name.trim_ascii().eq_ignore_ascii_case(b"domain") {
                continue;
            }
            rewritten.extend_from_slice(b";");
            let path = value.strip_prefix(b"=").map(<[u8]>::trim_ascii);
            match path.filter(|_| name.trim_ascii().eq_ignore_ascii_case(b"path")) {
                Some(path) if path.starts_with(b"/") && !self.prefix.is_empty() => {
                    let whole = format!("{root_path}{}", self.prefix);
                    let is_prefixed =
                        std::str::from_utf8(path).is_ok_and(|path| is_below(path, &whole));
                    rewritten.extend_from_slice(b" Path=");
                    if !is_prefixed {
                        rewritten.extend_from_slice(whole.as_bytes());
                    }
                    rewritten.extend_from_slice(path);
                }
                _ => rewritten.extend_from_slice(attribute),
            }
        }
        rewritten
    }
}

/// Returns an authority in lower case, with its port.
fn with_port(scheme: &str, authority: &str) -> String {
    let authority = authority.to_ascii_lowercase();
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.ends_with(']')) {
        return authority;
    }
    match scheme.eq_ignore_ascii_case("https") {
        true => authority + ":443",
        false => authority + ":80",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(prefix: &str) -> OwnAddresses {
        let urls = [
            "http://127.0.0.1:9000",
            "http://App",
            "https://[::1]",
            "h2c://b:81",
            "unix:run/a.sock",
        ];
        OwnAddresses::new(urls, prefix)
    }

    fn check(own: &OwnAddresses, root_path: &str, url: &'static str, expected: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_static(url));
        own.rewrite_urls(&mut headers, root_path);
        assert_eq!(headers[header::LOCATION], expected, "{url}");
    }

    #[test]
    fn urls_of_the_upstream_become_paths_and_others_stay() {
        let check = |url: &'static str, expected: &str| check(&own(""), "", url, expected);
        check("http://127.0.0.1:9000/login/?next=/#a", "/login/?next=/#a");
        check("HTTP://127.0.0.1:9000", "/");
        check("http://127.0.0.1:9000?a=b", "/?a=b");
        check("http://app/x", "/x");
        check("http://APP:80/x", "/x");
        check("https://[::1]/x", "/x");
        check("https://[::1]:443/x", "/x");
        check("http://b:81/x", "/x");
        check("//127.0.0.1:9000/x", "/x");
        for other in [
            "/login/",
            "x",
            "?a",
            "http://127.0.0.1:9001/",
            "http://127.0.0.1/",
            "http://127.0.0.1:9000@evil.test/",
            "http://127.0.0.1:9000.evil.test/",
            "https://app/x",
            "ftp://127.0.0.1:9000/",
            "//evil.test/",
            "https://example.com/http://127.0.0.1:9000/",
            "mailto:a@b",
        ] {
            check(other, other);
        }
    }

    /// Otherwise the upstream's `//` would lead to another host.
    #[test]
    fn a_rewritten_url_stays_on_this_host() {
        let check = |url: &'static str, expected: &str| check(&own(""), "", url, expected);
        check("http://127.0.0.1:9000//evil.test/", "/evil.test/");
        check("http://127.0.0.1:9000/\\evil.test/", "/evil.test/");
        check("http://127.0.0.1:9000\\evil.test/", "/evil.test/");
    }

    #[test]
    fn paths_get_the_prefix_that_was_removed() {
        let check = |root: &str, url: &'static str, expected: &str| {
            check(&own("/api"), root, url, expected);
        };
        check("", "/login/", "/api/login/");
        check("", "/", "/api/");
        check("", "http://127.0.0.1:9000/x", "/api/x");
        check("", "http://127.0.0.1:9000", "/api/");
        check("/sub", "/login/?a", "/sub/api/login/?a");
        // The application knows its prefix already.
        check("", "/api/login/", "/api/login/");
        check("", "/api", "/api");
        check("", "/api?a", "/api?a");
        check("", "http://127.0.0.1:9000/api/x", "/api/x");
        check("", "/apis/", "/api/apis/");
        check("", "//evil.test/", "//evil.test/");
        check("", "next/", "next/");
        check("", "https://example.com/x", "https://example.com/x");
    }

    #[test]
    fn cookies_lose_their_domain_and_get_the_prefix() {
        let check = |cookie: &'static str, expected: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
            headers.append(header::SET_COOKIE, HeaderValue::from_static("z=1"));
            own("/api").rewrite_cookies(&mut headers, "/sub");
            let cookies: Vec<&HeaderValue> = headers.get_all(header::SET_COOKIE).iter().collect();
            assert_eq!(cookies, [expected, "z=1"], "{cookie}");
        };
        check("a=1", "a=1");
        check("a=1; Path=/", "a=1; Path=/sub/api/");
        check("a=b=c; path=/x ;Secure", "a=b=c; Path=/sub/api/x;Secure");
        check("a=1; Path=/sub/api/x", "a=1; Path=/sub/api/x");
        check("a=1; Domain=app.internal; HttpOnly", "a=1; HttpOnly");
        check("a=1; DOMAIN = x; Path", "a=1; Path");
        check(
            "a=1; SameSite=Lax; Max-Age=5",
            "a=1; SameSite=Lax; Max-Age=5",
        );
    }
}
